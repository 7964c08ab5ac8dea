package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

const (
	servedRoot = "/run/aivm/fs" // below it each file server's mount, with numbered directories
	maxMounts  = 64
)

// mounts are the folders of the host in this guest.
type mounts struct {
	served map[string]string // where each file server is mounted, by transport and tag
	bound  []string          // in the order they were mounted
	reaper *reaper
	spare  *relay // waits for the folder server
	relay  *relay // serves it
}

// A conflictError says that a folder cannot be mounted at a path.
type conflictError struct{ path, reason string }

func (e *conflictError) Error() string { return e.path + ": " + e.reason }

// system are the directories of the guest that no folder may cover or lie in.
var system = []string{
	"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr", "/var/lib", "/lost+found",
}

// checkMounts finds out which folders cannot be mounted, before any is.
func (g *guest) checkMounts(list []wire.Mount) error {
	if len(list) > maxMounts {
		return fmt.Errorf("folders: %d are more than %d", len(list), maxMounts)
	}
	var earlier []string
	for _, m := range list {
		if m.Export < 0 || m.Transport != "" && m.Transport != wire.Relay && m.Transport != wire.Virtiofs {
			return fmt.Errorf("folders: no export %d over %q", m.Export, m.Transport)
		}
		for _, path := range append([]string{m.Path}, m.Also...) {
			if err := g.checkPath(path, earlier); err != nil {
				return err
			}
			earlier = append(earlier, path)
		}
	}
	return nil
}

func (g *guest) checkPath(path string, earlier []string) error {
	conflict := func(reason string) error { return &conflictError{path, reason} }
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		return conflict("this is not a clean absolute path")
	}
	if path == "/" {
		return conflict("this is the guest's root directory")
	}
	for _, dir := range system {
		if within(path, dir) || within(dir, path) {
			return conflict("the guest has its system in " + dir)
		}
	}
	if slices.Contains(earlier, path) {
		return conflict("another folder is mounted there")
	}
	if slices.ContainsFunc(earlier, func(dir string) bool { return within(path, dir) }) {
		return nil // seen when that is mounted
	}
	for dir := path; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Lstat(g.root + dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return conflict(err.Error())
		case !info.IsDir():
			return conflict("in the guest " + dir + " is not a directory")
		case dir == path:
			entries, err := os.ReadDir(g.root + dir)
			if err != nil || len(entries) > 0 {
				return conflict("the guest has files there")
			}
		}
	}
	return nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// setMounts mounts the folders, all or none. A file server stays mounted.
func (g *guest) setMounts(r wire.SetupRequest) error {
	for _, m := range r.Mounts {
		source, err := g.serve(m)
		if err != nil {
			return err
		}
		for _, path := range append([]string{m.Path}, m.Also...) {
			if err := g.bind(filepath.Join(source, strconv.Itoa(m.Export)), path, m.ReadOnly); err != nil {
				g.mounts.unbind()
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}

// serve mounts the file server of a folder, once.
func (g *guest) serve(m wire.Mount) (string, error) {
	kind := m.Transport
	if kind == "" {
		kind = wire.Relay
	}
	key := strings.TrimSpace(kind + " " + m.Tag)
	if dir, ok := g.mounts.served[key]; ok {
		return dir, nil
	}
	dir := filepath.Join(servedRoot, strconv.Itoa(len(g.mounts.served)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var err error
	if kind == wire.Relay {
		err = g.mounts.startRelay(dir)
	} else {
		err = unix.Mount(m.Tag, dir, "virtiofs", unix.MS_NOSUID|unix.MS_NODEV, "")
	}
	if err != nil {
		return "", fmt.Errorf("file server %s: %w", key, err)
	}
	if g.mounts.served == nil {
		g.mounts.served = map[string]string{}
	}
	g.mounts.served[key] = dir
	if kind == wire.Relay {
		if err := readAhead(dir); err != nil {
			logf("file server %s: reading ahead: %v", key, err)
		}
	}
	return dir, nil
}

// keepRelay sees to it that a relay waits.
func (m *mounts) keepRelay() error {
	if m.spare != nil {
		if m.spare.wait() == nil {
			return nil
		}
		m.spare.kill()
		m.spare = nil
	}
	l, err := newRelay(m.reaper)
	if err != nil {
		return err
	}
	if err := l.wait(); err != nil {
		l.kill()
		return err
	}
	m.spare = l
	return nil
}

// startRelay mounts the folder server behind the port aivm.fs at dir.
func (m *mounts) startRelay(dir string) error {
	port, err := waitFor(wire.FSPort, findPort)
	if err != nil {
		return fmt.Errorf("the virtio port %s: %w", wire.FSPort, err)
	}
	if err := m.keepRelay(); err != nil {
		return err
	}
	l := m.spare
	m.spare = nil
	if err := l.serve(port, dir); err != nil {
		return err
	}
	m.relay = l
	return nil
}

// readAhead makes the kernel read up to 1 MiB of a file ahead, the largest message of
// the file server at dir. Asking for the device waits for the server's first answer:
// with that the kernel sets what this changes.
func readAhead(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	file := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	return os.WriteFile(file, []byte("1024"), 0)
}

// bind mounts one directory of a file server at path.
func (g *guest) bind(source, path string, readOnly bool) error {
	inFolder := slices.ContainsFunc(g.mounts.bound, func(dir string) bool { return within(path, dir) })
	if inFolder {
		if info, err := os.Lstat(path); err != nil || !info.IsDir() {
			return errors.New("the folder it lies in has no such directory")
		}
	} else if err := g.makeDirs(path); err != nil {
		return err
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	g.mounts.bound = append(g.mounts.bound, path)
	if !readOnly {
		return nil
	}
	return unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

// makeDirs makes a directory and those above it; in the home directory they belong to
// the user.
func (g *guest) makeDirs(path string) error {
	if path == "/" {
		return nil
	}
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, os.ErrNotExist) {
		if err := g.makeDirs(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o755)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err == nil && g.home != "" && within(path, g.home) {
		err = os.Lchown(path, g.uid, g.gid)
	}
	return err
}

// sync writes what is not yet written to the folders.
func (m *mounts) sync() error {
	var failed []error
	for _, dir := range m.served {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Syncfs(fd)
			unix.Close(fd)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", dir, err))
		}
	}
	return errors.Join(failed...)
}

// unbind unmounts the folders, but not their file servers.
func (m *mounts) unbind() {
	for _, dir := range slices.Backward(m.bound) {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	m.bound = nil
}

// unmount unmounts the folders and their file servers.
func (m *mounts) unmount() {
	m.unbind()
	for _, dir := range m.served {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	m.served = nil
	if m.relay != nil {
		m.relay.end()
		m.relay = nil
	}
}
