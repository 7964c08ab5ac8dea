package mount

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// Holders returns the processes that keep a mount busy: "virtiofsd (pid 4242)".
// A mount exists once in every namespace it propagated to, each time with another
// ID but in the same peer group; IDs are unique on the machine. A protected token
// is not in a peer group any more, and has mounts on it: Copies finds it by its
// parent.
func Holders(m mountinfo.Mount) []string {
	ids := map[int]bool{m.ID: true}
	own, _ := mountinfo.Read(mountinfo.Self)
	export, _ := mountinfo.ByID(own, m.Parent)
	if all, err := Copies(m, export); err == nil {
		for _, c := range all {
			ids[c.Top.ID] = true
			for _, b := range c.Below {
				ids[b.ID] = true
			}
		}
	}
	group, shared := m.Shared()
	procs, _ := filepath.Glob("/proc/[0-9]*")
	seen := map[string]bool{}
	for _, p := range procs {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || seen[ns] || !shared {
			continue
		}
		seen[ns] = true
		table, err := mountinfo.Read(p + "/mountinfo")
		if err != nil {
			continue
		}
		for _, c := range table {
			if s, ok := c.Shared(); ok && s == group {
				ids[c.ID] = true
			}
			if s, ok := c.Master(); ok && s == group {
				ids[c.ID] = true
			}
		}
	}
	var out []string
	for _, p := range procs {
		if holdsMount(p, ids) {
			comm, _ := os.ReadFile(p + "/comm")
			out = append(out, fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(p)))
		}
	}
	if len(out) == 0 {
		out = append(out, "by something other than a process (a mount on top of it, or a loop device)")
	}
	return out
}

func holdsMount(proc string, ids map[int]bool) bool {
	for _, l := range []string{"cwd", "root", "exe"} {
		if ids[mountID(proc+"/"+l)] {
			return true
		}
	}
	fds, _ := filepath.Glob(proc + "/fdinfo/*")
	for _, f := range fds {
		if ids[fdMountID(f)] {
			return true
		}
	}
	maps, _ := filepath.Glob(proc + "/map_files/*")
	for _, f := range maps {
		if ids[mountID(f)] {
			return true
		}
	}
	return false
}

// mountID returns the ID of the mount on which path is, or -1.
func mountID(path string) int {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return -1
	}
	return int(st.Mnt_id)
}

// fdMountID reads "mnt_id:" of a /proc/PID/fdinfo file. It does not open the
// descriptor itself, which could block on the other end of a pipe.
func fdMountID(fdinfo string) int {
	f, err := os.Open(fdinfo)
	if err != nil {
		return -1
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "mnt_id:"); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
				return n
			}
		}
	}
	return -1
}
