// Package virtiofsd tells the daemons that serve folders to libvirt's VMs from all
// other processes. It reads /proc and libvirt's pid files, and changes nothing.
package virtiofsd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A process is believed to be a VM's virtiofsd by what only root can give it.
// Its name and its arguments are whatever the user who started it wrote, and so
// are its mounts where it has a user namespace of its own: they can only rule a
// process out.

// LibvirtState is where libvirt writes the process numbers of what it started
// for its VMs: "6-NAME-fs0-fs.pid". Only root can write there.
const LibvirtState = "/run/libvirt/qemu"

// A daemonTest tells the daemons of libvirt's VMs from all other processes, as
// of the moment it was made.
type daemonTest struct {
	Userns  string       // our own user namespace
	started map[int]bool // what libvirt says it started
}

// NewDaemonTest reads what libvirt has started by now.
func NewDaemonTest() (daemonTest, error) {
	d := daemonTest{started: map[int]bool{}}
	var err error
	if d.Userns, err = os.Readlink("/proc/self/ns/user"); err != nil {
		return d, err
	}
	var st unix.Stat_t
	err = unix.Lstat(LibvirtState, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return d, fmt.Errorf("reading %s: %w", LibvirtState, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 || st.Mode&0o022 != 0 {
		return d, fmt.Errorf("directory %s can be changed by others than root", LibvirtState)
	}
	// A file that cannot be read now is of a VM that is starting or stopping.
	pids, _ := LibvirtPIDs("*.pid")
	for _, pid := range pids {
		d.started[pid] = true
	}
	return d, nil
}

// LibvirtPIDs returns the process numbers in those of libvirt's pid files whose
// name matches, and an error that names the first one without a number. Whether
// such a process still runs, and is what libvirt started, is not checked.
func LibvirtPIDs(pattern string) (pids []int, err error) {
	files, err := filepath.Glob(filepath.Join(LibvirtState, pattern))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, rerr := os.ReadFile(f)
		if errors.Is(rerr, fs.ErrNotExist) {
			continue // that VM was stopped meanwhile
		}
		pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
		switch {
		case rerr == nil && perr == nil && pid > 1:
			pids = append(pids, pid)
		case err != nil:
		case rerr != nil:
			err = rerr
		default:
			err = fmt.Errorf("%s: %q is no process number", f, b)
		}
	}
	return pids, err
}

// Roots reports whether the process is a virtiofsd that root started in our own
// user namespace.
func (d daemonTest) Roots(pid int) bool {
	proc := fmt.Sprintf("/proc/%d", pid)
	ids, err := StatusField(proc, "Uid:")
	if err != nil || len(ids) != 4 {
		return false
	}
	for _, id := range ids {
		if id != "0" {
			return false
		}
	}
	if ns, err := os.Readlink(proc + "/ns/user"); err != nil || ns != d.Userns {
		return false
	}
	// A program that gives root's rights to whoever starts it (sudo, su) can be
	// started under any name.
	exe, err := os.Readlink(proc + "/exe")
	if err != nil || filepath.Base(strings.TrimSuffix(exe, " (deleted)")) != "virtiofsd" {
		return false
	}
	var st unix.Stat_t
	if err := unix.Stat(proc+"/exe", &st); err != nil {
		return false
	}
	return st.Uid == 0 && st.Mode&(0o022|unix.S_ISUID|unix.S_ISGID) == 0
}

// Libvirts reports whether libvirt started the process, or its parent did whom
// libvirt started: virtiofsd serves from a child in a process namespace of its
// own.
func (d daemonTest) Libvirts(pid int) bool {
	if !d.Roots(pid) {
		return false
	}
	if d.started[pid] {
		return true
	}
	parent, err := StatusField(fmt.Sprintf("/proc/%d", pid), "PPid:")
	if err != nil || len(parent) != 1 {
		return false
	}
	p, err := strconv.Atoi(parent[0])
	return err == nil && d.started[p] && d.Roots(p)
}

// Serves reports whether the process says on its command line that it serves
// this export root or a token below it. Any process can say so.
func Serves(proc, export string) bool {
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

// StatusField reads the words of one line of proc_pid_status(5).
func StatusField(proc, name string) ([]string, error) {
	b, err := os.ReadFile(proc + "/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.Fields(v), nil
		}
	}
	return nil, fmt.Errorf("%s/status has no %s", proc, name)
}

// nsGetUserns asks which user namespace a namespace belongs to (ioctl_ns(2)).
const nsGetUserns = 0xb701

// OwnsMounts reports whether the mount namespace ns, in which the process is,
// belongs to the user namespace userns. In any other, a user decides what is
// mounted where, and whoever enters it waits for his file systems.
func OwnsMounts(proc, ns, userns string) (bool, error) {
	name := func(fd int) string {
		s, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		return s
	}
	fd, err := unix.Open(proc+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if name(fd) != ns {
		return false, fmt.Errorf("%s was replaced by another process", proc)
	}
	owner, err := unix.IoctlRetInt(fd, nsGetUserns)
	if errors.Is(err, unix.EPERM) {
		return false, nil // it is out of our sight, so not our own
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(owner)
	return name(owner) == userns, nil
}
