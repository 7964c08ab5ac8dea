package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

// A guest is what Setup has made of this system.
type guest struct {
	root             string // "" in a VM; tests have another
	user, home       string
	uid, gid         int
	rootUID, rootGID uint32 // those of this process, 0 in a VM
	limits           limits
	mounts           mounts
}

var (
	plainName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	hostName  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$`)
	machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// setup carries a Setup request out.
func (s *server) setup(r wire.SetupRequest) error {
	s.mu.Lock()
	busy := len(s.running) > 0
	s.mu.Unlock()
	if busy {
		return errors.New("commands are running")
	}
	g := &s.guest
	if err := g.check(r); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(wire.SetupRequest) error
	}{
		{"entropy", reseed},
		{"clock", setClock},
		{"host name", g.setHostname},
		{"machine-id", g.setMachineID},
		{"SSH host key", g.setHostKey},
		{"user", g.setUser},
		{"limits", func(r wire.SetupRequest) error { return g.limits.set(r.Limits) }},
		{"network", g.setNetwork},
		{"folders", g.setMounts},
	}
	if !s.init {
		steps = nil
		g.rootUID, g.rootGID = uint32(os.Getuid()), uint32(os.Getgid())
	}
	g.uid, g.gid, g.user, g.home = r.UID, r.GID, r.User, r.Home
	for _, step := range steps {
		if err := step.do(r); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	return nil
}

// check refuses a request that makes no sense, before anything is changed.
func (g *guest) check(r wire.SetupRequest) error {
	switch {
	case !hostName.MatchString(r.Hostname):
		return fmt.Errorf("host name: %q is none", r.Hostname)
	case !machineID.MatchString(r.MachineID):
		return fmt.Errorf("machine-id: %q is none", r.MachineID)
	case r.UID != 0 && !plainName.MatchString(r.User):
		return fmt.Errorf("user: %q is no name for one", r.User)
	case r.UID < 0 || r.GID < 0:
		return fmt.Errorf("user: negative uid or gid")
	case r.UID != 0 && (!filepath.IsAbs(r.Home) || strings.ContainsAny(r.Home, ":\n\x00")):
		return fmt.Errorf("user: %q is no home directory", r.Home)
	}
	return g.checkMounts(r.Mounts)
}

// reseed adds the entropy to the kernel's random numbers, and makes all of them
// depend on it at once: two resumed guests had the same ones until here.
func reseed(r wire.SetupRequest) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info: bits of entropy, size, bytes.
	pool := make([]byte, 0, 8+len(r.Entropy))
	pool = append(pool, wire.Number(uint32(8*len(r.Entropy)))...)
	pool = append(pool, wire.Number(uint32(len(r.Entropy)))...)
	pool = append(pool, r.Entropy...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0]))); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return errno
	}
	return nil
}

func setClock(r wire.SetupRequest) error {
	now := unix.NsecToTimespec(r.Time.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &now)
}

func (g *guest) setHostname(r wire.SetupRequest) error {
	if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
		return err
	}
	if err := g.write("/etc/hostname", r.Hostname+"\n", 0o644); err != nil {
		return err
	}
	return g.edit("/etc/hosts", 0o644, func(lines []string) []string {
		return append(without(lines, func(line string) bool {
			address, _, _ := strings.Cut(line, "\t")
			return strings.TrimSpace(address) == "127.0.1.1" || strings.HasPrefix(line, "127.0.1.1 ")
		}), "127.0.1.1\t"+r.Hostname)
	})
}

func (g *guest) setMachineID(r wire.SetupRequest) error {
	if err := g.write("/etc/machine-id", r.MachineID+"\n", 0o444); err != nil {
		return err
	}
	const dbus = "/var/lib/dbus/machine-id" // normally a link to the former
	if info, err := os.Lstat(g.root + dbus); err == nil && info.Mode().IsRegular() {
		return g.write(dbus, r.MachineID+"\n", 0o444)
	}
	return nil
}

// setHostKey replaces the SSH host keys by the one in the request, where there is a
// server that would use it.
func (g *guest) setHostKey(r wire.SetupRequest) error {
	if err := g.removeHostKeys(); err != nil {
		return err
	}
	if _, err := os.Stat(g.root + "/usr/sbin/sshd"); err != nil || r.HostKey == "" {
		return nil
	}
	const key = "/etc/ssh/ssh_host_ed25519_key"
	if err := g.write(key, r.HostKey, 0o600); err != nil {
		return err
	}
	return g.write(key+".pub", r.HostKeyPub, 0o644)
}

func (g *guest) removeHostKeys() error {
	keys, err := filepath.Glob(g.root + "/etc/ssh/ssh_host_*key*")
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := os.Remove(key); err != nil {
			return err
		}
	}
	return nil
}

// setUser makes the guest user, with the host user's uid and gid. It comes first in
// the files, so that it is the one of its uid where the image has another.
func (g *guest) setUser(r wire.SetupRequest) error {
	if r.UID == 0 {
		return nil
	}
	shell := "/bin/bash"
	if _, err := os.Stat(g.root + shell); err != nil {
		shell = "/bin/sh"
	}
	ofName := func(line string) bool { return strings.HasPrefix(line, r.User+":") }
	first := func(format string, args ...any) func([]string) []string {
		return func(lines []string) []string {
			return append([]string{fmt.Sprintf(format, args...)}, without(lines, ofName)...)
		}
	}
	if err := g.edit("/etc/passwd", 0o644, first("%s:*:%d:%d::%s:%s", r.User, r.UID, r.GID, r.Home, shell)); err != nil {
		return err
	}
	if err := g.edit("/etc/group", 0o644, first("%s:*:%d:", r.User, r.GID)); err != nil {
		return err
	}
	sudo := fmt.Sprintf("%s ALL=(ALL:ALL) NOPASSWD: ALL\n", r.User)
	if err := g.write("/etc/sudoers.d/aivm", sudo, 0o440); err != nil {
		return err
	}
	if err := g.makeHome(r); err != nil {
		return err
	}
	runtime := fmt.Sprintf("%s/run/user/%d", g.root, r.UID)
	if err := os.MkdirAll(runtime, 0o700); err != nil {
		return err
	}
	return os.Lchown(runtime, r.UID, r.GID)
}

// makeHome makes the home directory, if it is missing with the files of /etc/skel,
// and gives it and what is directly in it to the user.
func (g *guest) makeHome(r wire.SetupRequest) error {
	home := g.root + r.Home
	if _, err := os.Lstat(home); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(home, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(home, 0o700); err != nil {
			return err
		}
		skeleton, _ := os.ReadDir(g.root + "/etc/skel")
		for _, e := range skeleton {
			if !e.Type().IsRegular() {
				continue
			}
			text, err := os.ReadFile(g.root + "/etc/skel/" + e.Name())
			if err == nil {
				err = os.WriteFile(home+"/"+e.Name(), text, 0o644)
			}
			if err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Lchown(home+"/"+e.Name(), r.UID, r.GID); err != nil {
			return err
		}
	}
	return os.Lchown(home, r.UID, r.GID)
}

// write writes a file; a link in its place is replaced, not followed.
func (g *guest) write(path, text string, mode os.FileMode) error {
	path = g.root + path
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// edit rewrites a file by its lines.
func (g *guest) edit(path string, mode os.FileMode, change func([]string) []string) error {
	text, err := os.ReadFile(g.root + path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return g.write(path, strings.Join(change(lines), "\n")+"\n", mode)
}

func without(lines []string, drop func(string) bool) []string {
	var kept []string
	for _, line := range lines {
		if !drop(line) {
			kept = append(kept, line)
		}
	}
	return kept
}
