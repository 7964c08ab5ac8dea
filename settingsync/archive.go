package settingsync

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
)

// Statuses of Script.
const (
	StatusDone    = 0
	StatusChanged = 7 // what is to be replaced is not what was seen
)

// Script unpacks an archive on its stdin into a directory of its own below the
// guest's home and lets the archive's own steps run. One at a time: what an
// earlier run left when it was killed is removed under the lock.
const Script = `umask 077
cd || exit 1
mkdir -p ` + stateDir + ` && exec 9>` + stateDir + `/lock && flock -w 60 9 || exit 1
rm -rf ` + stateDir + `/in.*
d=$(mktemp -d ` + stateDir + `/in.XXXXXX) || exit 1
trap 'rm -rf "$d"' EXIT
trap 'exit 1' HUP INT TERM
tar -xpf - -C "$d" || exit 1
. "./$d/steps"
`

// Failed is what the guest could not do: lines "failed WHAT" on its stdout.
func Failed(stdout string) []string {
	var out []string
	for line := range strings.Lines(stdout) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(line), "failed "); ok {
			out = append(out, what)
		}
	}
	return out
}

// Archive is everything that has to be sent, as one tar stream: the files by
// the directory they go to, the steps as a script, the new manifest. failed
// names places a first try could not write; they are left out, so that the
// manifest says what is true.
func (r *Round) Archive(failed map[string]bool) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	put := func(name string, mode int64, at time.Time, link string, data []byte) error {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(data)), ModTime: at, Typeflag: tar.TypeReg, Format: tar.FormatGNU}
		if link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, link, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(data)
		return err
	}
	var steps, expect, absent, dirs, aside, moves, prune strings.Builder
	groups := map[string]int{}
	members := map[string][]string{}
	var order []string
	add := func(guest string, mode int64, at time.Time, link string, data []byte) error {
		dir := path.Dir(guest)
		n, ok := groups[dir]
		if !ok {
			n = len(groups)
			groups[dir] = n
			order = append(order, dir)
		}
		name := fmt.Sprintf("%d/%s", n, path.Base(guest))
		members[dir] = append(members[dir], name)
		return put(name, mode, at, link, data)
	}
	q := func(p string) string { return shellescape.Quote(guestPath(p)) }
	missing := func(p string) {
		fmt.Fprintf(&absent, "[ ! -e %s ] && [ ! -L %[1]s ] || exit %d\n", q(p), StatusChanged)
	}
	for _, f := range r.files {
		if failed[path.Dir(f.Guest)] {
			continue
		}
		switch {
		case f.now == nil:
			missing(f.Guest)
		case f.now.Type == 'f' && len(f.now.Sum) == 64:
			// The NUL form knows no escapes in names.
			expect.WriteString(f.now.Sum + "  " + guestPath(f.Guest) + "\n")
		case f.now.Type == 'l':
			fmt.Fprintf(&absent, "[ \"$(readlink %s)\" = %s ] || exit %d\n", q(f.Guest), shellescape.Quote(strings.TrimPrefix(f.now.Sum, "-> ")), StatusChanged)
		}
		if f.backup {
			b := shellescape.Quote(guestPath(f.Guest) + ".aivm-" + r.stamp)
			fmt.Fprintf(&aside, "ln -P -- %s %s || cp -P -p -- %[1]s %[2]s || exit 1\n", q(f.Guest), b)
			fmt.Fprintf(&prune, "set -- %s.aivm-[0-9]*T[0-9]*Z\nwhile [ $# -gt 3 ]; do rm -f -- \"$1\"; shift; done\n", q(f.Guest))
		}
		if err := add(f.Guest, int64(f.Mode.Perm()), f.Time, f.Link, f.Data); err != nil {
			return nil, err
		}
	}
	for _, m := range r.merges {
		if failed[path.Dir(m.target)] {
			continue
		}
		if m.there {
			expect.WriteString(sum([]byte(m.was)) + "  " + guestPath(m.target) + "\n")
		} else {
			missing(m.target)
			fmt.Fprintf(&dirs, "mkdir -p -m 755 -- %s || echo failed %s\n", q(path.Dir(m.target)), shellescape.Quote(path.Dir(m.target)))
		}
		if err := add(m.target, 0o600, r.now, "", []byte(m.text)); err != nil {
			return nil, err
		}
	}
	for _, d := range r.dirs {
		fmt.Fprintf(&dirs, "[ -d %s ] || mkdir -m %o -- %[1]s || echo failed %s\n", q(d.Guest), d.Mode.Perm(), shellescape.Quote(d.Guest))
	}
	for _, dir := range order {
		fmt.Fprintf(&moves, "mv -f -t %s --", q(dir))
		for _, name := range members[dir] {
			moves.WriteString(" \"$d\"/" + shellescape.Quote(name))
		}
		moves.WriteString(" || echo failed " + shellescape.Quote(dir) + "\n")
	}
	if expect.Len() > 0 {
		if err := put("expect", 0o600, r.now, "", []byte(expect.String())); err != nil {
			return nil, err
		}
		fmt.Fprintf(&steps, "sha256sum --status -c \"$d/expect\" || exit %d\n", StatusChanged)
	}
	steps.WriteString(absent.String() + dirs.String() + aside.String() + moves.String() + prune.String())
	man := r.manifest
	man.Files = map[string]Entry{}
	for k, v := range r.manifest.Files {
		if !failed[path.Dir(k)] {
			man.Files[k] = v
		}
	}
	b, err := json.Marshal(man)
	if err != nil {
		return nil, err
	}
	if err := put("sync", 0o600, r.now, "", append(b, 0)); err != nil {
		return nil, err
	}
	if len(man.Files) > 0 {
		steps.WriteString("find")
		for _, p := range slices.Sorted(maps.Keys(man.Files)) {
			steps.WriteString(" " + q(p))
		}
		steps.WriteString(" -maxdepth 0 -type f -printf 'S" + statFormat + " %p\\0' >>\"$d/sync\" 2>/dev/null\n")
	}
	steps.WriteString("mv -f -- \"$d/sync\" " + stateFile + " || exit 1\n")
	if err := put("steps", 0o600, r.now, "", []byte(steps.String())); err != nil {
		return nil, err
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
