package settingsync

import (
	"encoding/json"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/lazyre"
)

// extensionID matches PUBLISHER.NAME. An id becomes a command argument in the guest, so nothing
// else is accepted.
var extensionID = lazyre.New(`^[A-Za-z0-9][A-Za-z0-9-]*\.[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ValidExtension reports whether id has the form of an extension id.
func ValidExtension(id string) bool { return len(id) < 200 && extensionID.MatchString(id) }

// Recommended reads the extensions a folder recommends. A guest may be able to write the folder, so
// no symbolic link is followed, and only valid ids are returned.
func Recommended(folder string) []string {
	b, err := hostfile.Read(folder+"/.vscode/extensions.json", 1<<20)
	if err != nil {
		return nil // the file does not exist or cannot be trusted
	}
	n, err := parseObject(string(b))
	if err != nil {
		return nil
	}
	m := n.find("recommendations")
	if m == nil || m.val.kind != '[' {
		return nil
	}
	var ids []string
	if json.Unmarshal([]byte(m.val.plain(string(b))), &ids) != nil {
		return nil
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !ValidExtension(id) })
	return ids[:min(len(ids), 30)]
}

// extensions compares the wanted extensions with those of each editor server in the guest. An
// editor without a server is handled at the next launch.
func (r *Round) extensions(w *Wanted, g Guest) {
	for _, e := range w.servers() {
		known := g.Manifest.Ext[e.Server]
		missing := without(w.Extensions, known)
		if len(missing) == 0 || !g.HasServer[e.Server] {
			continue
		}
		if !g.Detailed {
			r.NeedsDetail = true
			return
		}
		var have []string
		for _, dir := range g.Extensions[e.Server] {
			// publisher.name-1.2.3, publisher.name-1.2.3-linux-x64
			for i, c := range dir {
				if c == '-' && i+1 < len(dir) && dir[i+1] >= '0' && dir[i+1] <= '9' && ValidExtension(dir[:i]) {
					have = append(have, dir[:i])
				}
			}
		}
		if lacking := without(missing, have); len(lacking) > 0 {
			if g.Servers[e.Server] != "" {
				r.Install = append(r.Install, Install{e.Name, g.Servers[e.Server], lacking})
			}
			continue
		}
		r.manifest.Ext[e.Server] = append(slices.Clone(known), missing...)
		r.changed = true
	}
	if more := without(w.Recommended, w.Extensions); len(more) > 0 {
		r.noteOnce("recommended "+strings.Join(more, ","), "the folder recommends extensions that are not installed; to install them: --extensions "+strings.Join(append(slices.Clone(w.Extensions), more...), ","))
	}
}

// without returns the ids that are not in others, ignoring case.
func without(ids, others []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.ContainsFunc(others, func(o string) bool { return strings.EqualFold(o, id) }) {
			out = append(out, id)
		}
	}
	return out
}
