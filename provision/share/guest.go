package share

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// A Dir is one directory on the way to a guest path, as the guest's user sees it.
type Dir struct {
	There bool   // else it is missing, or hidden by one that cannot be passed (Denied)
	Deny  bool   // what lies there is unknown: a directory above cannot be passed
	Mode  uint32 // st_mode
	Ino   uint64
	UID   int
	GID   int
	Pass  bool // the guest's user can walk through it
}

// GuestFacts are what the probe said.
type GuestFacts struct {
	Mounts []mountinfo.Mount
	Ways   map[string][]Dir // by token: every directory from / to the guest path, which is the last
}

// ways returns every directory from below / to dst.
func ways(dst string) []string {
	var out []string
	for d := dst; d != "/" && d != "."; d = path.Dir(d) {
		out = append([]string{d}, out...)
	}
	return out
}

// The probe runs at every `aivm code`, and in an emulated guest each program
// it starts costs some 50 ms, as much as half of our own time: one grep and
// one stat, the rest is the shell's own. The shell decides what to stat, so
// that the fields come back in the order it knows.
const (
	probeHead = `echo aivm-share 1
set -f
aivm_share_there() { # TOKEN:INDEX DIR
	[ -e "$2" ] || [ -L "$2" ] || return 1
	aivm_seen="$aivm_seen$1 "
}
aivm_share_dir() { # TOKEN:INDEX DIR PARENT MODE INODE UID GID...
	aivm_at="${1%:*} ${1##*:}"
	case $aivm_seen in
	*" $1 "*)
		if [ -x "$2" ]; then aivm_x=pass; else aivm_x=stop; fi
		echo "dir $aivm_at $4 $5 $6 $7 $aivm_x"
		return 0 ;;
	esac
	if [ -x "$3" ]; then echo "dir $aivm_at missing"; else echo "dir $aivm_at denied"; fi
	return 1
}
aivm_seen=' '
`
	// A directory that vanishes in between would shift the fields: no answer
	// is better than a wrong one.
	probeStat = `if [ $# -gt 0 ]; then
	aivm_n=$#
	set -- $(stat -c '%f %i %u %g' -- "$@")
	[ $# -eq $((4 * aivm_n)) ] || exit 1
fi
`
)

// GuestProbe returns the piece of the probe script that looks at the mounts
// and paths of atts. It runs as the guest's user and changes nothing. Paths
// must have passed PlanHost; one that could not be quoted is left out.
func GuestProbe(atts []Attachment) string {
	var b, look, tell strings.Builder
	b.WriteString(probeHead)
	b.WriteString("IFS='\n'\nfor aivm_l in $(grep -F -m 2000 -e ' - virtiofs '")
	for _, a := range atts {
		if CheckGuestDst(a.GuestDst) != nil {
			continue
		}
		b.WriteString(" -e " + quote(" "+mountinfo.Escape(a.GuestDst)+" "))
		for i, d := range ways(a.GuestDst) {
			at := fmt.Sprintf("%s:%d", Token(a.HostPath), i)
			fmt.Fprintf(&look, "if aivm_share_there %s %s; then set -- \"$@\" %s; fi\n", at, quote(d), quote(d))
			fmt.Fprintf(&tell, "if aivm_share_dir %s %s %s \"$@\"; then shift 4; fi\n", at, quote(d), quote(path.Dir(d)))
		}
	}
	b.WriteString(" /proc/self/mountinfo); do printf 'mount %s\\n' \"$aivm_l\"; done\nunset IFS\nset --\n")
	b.WriteString(look.String() + probeStat + tell.String())
	b.WriteString("echo aivm-share end\n")
	return b.String()
}

// Bounds of what a guest may say.
const (
	maxProbe  = 4 << 20
	maxDepth  = 256
	maxTokens = 4096
)

// ParseGuest reads what the probe printed. Everything in it is the guest's
// claim; whatever does not fit the form, or is cut off, is an error.
func ParseGuest(out []byte) (GuestFacts, error) {
	bad := func(n int, why string) (GuestFacts, error) {
		return GuestFacts{}, ui.Failed("the guest's answer about its folders cannot be read (line %d: %s)", n+1, why)
	}
	if len(out) > maxProbe {
		return bad(0, "too long")
	}
	lines := strings.Split(string(bytes.TrimSuffix(out, []byte("\n"))), "\n")
	if lines[0] != "aivm-share 1" {
		return bad(0, "no heading")
	}
	if lines[len(lines)-1] != "aivm-share end" || len(lines) < 2 {
		return bad(len(lines)-1, "cut off")
	}
	f := GuestFacts{Ways: map[string][]Dir{}}
	for i, line := range lines[1 : len(lines)-1] {
		kind, rest, _ := strings.Cut(line, " ")
		switch kind {
		case "mount":
			ms, err := mountinfo.Parse([]byte(rest))
			if err != nil || len(ms) != 1 {
				return bad(i+1, "no mount")
			}
			f.Mounts = append(f.Mounts, ms[0])
		case "dir":
			token, index, d, err := parseDir(rest)
			if err != nil {
				return bad(i+1, err.Error())
			}
			way := f.Ways[token]
			if index != len(way) || index >= maxDepth || len(f.Ways) >= maxTokens {
				return bad(i+1, "out of order")
			}
			f.Ways[token] = append(way, d)
		default:
			return bad(i+1, "unknown kind")
		}
	}
	return f, nil
}

func parseDir(s string) (token string, index int, d Dir, err error) {
	w := strings.Fields(s)
	if len(w) < 3 || !root.ValidToken(w[0]) {
		return "", 0, Dir{}, fmt.Errorf("no token")
	}
	if index, err = strconv.Atoi(w[1]); err != nil || index < 0 {
		return "", 0, Dir{}, fmt.Errorf("no index")
	}
	switch {
	case len(w) == 3 && w[2] == "missing":
		return w[0], index, Dir{}, nil
	case len(w) == 3 && w[2] == "denied":
		return w[0], index, Dir{Deny: true}, nil
	case len(w) != 7 || w[6] != "pass" && w[6] != "stop":
		return "", 0, Dir{}, fmt.Errorf("no directory")
	}
	mode, err1 := strconv.ParseUint(w[2], 16, 32)
	ino, err2 := strconv.ParseUint(w[3], 10, 64)
	uid, err3 := strconv.ParseUint(w[4], 10, 32)
	gid, err4 := strconv.ParseUint(w[5], 10, 32)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return "", 0, Dir{}, fmt.Errorf("no numbers")
	}
	return w[0], index, Dir{There: true, Mode: uint32(mode), Ino: ino, UID: int(uid), GID: int(gid), Pass: w[6] == "pass"}, nil
}

// ErrOwner is what Verify ends with for a folder that is the right one and has
// the wrong owner in the guest: the owners were mapped when it belonged to
// somebody else. HostFacts.Heard makes it be shared anew.
var ErrOwner = errors.New("its owner changed on this machine after it was shared")

// Verify says whether the guest has a's folder where it should be, and if not,
// what differs.
func Verify(f GuestFacts, host HostFacts, a Attachment) error {
	no := func(format string, args ...any) error {
		return ui.Failed("%s in the VM is not folder %s: %s", a.GuestDst, a.HostPath, fmt.Sprintf(format, args...))
	}
	folder, ok := host.Folders[a.HostPath]
	if !ok || folder.Err != nil {
		return no("the folder itself is not known here")
	}
	token := Token(a.HostPath)
	at := mountinfo.At(f.Mounts, a.GuestDst)
	if len(at) == 0 {
		return no("nothing is mounted there")
	}
	m := at[len(at)-1]
	switch {
	case m.Type != "virtiofs":
		return no("a file system of type %q is mounted there", m.Type)
	case m.Source != FSTag:
		return no("it comes from device %q, not %q", m.Source, FSTag)
	case m.Root != "/"+token:
		return no("it shows %q, not %q", m.Root, "/"+token)
	}
	way := f.Ways[token]
	if len(way) != len(ways(a.GuestDst)) {
		return no("the path was not looked at")
	}
	for i, d := range way {
		switch {
		case d.Deny, i < len(way)-1 && d.There && !d.Pass:
			return no("the VM's user cannot walk there")
		case !d.There:
			return no("%s is missing", ways(a.GuestDst)[i])
		}
	}
	d := way[len(way)-1]
	if d.Ino != folder.Ino {
		return no("its inode is %d, here it is %d", d.Ino, folder.Ino)
	}
	if host.Mapped(a) && (d.UID != GuestUID || d.GID != GuestUID) {
		return ui.Failed("folder %s belongs to %d:%d in the VM, not to its user: %w", a.HostPath, d.UID, d.GID, ErrOwner)
	}
	return nil
}
