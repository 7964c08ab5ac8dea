// Package share plans how a host folder appears in a guest: tokens, host
// mounts, guest mounts.
//
// It owns the names (Token, FSTag, ExportMount), the facts about folders and
// mounts on both sides, and the pure plans made from them. It never mounts
// anything itself: the host side is internal/root's records, the guest side is
// one shell script that guest root runs.
//
// Invariants: a host folder is never changed by attaching it; nothing in a
// guest is hidden by a mount unless it is empty or ours; everything a guest
// says is bounded and parsed as hostile; a mount counts as right only when
// its type, source, root and inode say so (device numbers prove nothing across
// virtiofs, shares.md 6).
package share

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
)

// FSTag is the virtiofs tag of the one device that carries all tokens of a VM
// in mode shared-root.
const FSTag = "aivm-root"

// ExportMount is where the guest mounts that device, for its root only: an
// attached folder is reached at its GuestDst and nowhere else.
const ExportMount = "/run/aivm/share"

// OwnMounts is the directory below which the guest mounts the device of a
// folder in mode shared on the way to its GuestDst.
const OwnMounts = "/run/aivm/own"

// MaxShared is how many folders in mode shared a VM can have: each is a device,
// and takes one of the slots the domain was made with (domain.SparePorts).
const MaxShared = 24

// Mode says how a folder gets into the guest.
type Mode string

// The modes.
const (
	SharedRoot Mode = "shared-root" // one device over all tokens
	Shared     Mode = "shared"      // one device per token
	Git        Mode = "git"         // a clone of its own
)

// Mounts reports whether the mode mounts the folder itself in the guest.
func (m Mode) Mounts() bool { return m == SharedRoot || m == Shared }

// device is what a's folder comes from in the guest's mount table: the tag of
// its device, and where in it the folder is.
func (a Attachment) device() (tag, at string) {
	if a.Mode == Shared {
		return Token(a.HostPath), "/"
	}
	return FSTag, "/" + Token(a.HostPath)
}

// ParseMode reads a mode as a person or a 0.3 store writes it.
func ParseMode(s string) (Mode, error) {
	switch normalize(s) {
	case "shared-root", "sharedroot", "root":
		return SharedRoot, nil
	case "shared":
		return Shared, nil
	case "git", "clone", "cloned", "repo":
		return Git, nil
	}
	return "", ui.Usage("--mode must be one of: git, shared, shared-root")
}

// Access says whether the guest may write.
type Access string

// The kinds of access.
const (
	ReadWrite Access = "rw"
	ReadOnly  Access = "ro"
)

// ParseAccess reads an access as a person or a 0.3 store writes it.
func ParseAccess(s string) (Access, error) {
	switch normalize(s) {
	case "rw", "readwrite", "read-write":
		return ReadWrite, nil
	case "ro", "readonly", "read-only":
		return ReadOnly, nil
	}
	return "", ui.Usage("--access must be one of: ro, rw")
}

func normalize(s string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), "_", "-")
}

// An Attachment is one folder of one VM, as the store has it.
type Attachment struct {
	HostPath, VM          string // HostPath is canonical: absolute, links resolved
	Mode                  Mode
	Access, GuestDst, Tag string // Access "rw" or "ro"; Tag is the token
	Typed                 string // the path it was attached by, if that leads through a link; the guest has one there too
	State                 State
	Protect               bool // what this machine's tools run is read-only in the guest
}

// Recorded returns a record of the config as an Attachment: a mode in 0.3's
// spelling by today's name, a place in the guest and a tag where none is written.
func Recorded(r config.Attachment) Attachment {
	mode, err := ParseMode(r.Mode)
	if err != nil {
		mode = Mode(r.Mode)
	}
	out := Attachment{HostPath: r.HostPath, VM: r.VMName, Mode: mode, Access: r.Access, GuestDst: r.GuestDst, Tag: r.Tag, Typed: r.TypedPath, State: State(r.State), Protect: r.Protect}
	if out.GuestDst == "" {
		out.GuestDst = r.HostPath
	}
	if out.Tag == "" {
		out.Tag = Token(r.HostPath)
	}
	return out
}

// RecordedFor returns the attachments of a VM, in the order of the config.
func RecordedFor(c config.Config, vm string) []Attachment {
	var out []Attachment
	for _, r := range c.Attachments {
		if r.VMName == vm {
			out = append(out, Recorded(r))
		}
	}
	return out
}

// RecordedAll returns the attachments of all VMs, in the order of the config.
func RecordedAll(c config.Config) []Attachment {
	var out []Attachment
	for _, r := range c.Attachments {
		out = append(out, Recorded(r))
	}
	return out
}

// Exposes reports whether the guest can write files of the folder on this
// machine.
func (a Attachment) Exposes() bool {
	return a.Mode != Git && a.Access == string(ReadWrite)
}

// typed is where the guest gets a link to the folder: at the path a person
// types, unless the folder was given another place.
func (a Attachment) typed() string {
	if a.Typed == "" || a.GuestDst != a.HostPath || a.Typed == a.GuestDst || CheckGuestDst(a.Typed) != nil {
		return ""
	}
	return a.Typed
}

// State says why a saved folder is not brought back; "" for one that is.
type State string

// The states of a record.
const (
	Attached  State = ""
	Detaching State = "detaching" // to be taken away, at the latest when the VM stops
	Linked    State = "link"      // a link was seen on its way: attach it again to lift that
)

// Token names a folder below the export root. It depends on the canonical path
// alone: the end of its name for people, 96 bits of its hash so that no two
// folders share one (0.3 used the name only). 36 bytes at most, because mode
// shared uses it as a virtiofs tag.
func Token(hostPath string) string {
	sum := sha256.Sum256([]byte(hostPath))
	var slug strings.Builder
	for _, c := range []byte(strings.ToLower(path.Base(hostPath))) {
		if slug.Len() == 11 {
			break
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			slug.WriteByte(c)
		} else if n := slug.Len(); n > 0 && slug.String()[n-1] != '-' {
			slug.WriteByte('-')
		}
	}
	name := strings.Trim(slug.String(), "-")
	if name == "" {
		name = "folder"
	}
	return name + "-" + hex.EncodeToString(sum[:12])
}

// checkPath is the door for every path that gets into a record or a script.
func checkPath(what, p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsAny(p, "\x00\n\r") {
		return ui.Refused("%s %q cannot be used: an absolute path without line breaks is needed", what, p)
	}
	return nil
}

// reservedDst are guest paths nothing may be mounted on, with all below them;
// systemDst only themselves.
var (
	reservedDst = []string{"/proc", "/sys", "/dev", "/boot", "/run/aivm", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/home/agent/.ssh"}
	systemDst   = []string{"/", "/home", "/root", "/run", "/tmp", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local", "/var", "/var/lib", "/opt", "/srv", "/mnt", "/media", "/home/agent"}
)

// CheckGuestDst refuses guest paths a folder must not cover: the system's
// own, and the home of the guest's user, whose key lets us in.
func CheckGuestDst(dst string) error {
	if err := checkPath("guest path", dst); err != nil {
		return err
	}
	name := strings.Trim(path.Base(dst), "/")
	for part := range strings.SplitSeq(dst, "/") {
		if len(part) > 255 { // NAME_MAX (linux/limits.h)
			return ui.Refused("guest path %s has a name of %d bytes, 255 is the most there can be", dst, len(part)).
				Hint(ui.Remark("choose another place: --guest-dst /home/agent/NAME"))
		}
	}
	if name == "" {
		name = "NAME"
	}
	reserved := slices.ContainsFunc(reservedDst, func(d string) bool { return dst == d || below(dst, d) })
	if reserved || slices.Contains(systemDst, dst) {
		return ui.Refused("guest path %s belongs to the guest's own system", dst).
			Hint(ui.Remark("choose another place: --guest-dst " + quote("/home/agent/"+name)))
	}
	return nil
}

// below reports whether p lies strictly below dir.
func below(p, dir string) bool {
	return p != dir && strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// check validates what a planner was given, before it looks at any fact.
func check(atts []Attachment) error {
	dst := map[string]string{}
	seen := map[string]bool{}
	for _, a := range atts {
		if !a.Mode.Mounts() {
			return ui.Refused("mode %s is not there yet (folder %s)", a.Mode, a.HostPath).
				Hint(ui.Remark("use one that is: --mode shared-root, --mode shared"))
		}
		if a.Access != string(ReadWrite) && a.Access != string(ReadOnly) {
			return ui.Usage("--access must be one of: ro, rw")
		}
		if a.Protect && a.Access != string(ReadWrite) {
			return ui.Usage("--protect is for folders the VM can write; with --access ro it can write nothing of them")
		}
		if err := checkPath("folder", a.HostPath); err != nil {
			return err
		}
		if err := CheckGuestDst(a.GuestDst); err != nil {
			return err
		}
		if seen[a.HostPath] {
			return ui.Refused("folder %s is attached twice to VM %s", a.HostPath, a.VM)
		}
		seen[a.HostPath] = true
		if other, ok := dst[a.GuestDst]; ok {
			return ui.Refused("%s and %s would both be at %s in VM %s", other, a.HostPath, a.GuestDst, a.VM).
				Hint(ui.Remark("choose another place for one of them: --guest-dst PATH"))
		}
		dst[a.GuestDst] = a.HostPath
	}
	return nil
}
