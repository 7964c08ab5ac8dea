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

// A read-only mount stops who comes by its path. It does not stop what the
// guest opened before the mount was there: virtiofsd keeps a descriptor of each
// file and directory the guest remembers and opens it again for writing on
// demand, through the mount by which it was found. So after the mounts are in
// place, every daemon's descriptors are read; from then on no new one can come
// that goes past them.
//
// A descriptor is a hole if it leads to a protected file, or to anything in a
// protected directory, and is not on a read-only mount; or if it lies under one
// of the mounts, at a directory on the way to a protected file: what is found
// from there is found without them.

// flightLimit is how long the requests that were on their way when the mounts
// came may take.
const flightLimit = 2 * time.Second

// landed waits until each thread of the token's daemons has been seen to wait
// for something that is not the end of an open: what it was opening when the
// mounts came has its descriptor by then, and what it opens next meets them. It
// is false for a daemon that is never seen so, or that cannot be looked at.
func landed(daemons []mount.Copy) bool {
	in := map[string]bool{}
	for _, c := range daemons {
		in[c.NS] = true
	}
	todo := map[string]bool{}
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
			todo[t] = true
		}
	}
	opens := []string{strconv.Itoa(unix.SYS_OPENAT), strconv.Itoa(unix.SYS_OPENAT2), strconv.Itoa(unix.SYS_OPEN_BY_HANDLE_AT)}
	for end := time.Now().Add(flightLimit); ; time.Sleep(time.Millisecond) {
		for t := range todo {
			// proc_pid_syscall(5): the number of the call in which it waits, or
			// "running".
			b, err := os.ReadFile(t + "/syscall")
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				delete(todo, t) // it ended
			}
			if err != nil {
				continue
			}
			number, _, waits := strings.Cut(string(b), " ")
			if waits && !slices.Contains(opens, number) {
				delete(todo, t)
			}
		}
		if len(todo) == 0 || time.Now().After(end) {
			return len(todo) == 0
		}
	}
}

// held says which of the protected paths a guest can still write, and how.
func held(o record.Bind, t mountinfo.Mount, daemons []mount.Copy) (map[string]string, error) {
	h := holes{paths: readOnly(o.Protect), found: map[string]string{}}
	if err := h.wanted(t); err != nil {
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
	// The folder may be in another VM's reach, too: all daemons are asked. A
	// daemon that serves this token is found by its namespace, whoever of its
	// processes has the descriptors.
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
		if len(in[ns]) == 0 && !test.Libvirts(pid) {
			continue
		}
		if err := h.process(p, in[ns]); err != nil && alive(p) {
			return nil, fmt.Errorf("reading what %s holds open: %w", p, err)
		}
	}
	return h.found, nil
}

func alive(proc string) bool {
	_, err := os.Stat(proc)
	return err == nil
}

// readOnly are the paths that nobody in the guest may write, without the
// directories on the way to them.
func readOnly(paths []string) []string {
	var out []string
	for _, p := range points(paths) {
		if p.ro {
			out = append(out, p.rel)
		}
	}
	return out
}

// A fileID is a file of this machine.
type fileID struct{ dev, ino uint64 }

type holes struct {
	paths []string          // the protected ones
	files map[fileID]string // what must not be held: to the protected path it belongs to
	inos  map[uint64]bool   // the same, to pass over all others quickly
	found map[string]string
}

// maxCovered bounds the entries of protected directories that are looked at.
const maxCovered = 20000

// wanted lists the protected files, and what is in the protected directories.
func (h *holes) wanted(t mountinfo.Mount) error {
	h.files, h.inos = map[fileID]string{}, map[uint64]bool{}
	top, err := openTop(t.Point)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	return walkBelow(top, h.paths, maxCovered, func(_, of string, st *unix.Stat_t) error {
		h.files[fileID{st.Dev, st.Ino}] = of
		h.inos[st.Ino] = true
		return nil
	})
}

// process reads what one process holds: descriptors, and files it has mapped
// for others to see. tops are the token's mounts in its namespace.
func (h *holes) process(proc string, tops []mount.Copy) error {
	var on map[int]seenMount // what of the token can be written
	var table []mountinfo.Mount
	if len(tops) > 0 {
		var err error
		if table, err = mountinfo.Read(proc + "/mountinfo"); err != nil {
			return err
		}
		on = map[int]seenMount{}
		for _, c := range tops {
			for _, m := range append(mountinfo.Below(table, c.Top.Point), c.Top) {
				if !m.Has("ro") {
					on[m.ID] = seenMount{m, c.Top.Point}
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
			continue // closed meanwhile
		}
		if err != nil {
			return err
		}
		link := proc + "/fd/" + n
		if m, ok := on[mnt]; ok {
			path, err := os.Readlink(link)
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				return err
			}
			if under(table, m.Mount, path) {
				h.around(m.top, path)
				continue
			}
		}
		if ino == 0 || h.inos[ino] {
			if err := h.file(link, "open"); err != nil {
				return err
			}
		}
	}
	return h.mapped(proc)
}

// file notes a descriptor or mapping of a protected file that goes past the
// mounts.
func (h *holes) file(link, how string) error {
	var st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil {
		return rootfile.IgnoreMissing(err)
	}
	of, ok := h.files[fileID{st.Dev, st.Ino}]
	if !ok {
		return nil
	}
	var mount unix.Statfs_t
	if err := unix.Statfs(link, &mount); err != nil {
		return rootfile.IgnoreMissing(err)
	}
	if mount.Flags&unix.ST_RDONLY == 0 {
		h.found[of] = how
	}
	return nil
}

// A seenMount is one on the token whose mount is at top.
type seenMount struct {
	mountinfo.Mount
	top string
}

// under reports whether the path, on m, lies under another mount on m.
func under(table []mountinfo.Mount, m mountinfo.Mount, path string) bool {
	return slices.ContainsFunc(table, func(x mountinfo.Mount) bool {
		return x.Parent == m.ID && x.ID != m.ID && (path == x.Point || strings.HasPrefix(path, x.Point+"/"))
	})
}

// around notes what can be written from something held at a path under one of
// the mounts: it, what is found below it, and the protected directory it is in.
// What is above is found with its mounts: ".." leads onto them.
func (h *holes) around(top, path string) {
	rel, err := filepath.Rel(top, path)
	if err != nil {
		return
	}
	for _, p := range h.paths {
		if p == rel || strings.HasPrefix(p, rel+"/") || strings.HasPrefix(rel, p+"/") {
			h.found[p] = "open"
		}
	}
}

// mapped reads proc_pid_maps(5) for shared mappings of protected files.
func (h *holes) mapped(proc string) error {
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
		if ino, err := strconv.ParseUint(w[4], 10, 64); err != nil || !h.inos[ino] {
			continue
		}
		if err := h.file(proc+"/map_files/"+w[0], "mapped"); err != nil {
			return err
		}
	}
	return sc.Err()
}

// fdInfo reads a descriptor's mount and inode (proc_pid_fdinfo(5)); the inode is
// 0 where the kernel does not tell it (before 5.14).
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
		return 0, 0, fmt.Errorf("%s names no mount", path)
	}
	return mnt, ino, nil
}

// showsAll reports whether the process holds a descriptor for all a guest
// remembers, so that its descriptors tell everything. A virtiofsd that keeps
// file handles instead (--inode-file-handles; by itself from 1.14 on) opens by
// them, on the mount by which a file was found, and nothing shows it.
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
	// The program is root's: it is what libvirt runs, and roots looked at it.
	ctx, end := context.WithTimeout(context.Background(), 2*time.Second)
	defer end()
	out, err := exec.CommandContext(ctx, proc+"/exe", "--version").Output()
	return err == nil && keepsDescriptors(string(out))
}

// keepsDescriptors reads what "virtiofsd --version" says: QEMU's own, in C,
// "virtiofsd version 7.2.22 (Debian ...)", knows no file handles; "virtiofsd
// 1.13.2", in Rust, uses them from 1.14 on.
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
