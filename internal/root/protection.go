package root

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// protectionBase holds what is known of protected tokens.
const protectionBase = "/var/lib/aivm/protect"

// bootID tells one boot of this machine from another.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // ids of mounts and processes have to do
	}
	return strings.TrimSpace(string(b))
}

// A Protection is what holds for a protected token. The mounts are where only
// root can look; this is written by root when they were made, for the person
// whose folder it is, who can check all of it without rights.
type Protection struct {
	Boot    string            `json:"boot"`
	MountID int               `json:"mount_id"` // of the token's mount on this machine
	Daemons []Process         `json:"daemons"`  // in which the mounts are
	Paths   map[string]uint64 `json:"paths"`    // inode of each path that is mounted on itself
}

// A Process is one that cannot be mistaken for a later one of the same number.
type Process struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"`
}

func protectionPath(vmKey, token string) string {
	return filepath.Join(protectionBase, vmKey, token)
}

// ReadProtection returns what was written down for a token; fs.ErrNotExist if
// nothing was.
func ReadProtection(vmKey, token string) (Protection, error) {
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
	if p.Boot != bootID() {
		return errors.New("this machine was started since")
	}
	if p.MountID != t.ID {
		return errors.New("the folder was shared anew since")
	}
	if len(p.Daemons) == 0 {
		return errors.New("the VM was started since")
	}
	for _, d := range p.Daemons {
		if now, err := startOf(d.PID); err != nil || now != d.Started {
			return errors.New("the VM was started anew since")
		}
	}
	for rel, ino := range p.Paths {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(src, rel), &st); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		} else if err == nil && st.Ino != ino {
			return fmt.Errorf("%s was replaced on this machine since", rel)
		}
	}
	return nil
}

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

// writeProtection writes down what holds, readable by the VM's owner.
func writeProtection(o Bind, t mountinfo.Mount, daemons []copyOf) error {
	p := Protection{Boot: bootID(), MountID: t.ID, Paths: map[string]uint64{}}
	for _, d := range daemons {
		started, err := startOf(d.pid)
		if err != nil {
			return err
		}
		p.Daemons = append(p.Daemons, Process{d.pid, started})
	}
	for _, pt := range points(o.Protect) {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(t.Point, pt.rel), &st); err == nil {
			p.Paths[pt.rel] = st.Ino
		}
	}
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

// forgetProtection removes what was written down for a token.
func forgetProtection(vmKey, token string) error {
	path := protectionPath(vmKey, token)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // if it was the VM's last one
	return nil
}
