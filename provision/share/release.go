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

// usersShell names what in the guest inodeLimit a folder from being let go of: processes
// that stand in it, have something of it open, or have mapped or started a
// file of it. One find looks at all processes; find's -lname takes a pattern.
//
//go:embed held.sh
var usersShell string

//go:embed watch.sh
var watchMain string

// WatchScript returns a shell script, to be run by guest root, that names what
// watches files of the VM's folders with inotify: a watch outlives the unmount
// of its folder and inodeLimit the file in the guest's caches. Which folder a watch
// is for cannot be told.
func WatchScript() string {
	return guestHead + watchMain
}

// Held names the processes that a script found: "node (pid 812)".
func UsedBy(out []byte) []string { return usedBy(out, "-") }

// held is what the guest says uses the folder of a token; names are whatever
// the guest's processes call themselves.
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

// ReleaseScript returns a shell script, to be run by guest root, after which
// the guest holds nothing of these folders any more, so that this machine can
// take their tokens away: they are unmounted, innermostFirst first, and forgotten by
// the guest's caches, for each entry of which virtiofsd holds a descriptor
// (shares.md 3). One that is in use there stays, and what uses it is named
// (GuestError). What is gone for good loses its link at the typed path too; rest
// is what comes back.
func ReleaseScript(gone, rest []Attachment) string {
	var b strings.Builder
	b.WriteString(guestHead + usersShell + "main() {\n")
	for _, a := range innermostFirst(append(slices.Clone(gone), rest...)) {
		fmt.Fprintf(&b, "release %s %s %s %s\n", Token(a.HostPath), quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst)), quote(globEscape(a.GuestDst)))
		if a.Mode == Shared {
			fmt.Fprintf(&b, "unplug %s\n", Token(a.HostPath))
		}
		if t := a.typed(); t != "" && slices.Contains(gone, a) {
			fmt.Fprintf(&b, "if [ -L %[1]s ] && [ \"$(readlink -- %[1]s)\" = %s ]; then rm -- %[1]s; fi\n", quote(t), quote(a.GuestDst))
		}
	}
	b.WriteString("if top \"$dev\"; then sync -f \"$dev\"; fi\necho 2 >/proc/sys/vm/drop_caches\necho 2 >/proc/sys/vm/drop_caches\nreturn 0\n}\nmain\n")
	return b.String()
}

// HideScript returns a shell script, to be run by guest root, that takes a
// folder in use out of the guest's tree: what has something of it open inodeLimit
// it, nobody else finds it.
func HideScript(a Attachment) string {
	return guestHead + fmt.Sprintf("main() {\nn=0\nwhile top %s && ours %s && [ $n -lt 32 ]; do\n\tn=$((n + 1))\n\tumount -l -- %s || return 1\ndone\nreturn 0\n}\nmain\n",
		quote(mountinfo.Escape(a.GuestDst)), Token(a.HostPath), quote(a.GuestDst))
}

// innermostFirst sorts folders so that what lies below another comes first.
func innermostFirst(atts []Attachment) []Attachment {
	out := append([]Attachment(nil), atts...)
	sort.SliceStable(out, func(i, j int) bool { return len(pathDirs(out[i].GuestDst)) > len(pathDirs(out[j].GuestDst)) })
	return out
}

// globEscape makes a pattern that matches exactly s.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}
