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

// lsmFact is what confines QEMU beyond its user.
type lsmFact struct {
	AppArmor plan.Known[bool]
	Profiles bool   // libvirt's own profiles are there
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
		c.saw("/sys/module/apparmor and /sys/fs/selinux: not there, or off")
	}
	switch {
	case l.SELinux == "enforcing":
		// Its policies differ by release; only a running VM shows.
		c.State = Unknown
		c.Detail = "SELinux is enforcing and confines QEMU; whether its policy lets virtiofsd serve your folders shows only when a VM runs"
		c.Fix = []string{"if a shared folder stays empty: sudo ausearch -m avc -ts recent -c virtiofsd"}
		c.saw("/sys/fs/selinux/enforce: 1")
	case l.AppArmor.Err != nil:
		c.State, c.Detail = Unknown, "AppArmor: "+l.AppArmor.Err.Error()
	case l.AppArmor.Value && !l.Profiles && f.Tools["libvirtd"] != "":
		c.Detail = "AppArmor is on, but libvirt's profiles are not there: QEMU is confined by its user alone"
		c.saw("/sys/module/apparmor/parameters/enabled: Y")
		c.saw("/etc/apparmor.d: no profile of libvirt")
	case l.AppArmor.Value:
		c.Detail = "AppArmor is on: libvirt confines each QEMU to the files of its VM"
		c.saw("/sys/module/apparmor/parameters/enabled: Y")
	case l.SELinux == "permissive":
		c.Detail = "SELinux only notes what it would forbid: QEMU is confined by its user alone"
		c.saw("/sys/fs/selinux/enforce: 0")
	default:
		c.Detail = "neither is on: QEMU is confined by its user alone"
	}
	return c
}

func checkClock(f Facts, x Examination) Check {
	c := Check{ID: "clock", Label: "Clock", State: OK}
	k := x.Clock
	now := k.Now.UTC().Format("2006-01-02 15:04 MST")
	c.saw("it is %s by this machine's clock", now)
	sync := []string{"sudo timedatectl set-ntp true"}
	if !f.Systemd {
		sync = []string{"run an NTP client, such as chrony"}
	}
	if f.Container != "" || f.WSL {
		sync = []string{"see to the clock of the machine this one runs on"}
	}
	switch {
	case !k.Built.IsZero() && k.Built.Sub(k.Now) > 24*time.Hour:
		c.State = Bad
		c.Detail = fmt.Sprintf("it is %s by this machine, but aivm's own file is from %s: certificates and packages will be refused, here and in VMs", now, k.Built.UTC().Format(time.DateOnly))
		c.Fix = sync
	case k.Synced.Err != nil:
		c.State, c.Detail = Unknown, fmt.Sprintf("the kernel does not say whether its clock is kept in step: %v", k.Synced.Err)
	case !k.Synced.Value:
		c.State = Unknown
		c.Detail = "nothing keeps the kernel's clock in step, so whether " + now + " is right is not known; VMs start with it"
		c.Fix = sync
		c.saw("adjtimex: unsynchronised")
	default:
		c.Detail = "kept in step (" + now + ")"
		c.saw("adjtimex: synchronised")
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
		// It gives up its groups before it reads its options, which only root may.
		c.State, c.Detail = OK, "QEMU's own in C, which tells its version to root alone"
		if x.Libvirt != nil && x.Libvirt.Err == nil {
			c.Detail += "; QEMU is " + x.Libvirt.Value.QEMU
		}
	case x.Virtiofs.Err != nil:
		c.State, c.Detail = Unknown, fmt.Sprintf("%s --version: %v", path, x.Virtiofs.Err)
	case !strings.HasPrefix(first, "virtiofsd "):
		c.State, c.Detail = Unknown, fmt.Sprintf("%s calls itself %q", path, first)
	case strings.HasPrefix(first, "virtiofsd version"):
		c.State, c.Detail = OK, first+", QEMU's own in C"
	default:
		c.State, c.Detail = OK, first
	}
	if path != "" {
		c.saw("%s --version: %s", path, first)
	}
	return c
}

// mapsOwners are the file systems whose mounts can map owners, and since which
// kernel (FS_ALLOW_IDMAP in the kernel's sources).
var mapsOwners = map[string][2]int{
	"ext4": {5, 12}, "xfs": {5, 12}, "vfat": {5, 12}, "btrfs": {5, 15}, "ntfs3": {5, 15}, "f2fs": {5, 18},
	"overlay": {5, 19}, "squashfs": {6, 2}, "tmpfs": {6, 3}, "cephfs": {6, 7}, "ceph": {6, 7}, "bcachefs": {6, 7},
}

// noOwners are those that cannot.
var noOwners = map[string]bool{"nfs": true, "nfs4": true, "cifs": true, "smb3": true, "9p": true, "ecryptfs": true, "drvfs": true, "afs": true, "vboxsf": true}

// idmapKernel: owners of a mount are mapped by mount_setattr(2) with
// MOUNT_ATTR_IDMAP.
const idmapKernel = "Linux 5.12"

func checkKernel(f Facts, x Examination) Check {
	c := Check{ID: "kernel", Label: "Kernel", State: OK, Detail: f.Kernel + ", can map the owners of a shared folder"}
	if f.IDMapErr != nil || older(f.Kernel, 5, 12) {
		c.State = Bad
		c.Detail = f.Kernel + " cannot map the owners of a shared folder: files the guest's root makes there belong to root here"
		c.Fix = []string{"use " + idmapKernel + " or newer, or share folders in git mode"}
		return c
	}
	c.saw("mount_setattr: there")
	fs := x.HomeFS.Value
	since, known := mapsOwners[fs]
	cannot := noOwners[fs] || strings.HasPrefix(fs, "fuse")
	switch {
	case x.HomeFS.Err != nil:
		c.saw("file system of the home directory: %v", x.HomeFS.Err)
	case fs == "":
	case known && !older(f.Kernel, since[0], since[1]):
		c.Detail += "; your home is on " + fs + ", which can"
	case known || cannot:
		c.Detail += "; your home is on " + fs + ", which cannot: what the guest's root makes in folders there belongs to root here"
		c.Fix = []string{"share folders of another file system, or in git mode: aivm attach FOLDER --mode git"}
	default:
		c.Detail += "; whether " + fs + ", where your home is, can too shows when a folder of it is shared"
	}
	if fs != "" {
		c.saw("file system of the home directory: %s", fs)
	}
	return c
}

// checkSSHServers reads what the servers in running VMs, and this machine's,
// call themselves.
func checkSSHServers(x Examination) Check {
	c := Check{ID: "ssh-server", Label: "SSH servers", State: Skipped, Detail: "no VM runs"}
	var said, silent []string
	for _, s := range x.SSHServers {
		if s.Err != nil {
			silent = append(silent, fmt.Sprintf("%s: %v", s.Where, s.Err))
			continue
		}
		said = append(said, s.Where+": "+strings.TrimPrefix(strings.TrimSpace(s.Banner), "SSH-2.0-"))
	}
	for _, s := range append(said, silent...) {
		c.saw("%s", s)
	}
	switch {
	case len(silent) > 0:
		c.State, c.Detail = Unknown, strings.Join(append(silent, said...), "; ")
		c.Fix = []string{"aivm status --detail"}
	case len(said) > 0:
		c.State, c.Detail = OK, strings.Join(said, "; ")
	}
	// "unknown option -- V" comes first where there is no such option.
	for line := range strings.Lines(x.SSHD) {
		if strings.HasPrefix(line, "OpenSSH_") {
			c.Detail += "; this machine: " + strings.TrimSpace(line)
			c.saw("sshd -V: %s", strings.TrimSpace(line))
		}
	}
	return c
}
