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

// protectionBase is the directory of the records of protected tokens.
const protectionBase = "/var/lib/aivm/protect"

// A Protection is the recorded state of a token's protected paths. Only root can see
// the mounts themselves; root writes this record when it makes them, and the
// folder's owner can check all of it without root.
type Protection struct {
	Boot    string            `json:"boot"`
	MountID int               `json:"mount_id"`        // of the token's mount on this machine
	Daemons []Process         `json:"daemons"`         // the processes that have the mounts
	Paths   map[string]uint64 `json:"paths"`           // inode of each path that is mounted on itself
	Files   map[string]Stamp  `json:"files,omitempty"` // stamps of these paths and of the files below them
	// Open are the paths that the guest can still write until its daemon ends:
	// "open", "mapped", or "unknown" where descriptors do not show it.
	Open map[string]string `json:"open,omitempty"`
	// Late are the paths that were mounted after the daemon had started: the guest
	// may have opened them before.
	Late   []string `json:"late,omitempty"`
	Links  []string `json:"links,omitempty"`  // paths that cannot be protected because they are links
	Failed string   `json:"failed,omitempty"` // why protecting failed, so that the state is unknown
}

// An OpenError lists protected paths that the guest can still write, because it
// opened them before they were protected. A restart of the VM ends that.
type OpenError struct {
	Paths   []string
	Unknown bool // whether the guest has them open cannot be seen
}

func (e *OpenError) Error() string {
	if e.Unknown {
		return withVerb(e.Paths, "was", "were") + " protected after the VM had started, and the VM may have opened it before: not protected until the VM is restarted"
	}
	return "the VM opened " + strings.TrimSpace(withVerb(e.Paths, "", "")) + " before it was protected, and can write it: not protected until the VM is restarted"
}

// A FailedError says that protecting failed, so that the state is unknown.
type FailedError struct{ Why string }

func (e *FailedError) Error() string { return e.Why }

// A ReplacedError lists protected paths that were replaced on this machine: the
// guest can write them until they are protected again.
type ReplacedError struct {
	Paths []string
	// Bare are those of Paths that lost their own mount. The others are below a
	// protected directory, where the guest could not write.
	Bare []string
}

func (e *ReplacedError) Error() string {
	return withVerb(e.Paths, "was", "were") + " replaced on this machine after being protected"
}

// A Process identifies a process by its number and start time, since numbers are
// reused.
type Process struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"`
}

func protectionPath(vmKey, token string) string {
	return filepath.Join(protectionBase, vmKey, token)
}

// Read reads the record of a token; fs.ErrNotExist if there is none.
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

// Holds checks whether the protection of the folder at src, whose token is the mount
// t, still holds; it returns nil, or an error that says why not.
func (p Protection) Holds(src string, t mountinfo.Mount) error {
	if p.Failed != "" {
		return &FailedError{p.Failed}
	}
	if p.Boot != virtiofsd.BootID() {
		return errors.New("this machine was rebooted after the paths were protected")
	}
	if p.MountID != t.ID {
		return errors.New("the folder was mounted again after the paths were protected")
	}
	if len(p.Daemons) == 0 {
		return errors.New("the VM was started after the paths were protected")
	}
	for _, d := range p.Daemons {
		if now, err := startOf(d.PID); err != nil || now != d.Started {
			return errors.New("the VM was restarted after the paths were protected")
		}
	}
	if len(p.Open) > 0 {
		e := &OpenError{Unknown: true}
		for rel, how := range p.Open {
			e.Paths = append(e.Paths, rel)
			e.Unknown = e.Unknown && how == openUnknown
		}
		slices.Sort(e.Paths)
		return e
	}
	for rel := range p.Paths {
		if _, ok := p.Files[rel]; !ok {
			return errors.New("an older aivm protected the paths and did not record what the VM had opened before")
		}
	}
	replaced, changed, linked, err := compare(src, p.Files)
	switch {
	case err != nil:
		return err
	case len(replaced) > 0:
		bare := slices.DeleteFunc(slices.Clone(replaced), func(rel string) bool { _, own := p.Paths[rel]; return !own })
		return &ReplacedError{replaced, bare}
	case len(linked) > 0:
		return fmt.Errorf("%s a second hard link, through which the VM may write it", withVerb(linked, "has", "have"))
	case len(p.Links) > 0:
		return fmt.Errorf("%s a symbolic link, or below one", withVerb(p.Links, "is", "are"))
	case len(changed) > 0:
		return fmt.Errorf("%s changed on this machine after being protected, and the VM may be able to write it now", withVerb(changed, "was", "were"))
	}
	return nil
}

// openUnknown is the value of Protection.Open where a daemon's descriptors do not
// show what the guest can open.
const openUnknown = "unknown"

// startOf reads the start time of a process, in ticks since boot (field 22 of
// proc_pid_stat(5); the name in field 2 may contain anything).
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

// newProtection determines the state of the protection, now that the daemons have
// the mounts. late are the paths whose mounts were only now added.
func newProtection(o record.Bind, t mountinfo.Mount, daemons []mount.Copy, stamps map[string]Stamp, late map[string]bool) (Protection, error) {
	p := Protection{Boot: virtiofsd.BootID(), MountID: t.ID, Paths: map[string]uint64{}, Files: stamps}
	for _, d := range daemons {
		started, err := startOf(d.PID)
		if err != nil {
			return p, err
		}
		if process := (Process{d.PID, started}); !slices.Contains(p.Daemons, process) {
			p.Daemons = append(p.Daemons, process)
		}
	}
	if err := p.findPaths(o, t); err != nil {
		return p, err
	}
	if len(daemons) == 0 {
		return p, nil
	}
	p.addLate(o, late)
	opensDone := len(late) == 0 || waitForOpens(daemons)
	var err error
	if p.Open, err = stillWritable(o, t, daemons); err != nil {
		return p, err
	}
	unseen := p.Late // paths for which descriptors may not show everything
	if len(p.Late) > 0 && !slices.ContainsFunc(daemons, func(c mount.Copy) bool { return !showsAll(c) }) {
		unseen = nil
	}
	if !opensDone {
		unseen = append(slices.Clone(unseen), slices.Collect(maps.Keys(late))...)
	}
	for _, rel := range readOnly(o.Protect) {
		// Also for paths below a directory that was mounted late.
		if slices.ContainsFunc(unseen, func(l string) bool { return l == rel || strings.HasPrefix(rel, l+"/") }) && p.Open[rel] == "" {
			p.Open[rel] = openUnknown
		}
	}
	return p, nil
}

// findPaths sets p.Paths to the inodes of the paths that exist.
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

// addLate sets p.Late to the paths that were protected late, now or earlier in the
// lifetime of one of these daemons.
func (p *Protection) addLate(o record.Bind, late map[string]bool) {
	previous, err := Read(o.VMKey, o.Token)
	sameDaemon := previous.Boot == p.Boot && slices.ContainsFunc(previous.Daemons, func(d Process) bool { return slices.Contains(p.Daemons, d) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		sameDaemon = true // the record exists but cannot be read
	}
	for _, pt := range points(o.Protect) {
		now, exists := p.Files[pt.rel]
		if !exists {
			continue
		}
		then, known := previous.Files[pt.rel]
		// A killed run may have mounted a path again without recording it.
		other, touched := then.differs(now)
		if late[pt.rel] || sameDaemon && (!known || other || touched || slices.Contains(previous.Late, pt.rel)) {
			p.Late = append(p.Late, pt.rel)
		}
	}
}

// failedProtection returns the record for a failure of protecting. It names the
// daemons and no files, so that the next run counts all paths that these daemons
// serve as protected late (addLate).
func failedProtection(o record.Bind, t mountinfo.Mount, err error) Protection {
	p := Protection{Boot: virtiofsd.BootID(), MountID: t.ID, Failed: "protecting the paths failed: " + err.Error()}
	if previous, err := Read(o.VMKey, o.Token); err == nil {
		p.Daemons = previous.Daemons
	}
	return p
}

// writeProtection writes the record, readable by the VM's owner.
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

// Forget removes the record of a token.
func Forget(vmKey, token string) error {
	path := protectionPath(vmKey, token)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // succeeds only after the VM's last token
	return nil
}
