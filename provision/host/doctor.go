package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"aivm.dev/aivm/internal/lazyre"
)

// State is the outcome of a check.
type State string

// The states of CONTRACTS' status object.
const (
	OK      State = "ok"
	Bad     State = "bad"
	Unknown State = "unknown"
	Skipped State = "skipped"
)

// Check is one line of a check list, in text and in JSON.
type Check struct {
	ID     string   `json:"id"`
	Label  string   `json:"label"`
	State  State    `json:"state"`
	Detail string   `json:"detail"`
	Fix    []string `json:"fix"`
}

// PathFact is who owns a path and who may write there.
type PathFact struct {
	Path  string
	Mode  fs.FileMode
	UID   int
	Exist bool
	Err   error // could not be looked at
}

// Examination is what only the doctor asks for: it costs a process.
type Examination struct {
	SSHVersion string // as "ssh -V" prints it
	SSHErr     error
	SSHPaths   []PathFact // ~/.ssh and ~/.ssh/config
	UID        int
	DiskDir    string // where VM disks lie
}

// Examine reads what the doctor wants beyond Facts.
func Examine(ctx context.Context, env Env, f Facts, diskDir string) Examination {
	x := Examination{UID: env.Euid, DiskDir: diskDir}
	if ssh := f.Tools["ssh"]; ssh != "" {
		x.SSHVersion, x.SSHErr = env.Output(ctx, ssh, "-V")
	}
	for _, p := range []string{".ssh", ".ssh/config"} {
		fact := PathFact{Path: filepath.Join(env.Home, p)}
		st, err := env.Stat(fact.Path)
		switch {
		case err == nil:
			fact.Exist, fact.Mode, fact.UID = true, st.Mode(), -1
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				fact.UID = int(sys.Uid)
			}
		case !errors.Is(err, fs.ErrNotExist):
			fact.Err = err
		}
		x.SSHPaths = append(x.SSHPaths, fact)
	}
	return x
}

// Doctor judges this machine. Checks that are bad keep VMs from being made or
// reached; a detail beside "ok" may still say what costs time.
func Doctor(f Facts, x Examination) []Check {
	checks := []Check{
		checkSystem(f),
		checkTools(f, "tools", "Programs and packages", Need{}),
		checkTools(f, "image-tools", "Programs for building an image", Need{Image: true}),
		checkLibvirtd(f),
		checkVirtlogd(f),
		checkAccel(f),
		checkKernel(f),
		checkMemory(f),
		checkDisk(f, x.DiskDir),
		checkSSH(f, x),
		checkSSHPaths(x),
	}
	for i := range checks {
		if checks[i].Fix == nil {
			checks[i].Fix = []string{} // programs read an array
		}
	}
	return checks
}

func checkSystem(f Facts) Check {
	c := Check{ID: "system", Label: "System", State: OK, Detail: f.OS.Name}
	if f.WSL {
		c.Detail += ", inside WSL"
	}
	if f.Container != "" {
		c.Detail += ", inside a container (" + f.Container + ")"
	}
	switch {
	case f.Arch != "amd64":
		c.State, c.Detail = Bad, "aivm makes x86-64 VMs only so far, and this machine is "+f.Arch
	case f.OSErr != nil:
		c.State, c.Detail = Unknown, f.OSErr.Error()
	default:
		if _, missing := Missing(f, Need{}); len(missing) > 0 {
			if _, err := install(f, missing); err != nil {
				c.Detail += ": packages have to be installed by hand"
			}
		}
	}
	return c
}

func checkTools(f Facts, id, label string, need Need) Check {
	c := Check{ID: id, Label: label, State: OK, Detail: "all there"}
	tools, packages := Missing(f, need)
	if need.Image {
		base, have := Missing(f, Need{})
		tools, packages = without(tools, base), without(packages, have)
	}
	if len(tools) == 0 {
		return c
	}
	c.State, c.Detail = Bad, "missing: "+strings.Join(tools, ", ")
	if len(packages) > 0 {
		c.Fix = FixPackages(f, packages)
	}
	if need.Image {
		// Nothing needs them as long as a finished image is there.
		c.State = Skipped
		c.Detail += " (only needed to build one)"
	}
	return c
}

func without(all, drop []string) []string {
	var left []string
	for _, s := range all {
		keep := true
		for _, d := range drop {
			keep = keep && s != d
		}
		if keep {
			left = append(left, s)
		}
	}
	return left
}

func checkLibvirtd(f Facts) Check {
	c := Check{ID: "libvirtd", Label: "libvirt", State: OK, Detail: "answers on " + f.Libvirtd.SocketPath}
	d := f.Libvirtd
	switch {
	case d.Connectable:
	case f.Tools["libvirtd"] == "":
		c.State, c.Detail = Bad, "libvirtd is not installed"
	case d.denied() && (d.Running || f.Systemd):
		c.Detail = "runs, but this user may not talk to it: each run that changes something asks for sudo"
		c.Fix = []string{"sudo adduser $USER libvirt, then log in again (group libvirt can do what root can)"}
	default:
		c.State, c.Detail = Bad, fmt.Sprintf("does not answer: %v", d.Err)
		c.Fix = []string{"sudo " + startCommand(f, d.Name)}
	}
	return c
}

func checkVirtlogd(f Facts) Check {
	c := Check{ID: "virtlogd", Label: "libvirt's log daemon", State: OK, Detail: "runs"}
	d := f.Virtlogd
	switch {
	case d.Connectable || d.Running:
	case f.Tools["virtlogd"] == "":
		c.State, c.Detail = Bad, "virtlogd is not installed"
	case f.Systemd && d.Exists:
		c.Detail = "is started by systemd when it is needed"
	case f.Systemd && f.Libvirtd.Running:
		c.State, c.Detail = Bad, fmt.Sprintf("does not answer: %v", d.Err)
		c.Fix = []string{"sudo systemctl start virtlogd.socket"}
	case d.denied():
		c.State, c.Detail = Unknown, "its socket is for root only, and there is no pid file"
	case !f.Systemd:
		c.State, c.Detail = Bad, fmt.Sprintf("does not answer: %v", d.Err)
		c.Fix = []string{"sudo virtlogd -d"}
	default:
		c.Detail = "is started together with libvirtd"
	}
	return c
}

func checkAccel(f Facts) Check {
	c := Check{ID: "acceleration", Label: "Acceleration", State: OK}
	typ, warning := Accel(f)
	if typ == "kvm" {
		c.Detail = "KVM (" + strings.Join(f.CPUFlags, " ") + ")"
		if f.KVM.Reason != "" {
			c.Detail += "; " + f.KVM.Reason
		}
		return c
	}
	// Emulation works; it is a cost, not a fault.
	c.Detail = warning
	if f.Arch == "amd64" && len(f.CPUFlags) == 0 {
		c.Fix = []string{"switch on Intel VT-x or AMD-V in the firmware, or nested virtualisation where this machine is a VM"}
	} else {
		c.Fix = []string{"sudo modprobe " + map[bool]string{true: "kvm_amd", false: "kvm_intel"}[strings.Join(f.CPUFlags, "") == "svm"]}
	}
	return c
}

// Owners of a mount are mapped by mount_setattr(2) with MOUNT_ATTR_IDMAP.
const idmapKernel = "Linux 5.12"

func checkKernel(f Facts) Check {
	c := Check{ID: "kernel", Label: "Kernel", State: OK, Detail: f.Kernel + ", can map the owners of a shared folder"}
	if f.IDMapErr != nil || older(f.Kernel, 5, 12) {
		c.State = Bad
		c.Detail = f.Kernel + " cannot map the owners of a shared folder: files the guest's root makes there belong to root here"
		c.Fix = []string{"use " + idmapKernel + " or newer, or share folders in git mode"}
	}
	return c
}

var releaseRE = lazyre.New(`^(\d+)\.(\d+)`)

// older is false when the release cannot be parsed: not known to be old.
func older(release string, major, minor int) bool {
	m := releaseRE.FindStringSubmatch(release)
	if m == nil {
		return false
	}
	a, _ := strconv.Atoi(m[1])
	b, _ := strconv.Atoi(m[2])
	return a < major || a == major && b < minor
}

func checkMemory(f Facts) Check {
	c := Check{ID: "memory", Label: "Memory", State: OK}
	if f.MemErr != nil {
		c.State, c.Detail = Unknown, f.MemErr.Error()
		return c
	}
	c.Detail = fmt.Sprintf("%d MiB free of %d", f.MemAvailMB, f.MemTotalMB)
	if f.MemAvailMB*3/4 < minRAMMB {
		c.State = Bad
		c.Fix = []string{"close some programs, or shut down another VM: aivm list"}
	}
	return c
}

func checkDisk(f Facts, dir string) Check {
	c := Check{ID: "disk", Label: "Disk space", State: OK}
	free, err := f.DiskFreeGB(dir)
	if err != nil {
		c.State, c.Detail = Unknown, err.Error()
		return c
	}
	c.Detail = fmt.Sprintf("%d GiB free at %s", free, dir)
	if free < minDiskGB {
		c.State, c.Fix = Bad, []string{"make room there: df -h " + dir}
	}
	return c
}

var sshVersionRE = lazyre.New(`^OpenSSH_(\d+)\.(\d+)`)

func checkSSH(f Facts, x Examination) Check {
	c := Check{ID: "ssh", Label: "SSH client", State: OK, Detail: x.SSHVersion}
	switch {
	case f.Tools["ssh"] == "":
		c.State, c.Detail = Bad, "ssh is not installed"
		c.Fix = []string{"sudo apt-get install --no-install-recommends openssh-client"}
	case x.SSHErr != nil:
		c.State, c.Detail = Unknown, fmt.Sprintf("%s -V: %v", f.Tools["ssh"], x.SSHErr)
	default:
		m := sshVersionRE.FindStringSubmatch(x.SSHVersion)
		if m == nil {
			c.State = Unknown
			break
		}
		major, _ := strconv.Atoi(m[1])
		minor, _ := strconv.Atoi(m[2])
		// Include came with 7.3.
		if major < 7 || major == 7 && minor < 3 {
			c.State = Bad
			c.Detail += ": too old for the Include line aivm puts into ~/.ssh/config"
		}
	}
	return c
}

// checkSSHPaths looks for what makes ssh refuse its configuration ("Bad owner
// or permissions"); Debian's lets a group write that has nobody else in it.
func checkSSHPaths(x Examination) Check {
	c := Check{ID: "ssh-permissions", Label: "~/.ssh", State: OK, Detail: "owner and permissions are right"}
	for _, p := range x.SSHPaths {
		switch {
		case p.Err != nil:
			c.State, c.Detail = Unknown, p.Err.Error()
			return c
		case !p.Exist:
		case p.UID >= 0 && p.UID != x.UID && p.UID != 0:
			c.State, c.Detail = Bad, fmt.Sprintf("%s belongs to user %d, not to you: ssh may refuse it", p.Path, p.UID)
			c.Fix = []string{"sudo chown $USER " + p.Path}
			return c
		case p.Mode.Perm()&0o022 != 0:
			c.State, c.Detail = Bad, fmt.Sprintf("%s can be written by others (%04o): ssh may refuse it", p.Path, p.Mode.Perm())
			c.Fix = []string{"chmod go-w " + p.Path}
			return c
		}
	}
	if len(x.SSHPaths) > 0 && !x.SSHPaths[0].Exist {
		c.Detail = "not there yet; aivm makes it"
	}
	return c
}
