package root

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// kvmDevice is the device's number: misc major, minor 232 (the kernel's
// Documentation/admin-guide/devices.txt).
var kvmDevice = unix.Mkdev(10, 232)

// openKVM does what QEMU's udev rule does. Without it QEMU's probe, which
// still has root's rights, sees KVM and libvirt's later look, as QEMU's user,
// does not: libvirt then distrusts its cache and probes again for every single
// device of a definition, minutes in all.
func openKVM() error {
	g, err := user.LookupGroup("kvm")
	if err != nil {
		return fmt.Errorf("group kvm: %w", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group kvm: %w", err)
	}
	f, err := os.OpenFile("/dev/kvm", unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("/dev/kvm: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != kvmDevice {
		return fmt.Errorf("/dev/kvm is not the KVM device")
	}
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := os.Chown(path, int(st.Uid), gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}
