package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// A Copy is a token's mount in another mount namespace: virtiofsd's, or that
// of any service with a view of its own of this machine.
type Copy struct {
	PID    int    // a process in it
	NS     string // which it is
	Daemon bool   // virtiofsd, started by libvirt, serving this token to a guest
	Roots  bool   // virtiofsd of root's that names the token, whoever started it
	Top    mountinfo.Mount
	Below  []mountinfo.Mount // on it, parents first
}

// In runs f in the namespace.
func (c Copy) In(f func() error) error { return InNamespace(c.PID, c.NS, f) }

// Copies finds the token t in all other mount namespaces that belong to this
// machine's own user namespace. It is known by what it shows and by what it lies
// on: the export's own copy, or, where a daemon serves this token alone, nothing.
//
// The namespaces of users are passed over. What they hold of a token no guest
// can reach, and they let nobody take it away.
func Copies(t, export mountinfo.Mount) ([]Copy, error) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	test, err := virtiofsd.NewDaemonTest()
	if err != nil {
		return nil, err
	}
	group, _ := export.Shared()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	ours := map[string]bool{} // by namespace
	found := map[string][]Copy{}
	for _, p := range procs {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || ns == own {
			continue // it ended meanwhile, or sees what we see
		}
		if _, known := ours[ns]; !known {
			o, err := virtiofsd.OwnsMounts(p, ns, test.Userns)
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
		roots := virtiofsd.Serves(p, export.Point) && test.Roots(pid)
		daemon := roots && test.Libvirts(pid)
		if old := found[ns]; len(old) > 0 && (old[0].Daemon || !daemon && (old[0].Roots || !roots)) {
			continue
		}
		table, err := mountinfo.Read(p + "/mountinfo")
		if err != nil {
			continue
		}
		var here []Copy // more than one where /var/lib, or a directory above, is mounted twice
		for _, m := range table {
			if m.Dev != t.Dev || m.Root != t.Root || !m.Has("nosuid") || !m.Has("nodev") || m.Has("idmapped") != t.Has("idmapped") {
				continue
			}
			if !(roots && m.Point == "/") && !LiesOnCopy(table, m, group) {
				continue
			}
			here = append(here, Copy{PID: pid, NS: ns, Daemon: daemon, Roots: roots, Top: m, Below: mountinfo.Below(table, m.Point)})
		}
		if len(here) > 0 {
			found[ns] = here
		}
	}
	var out []Copy
	for _, cs := range found {
		out = append(out, cs...)
	}
	return out, nil
}

// LiesOnCopy reports whether m lies on a mount of this peer group, or on one that
// receives from it; group 0 is none.
func LiesOnCopy(table []mountinfo.Mount, m mountinfo.Mount, group int) bool {
	parent, ok := mountinfo.ByID(table, m.Parent)
	if !ok || group == 0 {
		return false
	}
	shared, _ := parent.Shared()
	master, _ := parent.Master()
	return shared == group || master == group
}
