package protect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// A read-only mount restricts access through its path, but not through files that
// the guest opened before: virtiofsd keeps a descriptor of each file and directory
// whose inode the guest has cached, and opens it again for writing on demand,
// through the mount on which it was found. So after mounting, every daemon's
// descriptors are read. From then on no new descriptor can bypass the mounts.
//
// A descriptor leaves a protected path writable if it leads to a protected file, or
// into a protected directory, and is not on a read-only mount; or if it is a
// directory in the path of a protected file, under one of the mounts: a lookup from
// there does not meet the mounts.

// openLimit is how long requests may take that a daemon was handling when the paths
// were mounted.
const openLimit = 2 * time.Second

// waitForOpens waits until each thread of the token's daemons was seen waiting in a
// system call other than an open: then a file that it was opening when the paths were
// mounted has its descriptor, and its next open meets the mounts. It returns false
// for a daemon that is never seen so, or cannot be read.
func waitForOpens(daemons []mount.Copy) bool {
	in := map[string]bool{}
	for _, c := range daemons {
		in[c.NS] = true
	}
	busy := map[string]bool{}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if ns, err := os.Readlink(p + "/ns/mnt"); err != nil || !in[ns] {
			continue
		}
		threads, err := filepath.Glob(p + "/task/[0-9]*")
		if err != nil {
			return false
		}
		for _, t := range threads {
			busy[t] = true
		}
	}
	opens := []string{strconv.Itoa(unix.SYS_OPENAT), strconv.Itoa(unix.SYS_OPENAT2), strconv.Itoa(unix.SYS_OPEN_BY_HANDLE_AT)}
	for end := time.Now().Add(openLimit); ; time.Sleep(time.Millisecond) {
		for t := range busy {
			// proc_pid_syscall(5): the number of the system call in which it waits, or
			// "running".
			b, err := os.ReadFile(t + "/syscall")
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				delete(busy, t) // it ended
			}
			if err != nil {
				continue
			}
			number, _, waits := strings.Cut(string(b), " ")
			if waits && !slices.Contains(opens, number) {
				delete(busy, t)
			}
		}
		if len(busy) == 0 || time.Now().After(end) {
			return len(busy) == 0
		}
	}
}

// stillWritable returns the protected paths that a guest can still write through
// what its daemon has open, each with how: "open" or "mapped".
func stillWritable(o record.Bind, t mountinfo.Mount, daemons []mount.Copy) (map[string]string, error) {
	s := openScan{paths: readOnly(o.Protect), found: map[string]string{}}
	if err := s.listProtected(t); err != nil {
		return nil, err
	}
	test, err := virtiofsd.NewDaemonTest()
	if err != nil {
		return nil, err
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	// Another VM may share the folder, too, so all daemons are read. A daemon that
	// serves this token is found by its mount namespace, whichever of its processes
	// has the descriptors.
	in := map[string][]mount.Copy{}
	for _, c := range daemons {
		in[c.NS] = append(in[c.NS], c)
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return nil, err
		}
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil {
			continue // it ended
		}
		if len(in[ns]) == 0 && !test.StartedByLibvirt(pid) {
			continue
		}
		if err := s.process(p, in[ns]); err != nil && alive(p) {
			return nil, fmt.Errorf("reading the open files of %s: %w", p, err)
		}
	}
	return s.found, nil
}

func alive(proc string) bool {
	_, err := os.Stat(proc)
	return err == nil
}

// readOnly returns the paths that are mounted read-only, without the directories in
// their paths.
func readOnly(paths []string) []string {
	var out []string
	for _, p := range points(paths) {
		if p.ro {
			out = append(out, p.rel)
		}
	}
	return out
}

// A fileID identifies a file of this machine.
type fileID struct{ dev, ino uint64 }

// An openScan searches processes for open files that leave protected paths writable.
type openScan struct {
	paths []string          // the protected paths
	files map[fileID]string // each protected file, with the protected path it belongs to
	inos  map[uint64]bool   // inodes of files, to skip all others quickly
	found map[string]string // the writable paths, with how they are open
}

// maxCovered bounds the entries of protected directories that are read.
const maxCovered = 20000

// listProtected lists the protected files, and the files in protected directories.
func (s *openScan) listProtected(t mountinfo.Mount) error {
	s.files, s.inos = map[fileID]string{}, map[uint64]bool{}
	top, err := openTop(t.Point)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	return walkBelow(top, s.paths, maxCovered, func(_, of string, st *unix.Stat_t) error {
		s.files[fileID{st.Dev, st.Ino}] = of
		s.inos[st.Ino] = true
		return nil
	})
}

// process reads the descriptors and shared mappings of one process. tops are the
// token's mounts in its namespace.
func (s *openScan) process(proc string, tops []mount.Copy) error {
	var writable map[int]tokenMount // writable mounts of the token, by ID
	var table []mountinfo.Mount
	if len(tops) > 0 {
		var err error
		if table, err = mountinfo.Read(proc + "/mountinfo"); err != nil {
			return err
		}
		writable = map[int]tokenMount{}
		for _, c := range tops {
			for _, m := range append(mountinfo.Below(table, c.Top.Point), c.Top) {
				if !m.Has("ro") {
					writable[m.ID] = tokenMount{m, c.Top.Point}
				}
			}
		}
	}
	dir, err := os.Open(proc + "/fdinfo")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		mnt, ino, err := fdInfo(proc + "/fdinfo/" + n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed in between
		}
		if err != nil {
			return err
		}
		link := proc + "/fd/" + n
		if m, ok := writable[mnt]; ok {
			path, err := os.Readlink(link)
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				return err
			}
			if under(table, m.Mount, path) {
				s.addAround(m.top, path)
				continue
			}
		}
		if ino == 0 || s.inos[ino] {
			if err := s.addFile(link, "open"); err != nil {
				return err
			}
		}
	}
	return s.mappings(proc)
}

// addFile records a descriptor or mapping of a protected file that is not on a
// read-only mount.
func (s *openScan) addFile(link, how string) error {
	var st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil {
		return rootfile.IgnoreMissing(err)
	}
	of, ok := s.files[fileID{st.Dev, st.Ino}]
	if !ok {
		return nil
	}
	var mount unix.Statfs_t
	if err := unix.Statfs(link, &mount); err != nil {
		return rootfile.IgnoreMissing(err)
	}
	if mount.Flags&unix.ST_RDONLY == 0 {
		s.found[of] = how
	}
	return nil
}

// A tokenMount is a token's mount at top, or a mount on it.
type tokenMount struct {
	mountinfo.Mount
	top string
}

// under reports whether another mount on m covers the path, which is on m.
func under(table []mountinfo.Mount, m mountinfo.Mount, path string) bool {
	return slices.ContainsFunc(table, func(x mountinfo.Mount) bool {
		return x.Parent == m.ID && x.ID != m.ID && (path == x.Point || strings.HasPrefix(path, x.Point+"/"))
	})
}

// addAround records the protected paths that can be written through a descriptor of
// a path that one of the mounts covers: that path, the paths below it, and a
// protected directory that contains it. Lookups of paths above it meet the mounts,
// since ".." leads onto them.
func (s *openScan) addAround(top, path string) {
	rel, err := filepath.Rel(top, path)
	if err != nil {
		return
	}
	for _, p := range s.paths {
		if p == rel || strings.HasPrefix(p, rel+"/") || strings.HasPrefix(rel, p+"/") {
			s.found[p] = "open"
		}
	}
}

// mappings records shared mappings of protected files, from proc_pid_maps(5).
func (s *openScan) mappings(proc string) error {
	f, err := os.Open(proc + "/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		if len(w) < 5 || !strings.HasSuffix(w[1], "s") {
			continue
		}
		if ino, err := strconv.ParseUint(w[4], 10, 64); err != nil || !s.inos[ino] {
			continue
		}
		if err := s.addFile(proc+"/map_files/"+w[0], "mapped"); err != nil {
			return err
		}
	}
	return sc.Err()
}

// fdInfo reads the mount ID and inode of a descriptor (proc_pid_fdinfo(5)); the inode
// is 0 on kernels before 5.14, which do not report it.
func fdInfo(path string) (mnt int, ino uint64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	mnt = -1
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			mnt, err = strconv.Atoi(strings.TrimSpace(v))
		} else if v, ok := strings.CutPrefix(line, "ino:"); ok {
			ino, err = strconv.ParseUint(strings.TrimSpace(v), 10, 64)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", path, err)
		}
	}
	if mnt < 0 {
		return 0, 0, fmt.Errorf("%s has no mnt_id", path)
	}
	return mnt, ino, nil
}

// showsAll reports whether the process keeps a descriptor for every inode that the
// guest has cached, so that its descriptors show everything the guest can open. A
// virtiofsd that keeps file handles instead (--inode-file-handles; the default from
// 1.14 on) opens by them, on the mount on which a file was found, which /proc does
// not show.
func showsAll(c mount.Copy) bool {
	proc := fmt.Sprintf("/proc/%d", c.PID)
	b, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	const option = "--inode-file-handles"
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, option+"="); ok {
			return v == "never"
		}
		if a == option {
			return i+1 < len(args) && args[i+1] == "never"
		}
	}
	// The program is root's: libvirt started it, and StartedByRoot checked it.
	ctx, end := context.WithTimeout(context.Background(), 2*time.Second)
	defer end()
	out, err := exec.CommandContext(ctx, proc+"/exe", "--version").Output()
	return err == nil && keepsDescriptors(string(out))
}

// keepsDescriptors parses the output of "virtiofsd --version". QEMU's virtiofsd in C,
// "virtiofsd version 7.2.22 (Debian ...)", has no file handles; the one in Rust,
// "virtiofsd 1.13.2", uses them by default from 1.14 on.
func keepsDescriptors(version string) bool {
	w := strings.Fields(version)
	if i := slices.Index(w, "virtiofsd"); i < 0 || i+1 >= len(w) {
		return false
	} else if w = w[i+1:]; w[0] == "version" {
		return true
	} else if w[0] == "backend" && len(w) > 1 {
		w = w[1:]
	}
	major, rest, ok := strings.Cut(w[0], ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return ok && err == nil && major == "1" && n < 14
}
