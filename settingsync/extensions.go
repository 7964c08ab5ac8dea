package settingsync

import (
	"encoding/json"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/lazyre"
)

// extensionID is publisher.name; such an id is an argument in the guest, so
// nothing else passes.
var extensionID = lazyre.New(`^[A-Za-z0-9][A-Za-z0-9-]*\.[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ValidExtension reports whether an id can be one.
func ValidExtension(id string) bool { return len(id) < 200 && extensionID.MatchString(id) }

// Recommended reads the extensions a folder recommends. The folder may be a
// guest's to write: no link is followed, and only ids come out.
func Recommended(folder string) []string {
	b, err := hostfile.Read(folder+"/.vscode/extensions.json", 1<<20)
	if err != nil {
		return nil // there is none, or nothing to believe
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

// extensions compares what is to be installed with what a server has. Where no
// server is there yet, the next launch sees to it.
func (r *Round) extensions(w *Wanted, g Guest) {
	for _, e := range w.servers() {
		known := g.Manifest.Ext[e.Server]
		missing := without(w.Extensions, known)
		if len(missing) == 0 || !g.Served[e.Server] {
			continue
		}
		if !g.Full {
			r.Unsure = true
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
		r.once("recommended "+strings.Join(more, ","), "the folder recommends extensions; nothing of that is installed unless you say so: --extensions "+strings.Join(append(slices.Clone(w.Extensions), more...), ","))
	}
}

// without returns the ids that are not among others; case does not count.
func without(ids, others []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.ContainsFunc(others, func(o string) bool { return strings.EqualFold(o, id) }) {
			out = append(out, id)
		}
	}
	return out
}
