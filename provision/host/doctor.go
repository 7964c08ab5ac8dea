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

// The states of a check in the JSON output of status and doctor.
const (
	OK      State = "ok"
	Bad     State = "bad"
	Unknown State = "unknown"
	Skipped State = "skipped"
)

// Check is one line of a list of checks, in text and in JSON.
type Check struct {
	ID     string   `json:"id"`
	Label  string   `json:"label"`
	State  State    `json:"state"`
	Detail string   `json:"detail"`
	Fix    []string `json:"fix"`
	// Evidence lists what was checked and its state there.
	Evidence []string `json:"evidence,omitempty"`
}

// NewCheck returns a check whose detail is formatted as by fmt.Sprintf.
func NewCheck(id, label string, state State, format string, args ...any) Check {
	return Check{ID: id, Label: label, State: state, Detail: fmt.Sprintf(format, args...)}
}

func (c *Check) addEvidence(format string, args ...any) {
	c.Evidence = append(c.Evidence, ui.Clean(fmt.Sprintf(format, args...)))
}

// Doctor checks the host. A bad check means that VMs cannot be created or reached; the detail of an
// "ok" may still name what makes them slow.
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
	c := Check{ID: id, Label: label, State: OK, Detail: "all installed"}
	tools, packages := Missing(f, need)
	if need.Image {
		base, have := Missing(f, Need{})
		tools, packages = without(tools, base), without(packages, have)
	}
	for _, t := range needed {
		if p := f.Tools[t.name]; p != "" && t.image == need.Image {
			c.addEvidence("%s: %s", t.name, p)
		}
	}
	if len(tools) == 0 {
		return c
	}
	c.State, c.Detail = Bad, "missing: "+strings.Join(tools, ", ")
	if len(packages) > 0 {
		c.Fix = FixPackages(f, packages)
	} else {
		c.Fix = []string{"images can be built on Debian and Ubuntu only; use a finished image: aivm image list"}
	}
	if need.Image {
		// Nobody needs these tools while a finished image is available.
		c.State = Skipped
		c.Detail += " (only needed to build an image)"
	}
	return c
}

func without(all, drop []string) []string {
	var kept []string
	for _, s := range all {
		keep := true
		for _, d := range drop {
			keep = keep && s != d
		}
		if keep {
			kept = append(kept, s)
		}
	}
	return kept
}

// checkLibvirtd checks that libvirt can be reached, and reports by which permission.
func checkLibvirtd(f Facts, x Examination) Check {
	d := f.Libvirtd
	c := Check{ID: "libvirtd", Label: "libvirt", State: OK, Detail: "answers on " + d.SocketPath}
	if d.Exists {
		c.addEvidence("%s: %s", d.SocketPath, map[bool]string{true: "accepts connections", false: fmt.Sprint(d.Err)}[d.Connectable])
	}
	refused := !x.ViaSudo && (d.denied() && (d.Running || f.Systemd) || x.Denied)
	switch {
	case f.Tools["libvirtd"] == "" && !d.Connectable:
		c.State, c.Detail = Bad, "libvirtd is not installed"
		if _, missing := Missing(f, Need{}); len(missing) > 0 {
			c.Fix = FixPackages(f, missing)
		}
	case refused && x.Groups.Listed && !x.Groups.Active:
		c.Detail = "runs, but refuses this session: you were added to group libvirt after you logged in; until you log in again, each run that changes something asks for sudo"
		c.Fix = []string{"log out and in again"}
	case refused:
		c.Detail = "runs, but this user may not connect to it: each run that changes something asks for sudo"
		if x.Groups.Exists {
			c.Fix = []string{"sudo usermod -aG libvirt $USER, then log in again (members of libvirt can do what root can)"}
		}
	case (d.Connectable || x.ViaSudo) && (x.Libvirt == nil || x.Libvirt.Err == nil):
		c.Detail += accessBy(x)
		if x.Libvirt != nil {
			v := x.Libvirt.Value
			c.Detail += ": libvirt " + v.Library + ", QEMU " + v.QEMU
			c.addEvidence("libvirt %s, QEMU %s", v.Library, v.QEMU)
		}
	case d.Connectable:
		c.State, c.Detail = Bad, fmt.Sprintf("accepts connections on %s, but fails: %v", d.SocketPath, x.Libvirt.Err)
		c.Fix = []string{"journalctl -u " + d.Name, "sudo " + strings.Replace(startCommand(f, d.Name), " start ", " restart ", 1)}
	default:
		c.State, c.Detail = Bad, fmt.Sprintf("does not answer: %v", d.Err)
		c.Fix = []string{"sudo " + startCommand(f, d.Name)}
	}
	for _, p := range f.Parts {
		if c.State == OK && !p.Exists {
			c.State, c.Detail = Bad, p.Name+", its daemon for "+map[string]string{"virtnetworkd": "networks", "virtstoraged": "storage"}[p.Name]+", does not listen"
			c.Fix = []string{"sudo " + startCommand(f, p.Name)}
		}
	}
	return c
}

// accessBy names the permission by which this user reaches libvirt.
func accessBy(x Examination) string {
	switch {
	case x.ViaSudo:
		return ", through sudo: each run that changes something asks for sudo"
	case x.UID == 0:
		return ", as root"
	case x.Groups.Active:
		return ", through group libvirt (whose members can do what root can)"
	}
	return ", through polkit"
}

func checkVirtlogd(f Facts) Check {
	c := Check{ID: "virtlogd", Label: "libvirt's log daemon", State: OK, Detail: "runs"}
	d := f.Virtlogd
	c.addEvidence("%s: exists %v, accepts connections %v; process %v", d.SocketPath, d.Exists, d.Connectable, d.Running)
	switch {
	case d.Connectable || d.Running:
	case f.Tools["virtlogd"] == "":
		c.State, c.Detail = Bad, "virtlogd is not installed"
	case f.Systemd && d.Exists:
		c.Detail = "systemd starts it when it is needed"
	case f.Systemd && f.Libvirtd.Running:
		c.State, c.Detail = Bad, fmt.Sprintf("does not answer: %v", d.Err)
		c.Fix = []string{"sudo systemctl start virtlogd.socket"}
	case d.denied():
		c.State, c.Detail = Unknown, "only root can open its socket, and it has no pid file"
	case !f.Systemd:
		c.State, c.Detail = Bad, fmt.Sprintf("does not answer: %v", d.Err)
		c.Fix = []string{"sudo virtlogd -d"}
	default:
		c.Detail = "libvirtd starts it"
	}
	return c
}

var releaseRE = lazyre.New(`^(\d+)\.(\d+)`)

// older reports whether a release is before major.minor; false if it cannot be parsed.
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
	c.addEvidence("/proc/meminfo: MemTotal %d MiB, MemAvailable %d MiB", f.MemTotalMB, f.MemAvailMB)
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
	c.addEvidence("statfs of %s: %d GiB available to users", dir, free)
	if free < least {
		c.State, c.Fix = Bad, []string{"free up disk space: df -h " + dir}
		c.Detail += fmt.Sprintf(", at least %d are needed", least)
	}
	return c
}

var sshVersionRE = lazyre.New(`^OpenSSH_(\d+)\.(\d+)`)

func checkSSH(f Facts, x Examination) Check {
	c := Check{ID: "ssh", Label: "SSH client", State: OK, Detail: x.SSHVersion}
	if p := f.Tools["ssh"]; p != "" {
		c.addEvidence("%s -V: %s", p, x.SSHVersion)
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
		// ssh knows Include since 7.3.
		if major < 7 || major == 7 && minor < 3 {
			c.State = Bad
			c.Detail += ": too old for the Include line that aivm adds to ~/.ssh/config"
		}
	}
	return c
}

// checkSSHPaths finds owners and permissions for which ssh refuses its configuration ("Bad owner or
// permissions"). Debian's ssh permits write access of a group that has no other member.
func checkSSHPaths(x Examination) Check {
	c := Check{ID: "ssh-permissions", Label: "~/.ssh", State: OK, Detail: "owner and permissions are right"}
	for _, p := range x.SSHPaths {
		if p.Exist {
			c.addEvidence("%s: mode %04o, owner %d", p.Path, p.Mode.Perm(), p.UID)
		} else if p.Err == nil {
			c.addEvidence("%s: does not exist", p.Path)
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
			c.State, c.Detail = Bad, fmt.Sprintf("%s is writable by others (%04o): ssh may refuse it", p.Path, p.Mode.Perm())
			c.Fix = []string{"chmod go-w " + p.Path}
			return c
		}
	}
	if len(x.SSHPaths) > 0 && !x.SSHPaths[0].Exist {
		c.Detail = "does not exist yet; aivm creates it"
	}
	return c
}
