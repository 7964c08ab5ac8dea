package host

import (
	"fmt"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/ui"
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
	// Evidence is what was looked at and what was seen there.
	Evidence []string `json:"evidence,omitempty"`
}

// NewCheck returns a check with its detail put together as fmt.Sprintf does.
func NewCheck(id, label string, state State, format string, args ...any) Check {
	return Check{ID: id, Label: label, State: state, Detail: fmt.Sprintf(format, args...)}
}

func (c *Check) saw(format string, args ...any) {
	c.Evidence = append(c.Evidence, ui.Clean(fmt.Sprintf(format, args...)))
}

// Doctor judges this machine. Checks that are bad keep VMs from being made or
// reached; a detail beside "ok" may still say what costs time.
func Doctor(f Facts, x Examination) []Check {
	checks := []Check{
		checkSystem(f, x),
		checkTools(f, "tools", "Programs and packages", Need{}),
		checkTools(f, "image-tools", "Programs for building an image", Need{Image: true}),
		checkLibvirtd(f, x),
		checkVirtlogd(f),
		checkVirtiofsd(f, x),
		checkAccel(f, x),
		checkNested(f, x),
		checkKernel(f, x),
		checkMemory(f),
		checkDisk(f, "disk", "Disk space", x.DiskDir, minDiskGB),
		checkDisk(f, "image-cache", "Disk space for images", x.CacheDir, 1),
		checkLSM(f, x),
		checkClock(f, x),
		checkFilters(f, x),
		checkVPN(x),
		checkSSH(f, x),
		checkSSHServers(x),
		checkSSHPaths(x),
	}
	for i := range checks {
		if checks[i].Fix == nil {
			checks[i].Fix = []string{} // programs read an array
		}
	}
	return checks
}

func checkTools(f Facts, id, label string, need Need) Check {
	c := Check{ID: id, Label: label, State: OK, Detail: "all there"}
	tools, packages := Missing(f, need)
	if need.Image {
		base, have := Missing(f, Need{})
		tools, packages = without(tools, base), without(packages, have)
	}
	for _, t := range needed {
		if p := f.Tools[t.name]; p != "" && t.image == need.Image {
			c.saw("%s: %s", t.name, p)
		}
	}
	if len(tools) == 0 {
		return c
	}
	c.State, c.Detail = Bad, "missing: "+strings.Join(tools, ", ")
	if len(packages) > 0 {
		c.Fix = FixPackages(f, packages)
	} else {
		c.Fix = []string{"images are built on Debian and Ubuntu only; here, use a finished one: aivm image list"}
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

// checkLibvirtd says whether libvirt is reached, and by which right.
func checkLibvirtd(f Facts, x Examination) Check {
	d := f.Libvirtd
	c := Check{ID: "libvirtd", Label: "libvirt", State: OK, Detail: "answers on " + d.SocketPath}
	if d.Exists {
		c.saw("%s: %s", d.SocketPath, map[bool]string{true: "takes connections", false: fmt.Sprint(d.Err)}[d.Connectable])
	}
	refused := !x.Helped && (d.denied() && (d.Running || f.Systemd) || x.Denied)
	switch {
	case f.Tools["libvirtd"] == "" && !d.Connectable:
		c.State, c.Detail = Bad, "libvirtd is not installed"
		if _, missing := Missing(f, Need{}); len(missing) > 0 {
			c.Fix = FixPackages(f, missing)
		}
	case refused && x.Groups.Listed && !x.Groups.Here:
		c.Detail = "runs, and refuses this session: you are in group libvirt, but were not yet when you logged in; until then each run that changes something asks for sudo"
		c.Fix = []string{"log out and in again"}
	case refused:
		c.Detail = "runs, but this user may not talk to it: each run that changes something asks for sudo"
		if x.Groups.Exists {
			c.Fix = []string{"sudo usermod -aG libvirt $USER, then log in again (group libvirt can do what root can)"}
		}
	case (d.Connectable || x.Helped) && (x.Libvirt == nil || x.Libvirt.Err == nil):
		c.Detail += right(x)
		if x.Libvirt != nil {
			v := x.Libvirt.Value
			c.Detail += ": libvirt " + v.Library + ", QEMU " + v.QEMU
			c.saw("libvirt %s, QEMU %s", v.Library, v.QEMU)
		}
	case d.Connectable:
		c.State, c.Detail = Bad, fmt.Sprintf("takes connections on %s, but is of no use: %v", d.SocketPath, x.Libvirt.Err)
		c.Fix = []string{"journalctl -u " + d.Name, "sudo " + strings.Replace(startCommand(f, d.Name), " start ", " restart ", 1)}
	default:
		c.State, c.Detail = Bad, fmt.Sprintf("does not answer: %v", d.Err)
		c.Fix = []string{"sudo " + startCommand(f, d.Name)}
	}
	for _, p := range f.Parts {
		if c.State == OK && !p.Exists {
			c.State, c.Detail = Bad, p.Name+", its part for "+map[string]string{"virtnetworkd": "networks", "virtstoraged": "storage"}[p.Name]+", does not listen"
			c.Fix = []string{"sudo " + startCommand(f, p.Name)}
		}
	}
	return c
}

// right is by what this person may talk to libvirt.
func right(x Examination) string {
	switch {
	case x.Helped:
		return ", through sudo: each run that changes something asks for it"
	case x.UID == 0:
		return ", as root"
	case x.Groups.Here:
		return ", through group libvirt (which can do what root can)"
	}
	return ", through polkit"
}

func checkVirtlogd(f Facts) Check {
	c := Check{ID: "virtlogd", Label: "libvirt's log daemon", State: OK, Detail: "runs"}
	d := f.Virtlogd
	c.saw("%s: there %v, takes connections %v; process %v", d.SocketPath, d.Exists, d.Connectable, d.Running)
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
	c.saw("/proc/meminfo: MemTotal %d MiB, MemAvailable %d MiB", f.MemTotalMB, f.MemAvailMB)
	if f.MemAvailMB*3/4 < minRAMMB {
		c.State = Bad
		c.Fix = []string{"close some programs, or shut down another VM: aivm list"}
	}
	return c
}

func checkDisk(f Facts, id, label, dir string, least int) Check {
	c := Check{ID: id, Label: label, State: OK}
	free, err := f.DiskFreeGB(dir)
	if err != nil {
		c.State, c.Detail = Unknown, err.Error()
		return c
	}
	c.Detail = fmt.Sprintf("%d GiB free at %s", free, dir)
	c.saw("statfs of %s: %d GiB for users", dir, free)
	if free < least {
		c.State, c.Fix = Bad, []string{"make room there: df -h " + dir}
		c.Detail += fmt.Sprintf(", %d are the least", least)
	}
	return c
}

var sshVersionRE = lazyre.New(`^OpenSSH_(\d+)\.(\d+)`)

func checkSSH(f Facts, x Examination) Check {
	c := Check{ID: "ssh", Label: "SSH client", State: OK, Detail: x.SSHVersion}
	if p := f.Tools["ssh"]; p != "" {
		c.saw("%s -V: %s", p, x.SSHVersion)
	}
	switch {
	case f.Tools["ssh"] == "":
		c.State, c.Detail = Bad, "ssh is not installed"
		if _, missing := Missing(f, Need{}); len(missing) > 0 {
			c.Fix = FixPackages(f, missing)
		}
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
		if p.Exist {
			c.saw("%s: mode %04o, owner %d", p.Path, p.Mode.Perm(), p.UID)
		} else if p.Err == nil {
			c.saw("%s: not there", p.Path)
		}
	}
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
