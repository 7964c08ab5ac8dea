package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

const (
	deviceLimit = 30 * time.Second // for the root disk and the port to appear
	devicePoll  = 5 * time.Millisecond
)

// boot makes a booted kernel with aivm's initrd into a running system, and returns
// the open control port.
func boot() (fd int, err error) {
	unix.Umask(0o022)
	for _, m := range []mountPoint{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	} {
		if err := m.mount(); err != nil && !errors.Is(err, unix.EBUSY) {
			return 0, err
		}
	}
	if err := loadModules("/modules.list"); err != nil {
		return 0, err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return 0, err
	}
	device, err := waitFor(parameter(string(line), "aivm.root"), findRoot)
	if err != nil {
		return 0, fmt.Errorf("the root file system: %w", err)
	}
	if err := switchRoot(device); err != nil {
		return 0, err
	}
	if err := mountSystem(); err != nil {
		return 0, err
	}
	port, err := waitFor(wire.ControlPort, findPort)
	if err != nil {
		return 0, fmt.Errorf("the virtio port %s: %w", wire.ControlPort, err)
	}
	return unix.Open(port, unix.O_RDWR|unix.O_CLOEXEC, 0)
}

// waitFor calls find until it finds the named device.
func waitFor(name string, find func(string) (string, error)) (string, error) {
	for deadline := time.Now().Add(deviceLimit); ; time.Sleep(devicePoll) {
		device, err := find(name)
		if err == nil || !errors.Is(err, os.ErrNotExist) || time.Now().After(deadline) {
			return device, err
		}
	}
}

type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.kind, m.target, err)
	}
	return nil
}

// parameter returns the value of a parameter of the kernel command line.
func parameter(line, name string) string {
	for word := range strings.FieldsSeq(line) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

// loadModules loads the modules in the list, one path a line, in its order. One that
// does not load is reported and skipped: what needs it fails with its own name.
func loadModules(list string) error {
	text, err := os.ReadFile(list)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		path := strings.TrimSpace(line)
		if path == "" || strings.HasPrefix(path, "#") {
			continue
		}
		if err := loadModule(filepath.Join("/", path)); err != nil {
			logf("module %s: %v", path, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) { // loaded, or of no use on this machine
		return nil
	}
	return err
}

// switchRoot mounts the device and makes it the root directory, as large as the disk
// has room for. What the initrd had, but the agent, is removed from memory.
func switchRoot(device string) error {
	const root = "/sysroot"
	if err := growPartition(device); err != nil {
		logf("the partition of the root file system keeps its size: %v", err)
	}
	if err := (mountPoint{device, root, "ext4", unix.MS_NOATIME, ""}).mount(); err != nil {
		return err
	}
	if err := growFileSystem(device, root); err != nil {
		logf("the root file system keeps its size: %v", err)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", dir, err)
		}
	}
	for _, path := range []string{"/lib", "/modules", "/modules.list"} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root directory: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// mountSystem mounts what a system has in memory, and makes what udev would.
func mountSystem() error {
	const nosuid, nodev, noexec = unix.MS_NOSUID, unix.MS_NODEV, unix.MS_NOEXEC
	for _, m := range []mountPoint{
		{"tmpfs", "/run", "tmpfs", nosuid | nodev, "mode=755"},
		{"devpts", "/dev/pts", "devpts", nosuid | noexec, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", nosuid | nodev, "mode=1777"},
		{"cgroup2", cgroupRoot, "cgroup2", nosuid | nodev | noexec, ""},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for path, mode := range map[string]os.FileMode{
		"/dev/null": 0o666, "/dev/zero": 0o666, "/dev/full": 0o666, "/dev/random": 0o666, "/dev/urandom": 0o666,
		"/dev/tty": 0o666, "/dev/ptmx": 0o666, "/dev/fuse": 0o666,
	} {
		if err := os.Chmod(path, mode); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for path, mode := range map[string]os.FileMode{"/run/lock": 0o777 | os.ModeSticky, "/run/user": 0o755, "/tmp": 0o777 | os.ModeSticky} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	// As systemd sets them for services and users.
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 524288})
}

// findPort returns the device of the virtio-serial port with the name.
func findPort(name string) (string, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", os.ErrNotExist
}
