package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// A Copy is a token's mount in another mount namespace: that of a virtiofsd, or of
// any service that has its own mount namespace.
type Copy struct {
	PID           int    // a process in the namespace
	NS            string // the namespace, as /proc/PID/ns/mnt links to it
	Daemon        bool   // the process is a virtiofsd that libvirt started and that serves this token
	RootVirtiofsd bool   // the process is a virtiofsd of root's that names the token, whoever started it
	Top           mountinfo.Mount
	Below         []mountinfo.Mount // mounts on it, parents first
}

// In runs f in the copy's mount namespace.
func (c Copy) In(f func() error) error { return InNamespace(c.PID, c.NS, f) }

// Copies finds the mounts of token t in all other mount namespaces that belong to
// this process's user namespace. It recognises them by device and root directory,
// and by their parent: a copy of the export's mount, or, where a daemon serves only
// this token, none.
//
// It skips mount namespaces of other user namespaces, which users make. No guest
// can access their copies of a token, and root cannot safely unmount them.
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
	ownUserns := map[string]bool{} // by mount namespace
	found := map[string][]Copy{}
	for _, p := range procs {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || ns == own {
			continue // it has ended, or is in this process's namespace
		}
		if _, known := ownUserns[ns]; !known {
			o, err := virtiofsd.OwnsMounts(p, ns, test.Userns)
			if err != nil {
				continue // it ended; the next process in this namespace is asked
			}
			ownUserns[ns] = o
		}
		if !ownUserns[ns] {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return nil, fmt.Errorf("process %s: %w", p, err)
		}
		rootVirtiofsd := virtiofsd.Serves(p, export.Point) && test.StartedByRoot(pid)
		daemon := rootVirtiofsd && test.StartedByLibvirt(pid)
		if old := found[ns]; len(old) > 0 && (old[0].Daemon || !daemon && (old[0].RootVirtiofsd || !rootVirtiofsd)) {
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
			if !(rootVirtiofsd && m.Point == "/") && !LiesOnCopy(table, m, group) {
				continue
			}
			here = append(here, Copy{PID: pid, NS: ns, Daemon: daemon, RootVirtiofsd: rootVirtiofsd, Top: m, Below: mountinfo.Below(table, m.Point)})
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

// LiesOnCopy reports whether the parent of m is in this peer group, or a slave of
// it; group 0 means no group.
func LiesOnCopy(table []mountinfo.Mount, m mountinfo.Mount, group int) bool {
	parent, ok := mountinfo.ByID(table, m.Parent)
	if !ok || group == 0 {
		return false
	}
	shared, _ := parent.Shared()
	master, _ := parent.Master()
	return shared == group || master == group
}
