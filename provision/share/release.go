package share

import (
	_ "embed"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// usersShell defines the shell function that names the guest's processes that use a
// folder: those that have their working directory in it, have a file of it open or
// mapped, or run a program of it. One find searches all processes; its -lname takes a
// pattern.
//
//go:embed users.sh
var usersShell string

//go:embed watchers.sh
var watchersMain string

// WatchScript returns a shell script, to be run by guest root, that names the processes
// that watch files of the VM's folders with inotify. A watch remains after its folder
// is unmounted and keeps the file in the guest's caches. The script cannot tell which
// folder a watch is for.
func WatchScript() string {
	return guestHead + watchersMain
}

// UsedBy returns the processes that WatchScript printed: "node (pid 812)".
func UsedBy(out []byte) []string { return usedBy(out, "-") }

// usedBy returns the processes that a script reported as users of a token's folder, at
// most 20. Their names are chosen by the guest and not trusted.
func usedBy(out []byte, token string) []string {
	var names []string
	for line := range strings.SplitSeq(string(out[:min(len(out), maxProbe)]), "\n") {
		f := strings.SplitN(line, " ", 4)
		if len(f) < 3 || f[0] != "aivm-share-held" || f[1] != token || len(names) == 20 {
			continue
		}
		pid, err := strconv.Atoi(f[2])
		if err != nil {
			continue
		}
		name := "a process that has ended"
		if len(f) == 4 && f[3] != "" {
			name = ui.CleanTo(f[3], 32)
		}
		names = append(names, fmt.Sprintf("%s (pid %d)", name, pid))
	}
	return names
}

// ReleaseScript returns a shell script, to be run by guest root, that makes the guest
// release folders so that the host can unmount their tokens. It unmounts them,
// innermost first, and drops the guest's caches, because virtiofsd keeps a descriptor
// open for each inode cached there. A folder that is in use stays mounted, and the
// processes that use it are named (GuestError). The folders in gone are detached for
// good and also lose the link at their typed path; those in rest are mounted again
// later.
func ReleaseScript(gone, rest []Attachment) string {
	var b strings.Builder
	b.WriteString(guestHead + usersShell + "main() {\n")
	for _, a := range innermostFirst(append(slices.Clone(gone), rest...)) {
		fmt.Fprintf(&b, "release %s %s %s %s\n", Token(a.HostPath), quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst)), quote(globEscape(a.GuestDst)))
		if a.Mode == Shared {
			fmt.Fprintf(&b, "umount_device %s\n", Token(a.HostPath))
		}
		if t := a.typed(); t != "" && slices.Contains(gone, a) {
			fmt.Fprintf(&b, "if [ -L %[1]s ] && [ \"$(readlink -- %[1]s)\" = %s ]; then rm -- %[1]s; fi\n", quote(t), quote(a.GuestDst))
		}
	}
	b.WriteString("if top \"$dev\"; then sync -f \"$dev\"; fi\necho 2 >/proc/sys/vm/drop_caches\necho 2 >/proc/sys/vm/drop_caches\nreturn 0\n}\nmain\n")
	return b.String()
}

// HideScript returns a shell script, to be run by guest root, that detaches a folder in
// use from the guest's directory tree (umount -l): programs keep the files they have
// open, and no program can open another one.
func HideScript(a Attachment) string {
	return guestHead + fmt.Sprintf("main() {\nn=0\nwhile top %s && is_share %s && [ $n -lt 32 ]; do\n\tn=$((n + 1))\n\tumount -l -- %s || return 1\ndone\nreturn 0\n}\nmain\n",
		quote(mountinfo.Escape(a.GuestDst)), Token(a.HostPath), quote(a.GuestDst))
}

// innermostFirst sorts folders so that one that lies below another comes before it.
func innermostFirst(atts []Attachment) []Attachment {
	out := append([]Attachment(nil), atts...)
	sort.SliceStable(out, func(i, j int) bool { return len(pathDirs(out[i].GuestDst)) > len(pathDirs(out[j].GuestDst)) })
	return out
}

// globEscape returns a pattern that matches exactly s.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}
