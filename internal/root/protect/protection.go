package protect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// protectionBase holds what is known of protected tokens.
const protectionBase = "/var/lib/aivm/protect"

// A Protection is what holds for a protected token. The mounts are where only
// root can look; this is written by root when they were made, for the person
// whose folder it is, who can check all of it without rights.
type Protection struct {
	Boot    string            `json:"boot"`
	MountID int               `json:"mount_id"`        // of the token's mount on this machine
	Daemons []Process         `json:"daemons"`         // in which the mounts are
	Paths   map[string]uint64 `json:"paths"`           // inode of each path that is mounted on itself
	Files   map[string]Stamp  `json:"files,omitempty"` // the same and what lies in them, told from all other files
	// Open are the paths that the guest can write all the same, until its
	// daemon ends: to "open", "mapped", or "unknown" where nothing shows it.
	Open map[string]string `json:"open,omitempty"`
	// Late are the paths whose mounts came after the daemon had started: the
	// guest may have opened them before.
	Late   []string `json:"late,omitempty"`
	Links  []string `json:"links,omitempty"`  // what cannot be protected, since it is a link
	Failed string   `json:"failed,omitempty"` // why nothing of it is known
}

// An OpenError is a protected path that the guest can write, since it opened it
// before it was protected. That ends with the VM's daemon, at a restart.
type OpenError struct {
	Paths   []string
	Unknown bool // nothing shows whether the guest has it open
}

func (e *OpenError) Error() string {
	if e.Unknown {
		return some(e.Paths, "was", "were") + " protected while the VM ran, and whether it had opened it before cannot be seen: not protected until the VM is restarted"
	}
	return "the VM opened " + strings.TrimSpace(some(e.Paths, "", "")) + " before it was protected, and can write it: not protected until the VM is restarted"
}

// A FailedError says that protecting failed, so that nothing is known.
type FailedError struct{ Why string }

func (e *FailedError) Error() string { return e.Why }

// A ReplacedError is a protected path that was replaced on this machine: until
// it is protected again, the guest can write it.
type ReplacedError struct {
	Paths []string
	// Bare are those of Paths whose own mount went with them. The others lie in
	// a protected directory, where the guest could not write.
	Bare []string
}

func (e *ReplacedError) Error() string {
	return some(e.Paths, "was", "were") + " replaced on this machine since"
}

// A Process is one that cannot be mistaken for a later one of the same number.
type Process struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"`
}

func protectionPath(vmKey, token string) string {
	return filepath.Join(protectionBase, vmKey, token)
}

// Read returns what was written down for a token; fs.ErrNotExist if
// nothing was.
func Read(vmKey, token string) (Protection, error) {
	var p Protection
	b, err := os.ReadFile(protectionPath(vmKey, token))
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%s: %w", protectionPath(vmKey, token), err)
	}
	return p, nil
}

// Holds says why the protection of the folder at src, whose token is the mount
// t, does not hold any more; nil if it does.
func (p Protection) Holds(src string, t mountinfo.Mount) error {
	if p.Failed != "" {
		return &FailedError{p.Failed}
	}
	if p.Boot != virtiofsd.BootID() {
		return errors.New("this machine was started since")
	}
	if p.MountID != t.ID {
		return errors.New("the folder was shared again since")
	}
	if len(p.Daemons) == 0 {
		return errors.New("the VM was started since")
	}
	for _, d := range p.Daemons {
		if now, err := startOf(d.PID); err != nil || now != d.Started {
			return errors.New("the VM was started again since")
		}
	}
	if len(p.Open) > 0 {
		e := &OpenError{Unknown: true}
		for rel, how := range p.Open {
			e.Paths = append(e.Paths, rel)
			e.Unknown = e.Unknown && how == heldUnknown
		}
		slices.Sort(e.Paths)
		return e
	}
	for rel := range p.Paths {
		if _, ok := p.Files[rel]; !ok {
			return errors.New("an older aivm protected it, and nothing tells what the VM had opened before")
		}
	}
	replaced, changed, twice, err := compare(src, p.Files)
	switch {
	case err != nil:
		return err
	case len(replaced) > 0:
		bare := slices.DeleteFunc(slices.Clone(replaced), func(rel string) bool { _, own := p.Paths[rel]; return !own })
		return &ReplacedError{replaced, bare}
	case len(twice) > 0:
		return fmt.Errorf("%s a second name, by which the VM may write it", some(twice, "has", "have"))
	case len(p.Links) > 0:
		return fmt.Errorf("%s a symbolic link, or behind one", some(p.Links, "is", "are"))
	case len(changed) > 0:
		return fmt.Errorf("%s touched on this machine since, and whether the VM can write it now is not known", some(changed, "was", "were"))
	}
	return nil
}

// heldUnknown is what Protection.Open says where a daemon's descriptors do not
// show what the guest can open.
const heldUnknown = "unknown"

// startOf reads when a process started, in ticks since boot (field 22 of
// proc_pid_stat(5); the name in field 2 may hold anything).
func startOf(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// newProtection says what holds now that the daemons have the mounts: late are
// those they had not yet.
func newProtection(o record.Bind, t mountinfo.Mount, daemons []mount.Copy, stamps map[string]Stamp, late map[string]bool) (Protection, error) {
	p := Protection{Boot: virtiofsd.BootID(), MountID: t.ID, Paths: map[string]uint64{}, Files: stamps}
	for _, d := range daemons {
		started, err := startOf(d.PID)
		if err != nil {
			return p, err
		}
		if one := (Process{d.PID, started}); !slices.Contains(p.Daemons, one) {
			p.Daemons = append(p.Daemons, one)
		}
	}
	if err := p.findPaths(o, t); err != nil {
		return p, err
	}
	if len(daemons) == 0 {
		return p, nil
	}
	p.keepLate(o, late)
	still := len(late) == 0 || landed(daemons)
	var err error
	if p.Open, err = held(o, t, daemons); err != nil {
		return p, err
	}
	unseen := p.Late // what no descriptor may tell of
	if len(p.Late) > 0 && !slices.ContainsFunc(daemons, func(c mount.Copy) bool { return !showsAll(c) }) {
		unseen = nil
	}
	if !still {
		unseen = append(slices.Clone(unseen), slices.Collect(maps.Keys(late))...)
	}
	for _, rel := range readOnly(o.Protect) {
		// Under a directory whose mount came late, too.
		if slices.ContainsFunc(unseen, func(l string) bool { return l == rel || strings.HasPrefix(rel, l+"/") }) && p.Open[rel] == "" {
			p.Open[rel] = heldUnknown
		}
	}
	return p, nil
}

// findPaths notes which of the paths are there.
func (p *Protection) findPaths(o record.Bind, t mountinfo.Mount) error {
	top, err := openTop(t.Point)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	for _, pt := range points(o.Protect) {
		fd, err := openBelow(top, pt.rel)
		if notBelow(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("opening %s: %w", pt.rel, err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err != nil {
			return err
		}
		p.Paths[pt.rel] = st.Ino
	}
	return nil
}

// keepLate notes what was protected late, now or earlier in the life of one of
// these daemons.
func (p *Protection) keepLate(o record.Bind, late map[string]bool) {
	was, err := Read(o.VMKey, o.Token)
	lives := was.Boot == p.Boot && slices.ContainsFunc(was.Daemons, func(d Process) bool { return slices.Contains(p.Daemons, d) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		lives = true // it was there, and says nothing
	}
	for _, pt := range points(o.Protect) {
		now, there := p.Files[pt.rel]
		if !there {
			continue
		}
		then, known := was.Files[pt.rel]
		// A run that was killed may have put a mount back and not written it down.
		other, touched := then.differs(now)
		if late[pt.rel] || lives && (!known || other || touched || slices.Contains(was.Late, pt.rel)) {
			p.Late = append(p.Late, pt.rel)
		}
	}
}

// failedProtection is what is written down where protecting failed. It names the
// daemons and no files: the next run takes all that these daemons serve as
// protected late (keepLate).
func failedProtection(o record.Bind, t mountinfo.Mount, err error) Protection {
	p := Protection{Boot: virtiofsd.BootID(), MountID: t.ID, Failed: "protecting it failed: " + err.Error()}
	if was, err := Read(o.VMKey, o.Token); err == nil {
		p.Daemons = was.Daemons
	}
	return p
}

// writeProtection writes down what holds, readable by the VM's owner.
func writeProtection(o record.Bind, p Protection) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	uid, _, _ := strings.Cut(o.VMKey, "-")
	owner, err := strconv.Atoi(uid)
	if err != nil {
		return err
	}
	path := protectionPath(o.VMKey, o.Token)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Chmod(0o400), f.Chown(owner, -1), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Forget removes what was written down for a token.
func Forget(vmKey, token string) error {
	path := protectionPath(vmKey, token)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // if it was the VM's last one
	return nil
}
