package hostsetup

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// kvmDevice is the device's number: misc major, minor 232 (the kernel's
// Documentation/admin-guide/devices.txt).
var kvmDevice = unix.Mkdev(10, 232)

// OpenKVM gives group kvm access to /dev/kvm, as QEMU's udev rule does. Without it
// QEMU's probe, which runs as root, can use KVM, and libvirt's later check, as QEMU's
// user, cannot: libvirt then rejects its cached capabilities and probes again for every
// device of a definition, which takes minutes in total.
func OpenKVM() error {
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

// LoadKVM loads the kernel module and checks that /dev/kvm exists.
func LoadKVM(ctx context.Context, o record.KVMModule) error {
	if _, err := (program.Command{Argv: []string{"modprobe", "--", o.Name}}).Run(ctx); err != nil {
		if ctx.Err() == nil && strings.Contains(err.Error(), "not supported") {
			return ui.Failed("%w", err).Hint(ui.Remark("enable Intel VT-x or AMD-V in the firmware"))
		}
		return err
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return ui.Failed("module %s is loaded, but /dev/kvm does not exist: %w", o.Name, err).Hint(ui.Cmd("sudo dmesg | grep -i kvm"))
	}
	return nil
}
