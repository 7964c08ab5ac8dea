package host

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/plan"
)

func isBusy(err error) bool { return errors.Is(err, syscall.EBUSY) }

// lsmFact says which security modules confine QEMU in addition to its user.
type lsmFact struct {
	AppArmor plan.Known[bool]
	Profiles bool   // libvirt's AppArmor profiles exist
	SELinux  string // "", "permissive", "enforcing"
}

func lsm(env Env) lsmFact {
	var l lsmFact
	b, err := env.Head("/sys/module/apparmor/parameters/enabled", 8)
	switch {
	case err == nil:
		l.AppArmor.Value = strings.HasPrefix(string(b), "Y")
	case !errors.Is(err, fs.ErrNotExist):
		l.AppArmor.Err = err
	}
	for _, p := range []string{"/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper", "/etc/apparmor.d/libvirt"} {
		if _, err := env.Stat(p); err == nil {
			l.Profiles = true
		}
	}
	if b, err := env.Head("/sys/fs/selinux/enforce", 8); err == nil {
		l.SELinux = map[bool]string{true: "enforcing", false: "permissive"}[strings.TrimSpace(string(b)) == "1"]
	}
	return l
}

func checkLSM(f Facts, x Examination) Check {
	c := Check{ID: "security-modules", Label: "AppArmor and SELinux", State: OK}
	l := x.LSM
	if l.SELinux == "" && l.AppArmor.Err == nil && !l.AppArmor.Value {
		c.addEvidence("/sys/module/apparmor and /sys/fs/selinux: absent or off")
	}
	switch {
	case l.SELinux == "enforcing":
		// SELinux policies differ by release, so only a running VM shows the result.
		c.State = Unknown
		c.Detail = "SELinux is enforcing and confines QEMU; only a running VM shows whether its policy lets virtiofsd serve your folders"
		c.Fix = []string{"if a shared folder stays empty: sudo ausearch -m avc -ts recent -c virtiofsd"}
		c.addEvidence("/sys/fs/selinux/enforce: 1")
	case l.AppArmor.Err != nil:
		c.State, c.Detail = Unknown, "AppArmor: "+l.AppArmor.Err.Error()
	case l.AppArmor.Value && !l.Profiles && f.Tools["libvirtd"] != "":
		c.Detail = "AppArmor is on, but libvirt's profiles are missing: QEMU is confined by its user alone"
		c.addEvidence("/sys/module/apparmor/parameters/enabled: Y")
		c.addEvidence("/etc/apparmor.d: no libvirt profile")
	case l.AppArmor.Value:
		c.Detail = "AppArmor is on: libvirt confines each QEMU to the files of its VM"
		c.addEvidence("/sys/module/apparmor/parameters/enabled: Y")
	case l.SELinux == "permissive":
		c.Detail = "SELinux is permissive and only logs: QEMU is confined by its user alone"
		c.addEvidence("/sys/fs/selinux/enforce: 0")
	default:
		c.Detail = "neither is active: QEMU is confined by its user alone"
	}
	return c
}

func checkClock(f Facts, x Examination) Check {
	c := Check{ID: "clock", Label: "Clock", State: OK}
	k := x.Clock
	now := k.Now.UTC().Format("2006-01-02 15:04 MST")
	c.addEvidence("this machine's clock: %s", now)
	sync := []string{"sudo timedatectl set-ntp true"}
	if !f.Systemd {
		sync = []string{"run an NTP client, such as chrony"}
	}
	if f.Container != "" || f.WSL {
		sync = []string{"synchronise the clock of the machine that hosts this one"}
	}
	switch {
	case !k.Built.IsZero() && k.Built.Sub(k.Now) > 24*time.Hour:
		c.State = Bad
		c.Detail = fmt.Sprintf("the clock shows %s, but the aivm program file is from %s: certificates and packages will be refused, on this machine and in VMs", now, k.Built.UTC().Format(time.DateOnly))
		c.Fix = sync
	case k.Synced.Err != nil:
		c.State, c.Detail = Unknown, fmt.Sprintf("cannot tell whether the clock is synchronised: %v", k.Synced.Err)
	case !k.Synced.Value:
		c.State = Unknown
		c.Detail = "the clock is not synchronised, so " + now + " may be wrong; VMs start with the same time"
		c.Fix = sync
		c.addEvidence("adjtimex: unsynchronised")
	default:
		c.Detail = "synchronised (" + now + ")"
		c.addEvidence("adjtimex: synchronised")
	}
	return c
}

func checkVirtiofsd(f Facts, x Examination) Check {
	c := Check{ID: "virtiofsd", Label: "virtiofsd"}
	path := f.Tools["virtiofsd"]
	first, _, _ := strings.Cut(x.Virtiofs.Value, "\n")
	switch {
	case path == "":
		c.State, c.Detail = Bad, "not installed: folders cannot be shared"
		if _, missing := Missing(f, Need{}); len(missing) > 0 {
			c.Fix = FixPackages(f, missing)
		}
	case x.Virtiofs.Err != nil && strings.Contains(x.Virtiofs.Value, "setgroups"):
		// The C virtiofsd drops its groups before it reads its options, which only root may do.
		c.State, c.Detail = OK, "QEMU's C implementation, which prints its version only for root"
		if x.Libvirt != nil && x.Libvirt.Err == nil {
			c.Detail += "; QEMU is " + x.Libvirt.Value.QEMU
		}
	case x.Virtiofs.Err != nil:
		c.State, c.Detail = Unknown, fmt.Sprintf("%s --version: %v", path, x.Virtiofs.Err)
	case !strings.HasPrefix(first, "virtiofsd "):
		c.State, c.Detail = Unknown, fmt.Sprintf("%s --version prints %q", path, first)
	case strings.HasPrefix(first, "virtiofsd version"):
		c.State, c.Detail = OK, first+", QEMU's C implementation"
	default:
		c.State, c.Detail = OK, first
	}
	if path != "" {
		c.addEvidence("%s --version: %s", path, first)
	}
	return c
}

// mapsOwners holds the file systems whose mounts can map owners, with the kernel version that added
// it (FS_ALLOW_IDMAP in the kernel's sources).
var mapsOwners = map[string][2]int{
	"ext4": {5, 12}, "xfs": {5, 12}, "vfat": {5, 12}, "btrfs": {5, 15}, "ntfs3": {5, 15}, "f2fs": {5, 18},
	"overlay": {5, 19}, "squashfs": {6, 2}, "tmpfs": {6, 3}, "cephfs": {6, 7}, "ceph": {6, 7}, "bcachefs": {6, 7},
}

// noOwners holds the file systems that cannot.
var noOwners = map[string]bool{"nfs": true, "nfs4": true, "cifs": true, "smb3": true, "9p": true, "ecryptfs": true, "drvfs": true, "afs": true, "vboxsf": true}

// CannotMapOwners reports whether mounts of this type of file system are known not to map owners.
func CannotMapOwners(fs string) bool { return noOwners[fs] || strings.HasPrefix(fs, "fuse") }

// idmapKernel is the first kernel that maps the owners of a mount: mount_setattr(2) with
// MOUNT_ATTR_IDMAP.
const idmapKernel = "Linux 5.12"

func checkKernel(f Facts, x Examination) Check {
	c := Check{ID: "kernel", Label: "Kernel", State: OK, Detail: f.Kernel + ", can map the owners of a shared folder"}
	if f.IDMapErr != nil || older(f.Kernel, 5, 12) {
		c.State = Bad
		c.Detail = f.Kernel + " cannot map the owners of a shared folder: files that the guest's root creates there belong to root on this machine"
		c.Fix = []string{"use " + idmapKernel + " or newer, or share folders in git mode"}
		return c
	}
	c.addEvidence("mount_setattr: supported")
	fs := x.HomeFS.Value
	since, known := mapsOwners[fs]
	cannot := CannotMapOwners(fs)
	switch {
	case x.HomeFS.Err != nil:
		c.addEvidence("file system of the home directory: %v", x.HomeFS.Err)
	case fs == "":
	case known && !older(f.Kernel, since[0], since[1]):
		c.Detail += "; your home is on " + fs + ", which can"
	case known || cannot:
		c.Detail += "; your home is on " + fs + ", which cannot: files that the guest's root creates there belong to root on this machine"
		c.Fix = []string{"share folders on another file system, or in git mode: aivm attach FOLDER --mode git"}
	default:
		c.Detail += "; whether " + fs + ", the file system of your home, can too shows only when a folder on it is shared"
	}
	if fs != "" {
		c.addEvidence("file system of the home directory: %s", fs)
	}
	return c
}

// checkSSHServers reports the versions of the SSH servers in running VMs and on the host.
func checkSSHServers(x Examination) Check {
	c := Check{ID: "ssh-server", Label: "SSH servers", State: Skipped, Detail: "no VM is running"}
	var banners, silent []string
	for _, s := range x.SSHServers {
		if s.Err != nil {
			silent = append(silent, fmt.Sprintf("%s: %v", s.Where, s.Err))
			continue
		}
		banners = append(banners, s.Where+": "+strings.TrimPrefix(strings.TrimSpace(s.Banner), "SSH-2.0-"))
	}
	for _, s := range append(banners, silent...) {
		c.addEvidence("%s", s)
	}
	switch {
	case len(silent) > 0:
		c.State, c.Detail = Unknown, strings.Join(append(silent, banners...), "; ")
		c.Fix = []string{"aivm status --detail"}
	case len(banners) > 0:
		c.State, c.Detail = OK, strings.Join(banners, "; ")
	}
	// An sshd without -V prints "unknown option -- V" first.
	for line := range strings.Lines(x.SSHD) {
		if strings.HasPrefix(line, "OpenSSH_") {
			c.Detail += "; this machine: " + strings.TrimSpace(line)
			c.addEvidence("sshd -V: %s", strings.TrimSpace(line))
		}
	}
	return c
}
