// Package share plans how a host folder becomes available in a guest: tokens, host
// mounts, guest mounts.
//
// It owns the names (Token, FSTag, ExportMount), the facts about folders and mounts
// on both sides, and the pure plans made from them. It never mounts anything
// itself: on the host the privileged records of internal/root do, in the guest one
// shell script that guest root runs.
//
// Invariants: attaching a host folder never changes it; a mount in a guest hides
// only empty directories and aivm's own mounts; everything a guest reports is
// bounded and parsed as hostile input; a mount counts as the right one only if its
// type, source, root and inode match. Device numbers prove nothing: a virtiofs mount
// has one of the guest's own, whatever the host's is.
package share

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
)

// FSTag is the virtiofs tag of the one device that serves all tokens of a VM in mode
// shared-root.
const FSTag = "aivm-root"

// ExportMount is where the guest mounts that device, accessible to its root only:
// users of the guest find an attached folder at its GuestDst.
const ExportMount = "/run/aivm/share"

// OwnMounts is the directory below which the guest mounts the device of each folder
// in mode shared; from there it is bind-mounted to its GuestDst.
const OwnMounts = "/run/aivm/own"

// MaxShared is how many folders in mode shared a VM can have: each needs a device and
// one of the PCIe ports the domain was defined with (domain.SparePorts).
const MaxShared = 24

// Mode is how a folder is made available in the guest.
type Mode string

// The modes.
const (
	SharedRoot Mode = "shared-root" // one virtiofs device for all tokens
	Shared     Mode = "shared"      // one virtiofs device per token
	Git        Mode = "git"         // a git clone in the guest
)

// Mounts reports whether the mode mounts the folder itself in the guest.
func (m Mode) Mounts() bool { return m == SharedRoot || m == Shared }

// device returns how the guest's mount table shows a's folder: the tag of its device,
// and the folder's path inside that file system.
func (a Attachment) device() (tag, at string) {
	if a.Mode == Shared {
		return Token(a.HostPath), "/"
	}
	return FSTag, "/" + Token(a.HostPath)
}

// ParseMode reads a mode as a user or the config of aivm 0.3 writes it.
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

// Access is whether the guest may write.
type Access string

// The kinds of access.
const (
	ReadWrite Access = "rw"
	ReadOnly  Access = "ro"
)

// ParseAccess reads an access as a user or the config of aivm 0.3 writes it.
func ParseAccess(s string) (Access, error) {
	switch normalize(s) {
	case "rw", "readwrite", "read-write":
		return ReadWrite, nil
	case "ro", "readonly", "read-only":
		return ReadOnly, nil
	}
	return "", ui.Usage("--access must be one of: ro, rw")
}

// normalize trims s, lowers its case and writes "_" as "-".
func normalize(s string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), "_", "-")
}

// An Attachment is one folder of one VM, as the config records it.
type Attachment struct {
	HostPath, VM          string // HostPath is canonical: absolute, links resolved
	Mode                  Mode
	Access, GuestDst, Tag string // Access "rw" or "ro"; Tag is the token
	Typed                 string // the path given to attach, if it goes through a symbolic link; the guest gets a link there
	State                 State
	Protect               bool // the host-executed files are read-only in the guest
}

// Recorded returns a record of the config as an Attachment. It translates the mode
// names of aivm 0.3 and fills in a missing guest path and tag.
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

// Exposes reports whether the guest can write the folder's files on the host.
func (a Attachment) Exposes() bool {
	return a.Mode != Git && a.Access == string(ReadWrite)
}

// typed returns where the guest gets a symbolic link to the folder: the path given to
// attach; "" if there is none, or if the folder has another guest path.
func (a Attachment) typed() string {
	if a.Typed == "" || a.GuestDst != a.HostPath || a.Typed == a.GuestDst || CheckGuestDst(a.Typed) != nil {
		return ""
	}
	return a.Typed
}

// State says why a recorded folder is not mounted; "" if it is mounted.
type State string

// The states of a record.
const (
	Attached  State = ""
	Detaching State = "detaching" // it is being detached, at the latest when the VM stops
	Linked    State = "link"      // its path went through a symbolic link; attaching it again clears this
)

// Token returns the name of a folder in the export directory. It depends on the
// canonical path alone: up to 11 characters of the folder's name, for people, and
// 96 bits of the path's SHA-256, so that no two folders share one (0.3 used the name
// only). It has at most 36 bytes, because mode shared uses it as a virtiofs tag.
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

// checkPath refuses a path that is not absolute and clean, has line breaks or is not valid UTF-8. Every
// path that goes into a privileged record or a script passes through it.
func checkPath(what, p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsAny(p, "\x00\n\r") || !utf8.ValidString(p) {
		return ui.Refused("%s %q cannot be used: it must be an absolute path in UTF-8 without line breaks", what, p)
	}
	return nil
}

// reservedDst are guest paths on and below which nothing may be mounted; systemDst are
// those on which nothing may be mounted, while paths below them are allowed.
var (
	reservedDst = []string{"/proc", "/sys", "/dev", "/boot", "/run/aivm", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/home/agent/.ssh"}
	systemDst   = []string{"/", "/home", "/root", "/run", "/tmp", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local", "/var", "/var/lib", "/opt", "/srv", "/mnt", "/media", "/home/agent"}
)

// CheckGuestDst refuses guest paths that a folder must not cover: those of the guest's
// system, and the guest user's home, whose authorized_keys aivm logs in with.
func CheckGuestDst(dst string) error {
	if err := checkPath("guest path", dst); err != nil {
		return err
	}
	name := strings.Trim(path.Base(dst), "/")
	for part := range strings.SplitSeq(dst, "/") {
		if len(part) > 255 { // NAME_MAX (linux/limits.h)
			return ui.Refused("guest path %s has a name of %d bytes; the limit is 255", dst, len(part)).
				Hint(ui.Remark("choose another guest path: --guest-dst /home/agent/NAME"))
		}
	}
	if name == "" {
		name = "NAME"
	}
	reserved := slices.ContainsFunc(reservedDst, func(d string) bool { return dst == d || below(dst, d) })
	if reserved || slices.Contains(systemDst, dst) {
		return ui.Refused("guest path %s belongs to the guest's system", dst).
			Hint(ui.Remark("choose another guest path: --guest-dst " + quote("/home/agent/"+name)))
	}
	return nil
}

// below reports whether p lies strictly below dir.
func below(p, dir string) bool {
	return p != dir && strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// check validates the attachments a planner is given, before it reads any fact.
func check(atts []Attachment) error {
	dst := map[string]string{}
	seen := map[string]bool{}
	for _, a := range atts {
		if !a.Mode.Mounts() {
			return ui.Refused("folder %s cannot be mounted in mode %s", a.HostPath, a.Mode).
				Hint(ui.Remark("use --mode shared-root or --mode shared"))
		}
		if a.Access != string(ReadWrite) && a.Access != string(ReadOnly) {
			return ui.Usage("--access must be one of: ro, rw")
		}
		if a.Protect && a.Access != string(ReadWrite) {
			return ui.Usage("--protect is for folders the VM can write; with --access ro it can write nothing")
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
			return ui.Refused("%s and %s would both be mounted at %s in VM %s", other, a.HostPath, a.GuestDst, a.VM).
				Hint(ui.Remark("choose another guest path for one of them: --guest-dst PATH"))
		}
		dst[a.GuestDst] = a.HostPath
	}
	return nil
}
