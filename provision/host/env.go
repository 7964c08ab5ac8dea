package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Env is this package's access to the host. OSEnv returns the real one; tests fill in their own.
type Env struct {
	// Head reads at most limit bytes from the start of a file. Reading all of /proc/cpuinfo asks
	// every CPU for its clock; its first page is enough.
	Head func(path string, limit int) ([]byte, error)
	Stat func(path string) (fs.FileInfo, error)
	// ReadDir returns the names in a directory.
	ReadDir func(path string) ([]string, error)
	// OpenDevice opens a device for reading and writing and closes it again.
	OpenDevice func(path string) error
	// DialUnix connects to a socket and closes the connection.
	DialUnix func(path string) error
	// DiskFree returns the bytes a user may still write to the file system of path, which must
	// exist.
	DiskFree func(path string) (uint64, error)
	// IDMap calls mount_setattr(2) with invalid arguments: ENOSYS means that the kernel cannot map
	// the owners of a mount.
	IDMap  func() error
	Getenv func(string) string
	CPUs   func() int
	Arch   string // a GOARCH
	Euid   int
	Home   string
	Groups func() ([]int, error) // groups of this process
	Now    func() time.Time
	Exe    string // path of this program
	// ClockSynced reports whether the kernel's clock is synchronised (adjtimex(2)).
	ClockSynced func() (bool, error)
	// MakeKVM creates a KVM VM without memory and CPUs and closes it: a device that opens is no
	// proof.
	MakeKVM func() error
	// OneShot tries what "aivm run" needs; nil: it cannot be tried.
	OneShot func(ctx context.Context, templates string) OneShot
	// Output runs a program for the doctor, for at most 5 s, and returns what it printed.
	Output func(ctx context.Context, argv ...string) (string, error)
}

// OSEnv returns access to the machine this process runs on.
func OSEnv() Env {
	home, _ := os.UserHomeDir()
	exe, _ := os.Executable()
	return Env{
		Head: head,
		Stat: os.Stat,
		ReadDir: func(path string) ([]string, error) {
			f, err := os.Open(path)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return f.Readdirnames(-1)
		},
		OpenDevice: func(path string) error {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		},
		DialUnix: func(path string) error {
			c, err := net.DialTimeout("unix", path, 2*time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		},
		DiskFree: func(path string) (uint64, error) {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil {
				return 0, err
			}
			return st.Bavail * uint64(st.Frsize), nil
		},
		IDMap: func() error {
			err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
			if errors.Is(err, unix.ENOSYS) {
				return err
			}
			return nil
		},
		Getenv: os.Getenv,
		CPUs:   runtime.NumCPU,
		Arch:   runtime.GOARCH,
		Euid:   os.Geteuid(),
		Home:   home,
		Groups: os.Getgroups,
		Now:    time.Now,
		Exe:    exe,
		ClockSynced: func() (bool, error) {
			var tx unix.Timex // without modes nothing is set, so no permission is needed
			state, err := unix.Adjtimex(&tx)
			return err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0, err
		},
		MakeKVM: makeKVM,
		Output: func(ctx context.Context, argv ...string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			c := exec.CommandContext(ctx, argv[0], argv[1:]...)
			c.WaitDelay = time.Second
			out, err := c.CombinedOutput()
			return strings.TrimSpace(string(out)), err
		},
	}
}

func head(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

// ioctl numbers of linux/kvm.h: _IO(0xAE, 0) and _IO(0xAE, 1).
const (
	kvmGetAPIVersion = 0xAE00
	kvmCreateVM      = 0xAE01
	kvmAPI           = 12 // the only one since 2007
)

func makeKVM() error {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	v, err := unix.IoctlRetInt(fd, kvmGetAPIVersion)
	if err != nil {
		return err
	}
	if v != kvmAPI {
		return fmt.Errorf("the kernel's KVM speaks version %d", v)
	}
	vm, err := unix.IoctlRetInt(fd, kvmCreateVM)
	if err != nil {
		return err
	}
	return unix.Close(vm)
}
