package root

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// A copyOf is a token's mount in another mount namespace: virtiofsd's, or that
// of any service with a view of its own of this machine.
type copyOf struct {
	pid    int    // a process in it
	ns     string // which it is
	daemon bool   // virtiofsd, started by libvirt, serving this token to a guest
	roots  bool   // virtiofsd of root's that names the token, whoever started it
	top    mountinfo.Mount
	below  []mountinfo.Mount // on it, parents first
}

// in runs f in the namespace.
func (c copyOf) in(f func() error) error { return inNamespace(c.pid, c.ns, f) }

// copies finds the token t in all other mount namespaces that belong to this
// machine's own user namespace. It is known by what it shows and by what it lies
// on: the export's own copy, or, where a daemon serves this token alone, nothing.
//
// The namespaces of users are passed over. What they hold of a token no guest
// can reach, and they let nobody take it away.
func copies(t, export mountinfo.Mount) ([]copyOf, error) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	test, err := newDaemonTest()
	if err != nil {
		return nil, err
	}
	group, _ := export.Shared()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	ours := map[string]bool{} // by namespace
	found := map[string][]copyOf{}
	for _, p := range procs {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || ns == own {
			continue // it ended meanwhile, or sees what we see
		}
		if _, known := ours[ns]; !known {
			o, err := ownsMounts(p, ns, test.userns)
			if err != nil {
				continue // it ended; another process in there will be asked
			}
			ours[ns] = o
		}
		if !ours[ns] {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return nil, fmt.Errorf("process %s: %w", p, err)
		}
		roots := serves(p, export.Point) && test.roots(pid)
		daemon := roots && test.libvirts(pid)
		if old := found[ns]; len(old) > 0 && (old[0].daemon || !daemon && (old[0].roots || !roots)) {
			continue
		}
		table, err := mountinfo.Read(p + "/mountinfo")
		if err != nil {
			continue
		}
		var here []copyOf // more than one where /var/lib, or a directory above, is mounted twice
		for _, m := range table {
			if m.Dev != t.Dev || m.Root != t.Root || !m.Has("nosuid") || !m.Has("nodev") || m.Has("idmapped") != t.Has("idmapped") {
				continue
			}
			if !(roots && m.Point == "/") && !liesOnCopy(table, m, group) {
				continue
			}
			here = append(here, copyOf{pid: pid, ns: ns, daemon: daemon, roots: roots, top: m, below: mountinfo.Below(table, m.Point)})
		}
		if len(here) > 0 {
			found[ns] = here
		}
	}
	var out []copyOf
	for _, cs := range found {
		out = append(out, cs...)
	}
	return out, nil
}

func liesOnCopy(table []mountinfo.Mount, m mountinfo.Mount, group int) bool {
	parent, ok := mountinfo.ByID(table, m.Parent)
	if !ok || group == 0 {
		return false
	}
	shared, _ := parent.Shared()
	master, _ := parent.Master()
	return shared == group || master == group
}
