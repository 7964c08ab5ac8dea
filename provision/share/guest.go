package share

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/guestuser"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// A Dir is one directory of a guest path, as the guest's user sees it.
type Dir struct {
	There   bool   // false: it is missing, or Hidden
	Hidden  bool   // the guest's user has no access to a directory above it, so it is unknown
	Mode    uint32 // st_mode
	Ino     uint64
	UID     int
	GID     int
	CanWalk bool // the guest's user may enter it
}

// GuestFacts are what the probe of the guest reported.
type GuestFacts struct {
	Mounts   []mountinfo.Mount
	PathDirs map[string][]Dir // by token: every directory from / to the guest path, which is the last
	Typed    map[string]Dir   // by token: what exists at the typed path, for folders that have one
	Same     map[string]bool  // by token: the typed path is a link to the folder
	List     string           // the mark of the list that is mounted at boot (bootList); "" for none
}

// pathDirs returns every directory from below / to dst, which is the last.
func pathDirs(dst string) []string {
	var out []string
	for d := dst; d != "/" && d != "."; d = path.Dir(d) {
		out = append([]string{d}, out...)
	}
	return out
}

// The probe runs at every `aivm code`. In an emulated guest each program it starts
// takes some 50 ms, half of the time aivm itself needs. So it starts one grep and one
// stat, whatever the number of folders; the rest are builtins of the shell. A directory
// that two folders have in common is checked once.

// GuestProbe returns the part of the probe script that reads the mounts and paths of
// atts. It runs as the guest's user and changes nothing. An attachment whose guest path
// is invalid is left out.
func GuestProbe(atts []Attachment) string {
	var b, dirs, same strings.Builder
	b.WriteString("set -f\necho aivm-share 2\ngrep -F -m 4000 -e ' - virtiofs '")
	for _, d := range probed(atts) {
		dirs.WriteString(" " + quote(d))
	}
	for _, a := range atts {
		if CheckGuestDst(a.GuestDst) != nil {
			continue
		}
		b.WriteString(" -e " + quote(" "+mountinfo.Escape(a.GuestDst)+" "))
		if t := a.typed(); t != "" {
			fmt.Fprintf(&same, "if [ %s -ef %s ]; then echo %s; fi\n", quote(t), quote(a.GuestDst), Token(a.HostPath))
		}
	}
	b.WriteString(" /proc/self/mountinfo\necho aivm-share dirs\n")
	if dirs.Len() > 0 {
		b.WriteString("set --" + dirs.String() + "\nstat -c '%f %i %u %g %n' -- \"$@\" 2>/dev/null\necho aivm-share pass\n" +
			"for aivm_d; do if [ -x \"$aivm_d\" ]; then printf '%s\\n' \"$aivm_d\"; fi; done\n")
	} else {
		b.WriteString("echo aivm-share pass\n")
	}
	b.WriteString("echo aivm-share same\n" + same.String() + "echo aivm-share list\n" +
		"{ IFS= read -r aivm_l <" + bootListPath + " && printf '%s\\n' \"$aivm_l\"; } 2>/dev/null\necho aivm-share end\n")
	return b.String()
}

// probed returns the directories that the probe checks, parents first, each once.
func probed(atts []Attachment) []string {
	seen := map[string]bool{}
	var out []string
	add := func(p string) {
		for _, d := range pathDirs(p) {
			if !seen[d] {
				seen[d] = true
				out = append(out, d)
			}
		}
	}
	for _, a := range atts {
		if CheckGuestDst(a.GuestDst) == nil {
			add(a.GuestDst)
			if t := a.typed(); t != "" {
				add(t)
			}
		}
	}
	return out
}

// maxProbe is how many bytes of a guest's output are read.
const maxProbe = 4 << 20

// ParseGuest parses the output of GuestProbe for atts. The guest is not trusted: output
// that is cut off or does not have the expected form is an error.
func ParseGuest(out []byte, atts []Attachment) (GuestFacts, error) {
	bad := func(n int, why string) (GuestFacts, error) {
		return GuestFacts{}, ui.Failed("the guest's answer about its folders cannot be read (line %d: %s)", n+1, why)
	}
	if len(out) > maxProbe {
		return bad(0, "too long")
	}
	lines := strings.Split(string(bytes.TrimSuffix(out, []byte("\n"))), "\n")
	if lines[0] != "aivm-share 2" {
		return bad(0, "no header line")
	}
	asked := map[string]bool{}
	for _, d := range probed(atts) {
		asked[d] = true
	}
	f := GuestFacts{PathDirs: map[string][]Dir{}, Typed: map[string]Dir{}, Same: map[string]bool{}}
	dirs := map[string]Dir{}
	sections := []string{"mounts", "dirs", "pass", "same", "list", "end"}
	at := 0
	for i, line := range lines[1:] {
		if name, ok := strings.CutPrefix(line, "aivm-share "); ok {
			if at++; at >= len(sections) || name != sections[at] {
				return bad(i+1, "out of order")
			}
			continue
		}
		switch sections[at] {
		case "mounts":
			ms, err := mountinfo.Parse([]byte(line))
			if err != nil || len(ms) != 1 {
				return bad(i+1, "no mount")
			}
			f.Mounts = append(f.Mounts, ms[0])
		case "dirs":
			name, d, err := parseDir(line)
			if err != nil {
				return bad(i+1, err.Error())
			}
			if _, twice := dirs[name]; twice || !asked[name] {
				return bad(i+1, "a directory that was not probed")
			}
			dirs[name] = d
		case "pass":
			d, ok := dirs[line]
			if !asked[line] {
				return bad(i+1, "a directory that was not probed")
			}
			if d.CanWalk = true; ok { // else it was created after stat ran
				dirs[line] = d
			}
		case "same":
			if !root.ValidToken(line) || len(f.Same) >= len(atts) {
				return bad(i+1, "no token")
			}
			f.Same[line] = true
		case "list":
			if f.List != "" || len(line) > 200 {
				return bad(i+1, "not a single mark")
			}
			f.List = line
		default:
			return bad(i+1, "output after the end")
		}
	}
	if at != len(sections)-1 {
		return bad(len(lines)-1, "cut off")
	}
	for _, a := range atts {
		if CheckGuestDst(a.GuestDst) != nil {
			continue
		}
		token := Token(a.HostPath)
		f.PathDirs[token] = dirsTo(dirs, a.GuestDst)
		if t := a.typed(); t != "" {
			w := dirsTo(dirs, t)
			f.Typed[token] = w[len(w)-1]
		}
	}
	return f, nil
}

// dirsTo returns the directories of p, as far as the probe saw them.
func dirsTo(dirs map[string]Dir, p string) []Dir {
	var way []Dir
	for i, name := range pathDirs(p) {
		d := dirs[name]
		if !d.There && i > 0 {
			up := way[i-1]
			d.Hidden = up.Hidden || up.There && !up.CanWalk
		}
		way = append(way, d)
	}
	return way
}

// parseDir parses a line "MODE INODE UID GID PATH" of stat.
func parseDir(s string) (name string, d Dir, err error) {
	w := strings.SplitN(s, " ", 5)
	if len(w) != 5 || !strings.HasPrefix(w[4], "/") {
		return "", Dir{}, fmt.Errorf("no directory")
	}
	mode, err1 := strconv.ParseUint(w[0], 16, 32)
	ino, err2 := strconv.ParseUint(w[1], 10, 64)
	uid, err3 := strconv.ParseUint(w[2], 10, 32)
	gid, err4 := strconv.ParseUint(w[3], 10, 32)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return "", Dir{}, fmt.Errorf("no numbers")
	}
	return w[4], Dir{There: true, Mode: uint32(mode), Ino: ino, UID: int(uid), GID: int(gid)}, nil
}

// ErrOwner is wrapped by Verify's error for a folder that is the right one but has the
// wrong owner in the guest, because its owners were mapped when it belonged to another
// user. HostFacts.WithGuestOwners makes PlanHost mount it again.
var ErrOwner = errors.New("its owner changed on this machine after it was shared")

// Verify checks that a's folder is mounted at its guest path in the guest; the error says
// what differs.
func Verify(f GuestFacts, host HostFacts, a Attachment) error {
	no := func(format string, args ...any) error {
		return ui.Failed("%s in the VM is not folder %s: %s", a.GuestDst, a.HostPath, fmt.Sprintf(format, args...))
	}
	folder, ok := host.Folders[a.HostPath]
	if !ok || folder.Err != nil {
		return no("the folder cannot be read on this machine")
	}
	token := Token(a.HostPath)
	tag, at := a.device()
	there := mountinfo.At(f.Mounts, a.GuestDst)
	if len(there) == 0 {
		return no("nothing is mounted there")
	}
	m := there[len(there)-1]
	source, shown := f.deviceAndPath(m)
	switch {
	case m.Type != "virtiofs":
		return no("a file system of type %q is mounted there", m.Type)
	case source != tag:
		return no("it comes from device %q, not %q", source, tag)
	case shown != at:
		return no("it shows %q, not %q", shown, at)
	}
	way := f.PathDirs[token]
	if len(way) != len(pathDirs(a.GuestDst)) {
		return no("the path was not probed")
	}
	for i, d := range way {
		switch {
		case d.Hidden, i < len(way)-1 && d.There && !d.CanWalk:
			return no("the VM's user may not access the path")
		case !d.There:
			return no("%s is missing", pathDirs(a.GuestDst)[i])
		}
	}
	d := way[len(way)-1]
	if d.Ino != folder.Ino {
		return no("its inode is %d, on this machine it is %d", d.Ino, folder.Ino)
	}
	if host.Mapped(a) && (d.UID != guestuser.ID || d.GID != guestuser.ID) {
		return ui.Failed("folder %s belongs to %d:%d in the VM, not to its user: %w", a.HostPath, d.UID, d.GID, ErrOwner)
	}
	return nil
}
