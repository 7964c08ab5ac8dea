package root

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// A copyOf is a token's mount in another mount namespace: virtiofsd's, or that
// of any service with a view of its own of this machine.
type copyOf struct {
	pid    int    // a process in it
	ns     string // which it is
	daemon bool   // virtiofsd, serving this token to a guest
	top    mountinfo.Mount
	below  []mountinfo.Mount // on it, parents first
}

// in runs f in the namespace.
func (c copyOf) in(f func() error) error { return inNamespace(c.pid, c.ns, f) }

// copies finds the token t in all other mount namespaces. It is known by what
// it shows and by what it lies on: the export's own copy, or, where a daemon
// serves this token alone, nothing.
func copies(t, export mountinfo.Mount) ([]copyOf, error) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	group, _ := export.Shared()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := map[string]copyOf{}
	for _, p := range procs {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || ns == own {
			continue // it ended meanwhile, or sees what we see
		}
		daemon := serves(p, export.Point)
		if old, ok := found[ns]; ok && (old.daemon || !daemon) {
			continue
		}
		table, err := mountinfo.Read(p + "/mountinfo")
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return nil, fmt.Errorf("process %s: %w", p, err)
		}
		for _, m := range table {
			if m.Dev != t.Dev || m.Root != t.Root || !m.Has("nosuid") || !m.Has("nodev") || m.Has("idmapped") != t.Has("idmapped") {
				continue
			}
			if !(daemon && m.Point == "/") && !liesOnCopy(table, m, group) {
				continue
			}
			found[ns] = copyOf{pid: pid, ns: ns, daemon: daemon, top: m, below: mountinfo.Below(table, m.Point)}
		}
	}
	var out []copyOf
	for _, c := range found {
		out = append(out, c)
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

// serves reports whether the process is a virtiofsd for this export root or a
// token below it: libvirt says which on its command line.
func serves(proc, export string) bool {
	comm, err := os.ReadFile(proc + "/comm")
	if err != nil || strings.TrimSpace(string(comm)) != "virtiofsd" {
		return false
	}
	args, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return false
	}
	for arg := range strings.SplitSeq(string(args), "\x00") {
		for part := range strings.SplitSeq(arg, ",") {
			dir := strings.TrimPrefix(strings.TrimPrefix(part, "source="), "--shared-dir=")
			if dir == export || strings.HasPrefix(dir, export+"/") {
				return true
			}
		}
	}
	return false
}
