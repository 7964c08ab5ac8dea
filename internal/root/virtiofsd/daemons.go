// Package virtiofsd finds the virtiofsd processes that serve folders to libvirt's
// VMs. It reads /proc and libvirt's pid files, and changes nothing.
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

// Only properties that root alone can set identify a process as a VM's virtiofsd.
// The user who starts a process chooses its name and arguments, and, in a user
// namespace, its mounts: these can only exclude a process.

// LibvirtState is the directory in which libvirt writes pid files of the processes
// it starts for its VMs: "6-NAME-fs0-fs.pid". Only root can write there.
const LibvirtState = "/run/libvirt/qemu"

// A daemonTest recognises the daemons of libvirt's VMs, as of the moment it was
// made.
type daemonTest struct {
	Userns  string       // this process's user namespace
	started map[int]bool // process numbers in libvirt's pid files
}

// NewDaemonTest reads libvirt's pid files.
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
		return d, fmt.Errorf("users other than root can change directory %s", LibvirtState)
	}
	// A file that cannot be read now belongs to a VM that is starting or stopping.
	pids, _ := LibvirtPIDs("*.pid")
	for _, pid := range pids {
		d.started[pid] = true
	}
	return d, nil
}

// LibvirtPIDs returns the process numbers in libvirt's pid files whose names match
// the pattern, and an error that names the first file without a number. It does
// not check that the process still runs and is the one that libvirt started.
func LibvirtPIDs(pattern string) (pids []int, err error) {
	files, err := filepath.Glob(filepath.Join(LibvirtState, pattern))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, rerr := os.ReadFile(f)
		if errors.Is(rerr, fs.ErrNotExist) {
			continue // the VM was stopped in between
		}
		pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
		switch {
		case rerr == nil && perr == nil && pid > 1:
			pids = append(pids, pid)
		case err != nil:
		case rerr != nil:
			err = rerr
		default:
			err = fmt.Errorf("%s: %q is not a process number", f, b)
		}
	}
	return pids, err
}

// StartedByRoot reports whether the process is a virtiofsd that root started in
// this process's user namespace.
func (d daemonTest) StartedByRoot(pid int) bool {
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
	// A setuid program (sudo, su) can be started under any name.
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

// StartedByLibvirt reports whether libvirt started the virtiofsd, or its parent:
// virtiofsd serves from a child process in a PID namespace.
func (d daemonTest) StartedByLibvirt(pid int) bool {
	if !d.StartedByRoot(pid) {
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
	return err == nil && d.started[p] && d.StartedByRoot(p)
}

// Serves reports whether the command line of the process names this export root,
// or a token below it, as the directory to serve. Any process can have such a
// command line.
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

// StatusField returns the words of one line of /proc/PID/status
// (proc_pid_status(5)).
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

// nsGetUserns is NS_GET_USERNS, which returns the user namespace that owns a
// namespace (ioctl_ns(2)).
const nsGetUserns = 0xb701

// OwnsMounts reports whether user namespace userns owns ns, the mount namespace of
// the process. In any other user namespace a user decides what is mounted, and a
// process that enters it can block on that user's file systems.
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
		return false, nil // not visible from this user namespace, so another one
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(owner)
	return name(owner) == userns, nil
}
