package checks

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/qemu"
	"aivm.dev/aivm/internal/userfs"
	"aivm.dev/aivm/provision/host"
)

// TryOneShot tries on this machine what "aivm run" needs: it starts QEMU, runs a guest of a few
// instructions under KVM, starts the folder server in each jail, and creates a file without a name in
// the directory of the templates. It is for the user's own process: the folder server is this program.
func TryOneShot(ctx context.Context, templates string) host.OneShot {
	var o host.OneShot
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, r := range userfs.Jails(ctx) {
			o.Jails = append(o.Jails, host.JailFact{Name: fmt.Sprint(r.Kind), Err: r.Err})
		}
	})
	wg.Go(func() { o.Cache, o.CacheFS, o.TmpFile = tryDirectory(templates) })
	_, o.ImgErr = exec.LookPath("qemu-img")
	var program qemu.Program
	if o.QEMU, o.QEMUErr = qemu.Find(); o.QEMUErr == nil {
		program, o.QEMUErr = qemu.Probe(ctx, o.QEMU)
	}
	if o.QEMUErr == nil {
		o.Version, o.Old = program.Version.String(), !program.Version.AtLeast(7, 2)
		o.Accel, o.Why = qemu.Accelerated(ctx, program)
	}
	wg.Wait()
	return o
}

// fileSystemNames has the types that matter here, by their magic number (linux/magic.h).
var fileSystemNames = map[int64]string{
	unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.NFS_SUPER_MAGIC: "nfs", 0x2fc12fc1: "zfs",
}

// tryDirectory creates a file without a name in dir, or in the nearest directory above it that exists.
func tryDirectory(dir string) (tried, fileSystem string, err error) {
	for {
		if st, statErr := os.Stat(dir); statErr == nil && st.IsDir() || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return dir, "an unknown file system", err
	}
	fileSystem = fileSystemNames[int64(st.Type)] //nolint:unconvert // the type differs between architectures
	if fileSystem == "" {
		fileSystem = fmt.Sprintf("a file system of type %#x", st.Type)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.Close(fd)
	}
	return dir, fileSystem, err
}

// OneShotChecks returns the checks of one-shot VMs. As root nothing is tried, because "aivm run" refuses
// root.
func (e Part) OneShotChecks(ctx context.Context) []host.Check {
	f := e.HostFacts()
	if e.Host.OneShot == nil || e.Host.Euid == 0 {
		return (*host.OneShot)(nil).Checks(f)
	}
	o := e.Host.OneShot(ctx, e.templatesDir())
	if f.MemErr == nil {
		o.MemoryMB = f.MemAvailMB
	}
	return o.Checks(f)
}

// templatesDir returns the directory of the templates, beside that of the images.
func (e Part) templatesDir() string { return filepath.Join(filepath.Dir(e.Cache.Dir), "templates") }
