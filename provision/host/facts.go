package host

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// OSRelease holds the fields of /etc/os-release that aivm uses (os-release(5)).
type OSRelease struct {
	ID       string
	IDLike   []string
	Version  string // VERSION_ID, "" on rolling releases
	Codename string // VERSION_CODENAME
	Base     string // UBUNTU_CODENAME or DEBIAN_CODENAME of a derivative
	Name     string // PRETTY_NAME
}

// KVMFact says whether QEMU can use the CPU's virtualisation.
type KVMFact struct {
	Usable  bool
	Missing bool   // /dev/kvm does not exist
	Reason  string // why not, or a limitation
}

// DaemonFact is the state of a libvirt daemon, judged by its socket.
type DaemonFact struct {
	Name        string
	SocketPath  string
	Exists      bool
	Connectable bool
	Running     bool  // by its pid file; also true if Connectable
	Err         error // why it is not connectable
}

// Facts are what Observe found. An Err field means that reading failed; a tool without an entry in
// Tools was searched for and does not exist.
type Facts struct {
	OS         OSRelease
	OSErr      error // /etc/os-release could not be read
	Arch       string
	Kernel     string // release, "6.1.0-30-amd64"
	CPUs       int
	CPUFlags   []string // those of vmx and svm that the CPU has
	MemTotalMB int      // 0: unknown
	MemAvailMB int
	MemErr     error
	KVM        KVMFact
	KVMClosed  bool              // group kvm has no access to /dev/kvm, and no udev changes that
	Tools      map[string]string // path by name, for the tools found
	Libvirtd   DaemonFact        // the hypervisor's daemon: libvirtd, or virtqemud of a modular libvirt
	Virtlogd   DaemonFact
	Parts      []DaemonFact // other daemons of a modular libvirt: networks, storage
	Systemd    bool         // systemd is the init system
	Container  string       // "docker", "lxc", ... inside a container
	WSL        bool
	Immutable  string // what prevents installing packages into the running system: "rpm-ostree", ...
	Root       bool
	IDMapErr   error // the kernel cannot map owners of a mount

	diskFree func(path string) (uint64, error)
}

// Where Debian and Ubuntu install what is not in every user's PATH.
var (
	binDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	// The C virtiofsd is in /usr/lib/qemu, the Rust one in /usr/libexec.
	virtiofsdPaths = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd"}
	driverDirs     = []string{"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver", "/usr/lib/libvirt/connection-driver", "/usr/lib64/libvirt/connection-driver"}
	keyringPaths   = []string{"/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"}
	mbrPaths       = []string{"/usr/lib/EXTLINUX/gptmbr.bin", "/usr/lib/syslinux/mbr/gptmbr.bin"}
)

// programs are searched for in PATH and binDirs.
var programs = []string{
	"qemu-system-x86_64", "qemu-img", "libvirtd", "virtlogd", "dnsmasq", "nft", "iptables", "ip",
	"virtqemud", "ssh", "sshd", "ssh-keygen", "git", "mmdebstrap", "extlinux", "sfdisk", "mke2fs",
}

// Observe reads the facts: it checks a few dozen paths, reads some small files and connects to two
// local sockets. It starts no program.
func Observe(env Env) Facts {
	f := Facts{Arch: env.Arch, CPUs: env.CPUs(), Root: env.Euid == 0, diskFree: env.diskFree}
	if b, err := env.Head("/etc/os-release", 1<<16); err != nil {
		f.OSErr = err
	} else {
		f.OS = parseOSRelease(b)
	}
	if b, err := env.Head("/proc/sys/kernel/osrelease", 1<<12); err == nil {
		f.Kernel = strings.TrimSpace(string(b))
	}
	f.MemTotalMB, f.MemAvailMB, f.MemErr = memory(env)
	cpu, cpuErr := env.Head("/proc/cpuinfo", 1<<13)
	f.CPUFlags = virtFlags(cpu)
	f.KVM = kvm(env, f.CPUFlags, cpuErr)
	f.KVMClosed = kvmClosed(env)
	f.Tools = tools(env)
	f.Immutable = immutableBy(env, f.OS)
	observeDaemons(env, &f)
	_, err := env.Stat("/run/systemd/system") // sd_booted(3)
	f.Systemd = err == nil
	f.Container = container(env)
	f.WSL = strings.Contains(strings.ToLower(f.Kernel), "microsoft")
	f.IDMapErr = env.IDMap()
	return f
}

// DiskFreeGB returns the GiB, rounded down, that are free where dir is or will be created.
func (f Facts) DiskFreeGB(dir string) (int, error) {
	if f.diskFree == nil {
		return 0, errors.New("free disk space was not observed")
	}
	n, err := f.diskFree(dir)
	return int(n >> 30), err
}

// diskFree checks the nearest existing ancestor, since dir may not exist yet.
func (e Env) diskFree(dir string) (uint64, error) {
	for p := filepath.Clean(dir); ; p = filepath.Dir(p) {
		n, err := e.DiskFree(p)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || p == filepath.Dir(p) {
			return n, err
		}
	}
}

func parseOSRelease(b []byte) OSRelease {
	var o OSRelease
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(k, "#") {
			continue
		}
		v = shellWord(v)
		switch k {
		case "ID":
			o.ID = v
		case "ID_LIKE":
			o.IDLike = strings.Fields(v)
		case "VERSION_ID":
			o.Version = v
		case "VERSION_CODENAME":
			o.Codename = v
		case "UBUNTU_CODENAME", "DEBIAN_CODENAME":
			o.Base = v
		case "PRETTY_NAME":
			o.Name = v
		}
	}
	return o
}

func memory(env Env) (total, avail int, err error) {
	b, err := env.Head("/proc/meminfo", 1<<13)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		n, _ := strconv.Atoi(w[1])
		switch w[0] {
		case "MemTotal:":
			total = n / 1024
		case "MemAvailable:":
			avail = n / 1024
		}
	}
	if total <= 0 {
		return 0, 0, errors.New("/proc/meminfo has no MemTotal")
	}
	return total, avail, nil
}

// virtFlags returns which of vmx (Intel) and svm (AMD) the first CPU has.
func virtFlags(cpuinfo []byte) []string {
	for line := range strings.Lines(string(cpuinfo)) {
		k, v, _ := strings.Cut(line, ":")
		if strings.TrimSpace(k) != "flags" {
			continue
		}
		var found []string
		for _, w := range strings.Fields(v) {
			if (w == "vmx" || w == "svm") && !slices.Contains(found, w) {
				found = append(found, w)
			}
		}
		return found
	}
	return nil
}

// kvm checks the CPU's flags first: on a machine without them /dev/kvm can open and even create a
// VM, in which a stock kernel then hangs.
func kvm(env Env, flags []string, cpuErr error) KVMFact {
	if env.Arch == "amd64" && len(flags) == 0 {
		if cpuErr != nil {
			return KVMFact{Reason: fmt.Sprintf("the CPU's flags could not be read: %v", cpuErr)}
		}
		return KVMFact{Reason: "the CPU shows neither vmx nor svm (switched off in the firmware, or this is a VM without nested virtualisation)"}
	}
	err := env.OpenDevice("/dev/kvm")
	switch {
	case err == nil:
		return KVMFact{Usable: true}
	case errors.Is(err, fs.ErrPermission) && env.Euid != 0:
		// QEMU runs as libvirt's own user, which is in group kvm.
		return KVMFact{Usable: true, Reason: "this user cannot open /dev/kvm, but libvirt's QEMU can"}
	case errors.Is(err, fs.ErrNotExist):
		return KVMFact{Missing: true, Reason: "there is no /dev/kvm (kernel module kvm_intel or kvm_amd not loaded)"}
	}
	return KVMFact{Reason: fmt.Sprintf("cannot open /dev/kvm: %v", err)}
}

func tools(env Env) map[string]string {
	found := map[string]string{}
	dirs := slices.Clone(binDirs)
	for _, d := range filepath.SplitList(env.Getenv("PATH")) {
		if filepath.IsAbs(d) && !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	for _, name := range programs {
		for _, d := range dirs {
			p := filepath.Join(d, name)
			if st, err := env.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 {
				found[name] = p
				break
			}
		}
	}
	first := func(name string, paths []string) {
		for _, p := range paths {
			if _, err := env.Stat(p); err == nil {
				found[name] = p
				return
			}
		}
	}
	if found["qemu-system-x86_64"] == "" {
		first("qemu-system-x86_64", []string{"/usr/libexec/qemu-kvm"}) // RHEL's only path of it
	}
	first("virtiofsd", virtiofsdPaths)
	first("debian-archive-keyring", keyringPaths)
	first("gptmbr.bin", mbrPaths)
	for _, d := range []string{"qemu", "network", "storage"} {
		paths := make([]string, 0, len(driverDirs))
		for _, dir := range driverDirs {
			paths = append(paths, filepath.Join(dir, "libvirt_driver_"+d+".so"))
		}
		first("libvirt-driver-"+d, paths)
	}
	return found
}

// observeDaemons checks libvirt as one daemon. It checks the daemons of a modular libvirt
// (libvirt.org/daemons.html) if only those are installed (Fedora, RHEL, openSUSE) or if they
// already listen. virtqemud passes calls about networks and storage on to the daemons for these.
func observeDaemons(env Env, f *Facts) {
	f.Virtlogd = daemon(env, "virtlogd", "virtlogd-sock")
	f.Libvirtd = daemon(env, "libvirtd", "libvirt-sock")
	one := f.Tools["libvirtd"] != ""
	if !one && f.Tools["virtqemud"] != "" {
		f.Tools["libvirtd"] = f.Tools["virtqemud"]
	}
	if f.Tools["virtqemud"] == "" || f.Libvirtd.Connectable || f.Libvirtd.Running {
		return
	}
	q := daemon(env, "virtqemud", "virtqemud-sock")
	if one && !q.Exists {
		return
	}
	f.Libvirtd = q
	f.Parts = []DaemonFact{daemon(env, "virtnetworkd", "virtnetworkd-sock"), daemon(env, "virtstoraged", "virtstoraged-sock")}
}

func daemon(env Env, name, socket string) DaemonFact {
	d := DaemonFact{Name: name, SocketPath: "/run/libvirt/" + socket}
	_, err := env.Stat(d.SocketPath)
	// A directory this user may not enter hides the socket, which may still exist.
	d.Exists = err == nil || !errors.Is(err, fs.ErrNotExist)
	if d.Exists {
		err = env.DialUnix(d.SocketPath)
		d.Connectable = err == nil
	}
	d.Err = err
	d.Running = d.Connectable || running(env, "/run/"+name+".pid", name)
	return d
}

// running distinguishes a daemon that refuses this user from a stale socket of a dead daemon:
// connect(2) returns EACCES for both.
func running(env Env, pidFile, comm string) bool {
	b, err := env.Head(pidFile, 32)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return false
	}
	got, err := env.Head("/proc/"+strconv.Itoa(pid)+"/comm", 32)
	return err == nil && strings.TrimSpace(string(got)) == comm
}

// denied reports whether the socket exists and refuses this user.
func (d DaemonFact) denied() bool {
	return d.Exists && (errors.Is(d.Err, fs.ErrPermission) || errors.Is(d.Err, syscall.EACCES))
}

func container(env Env) string {
	if b, err := env.Head("/run/systemd/container", 64); err == nil && len(b) > 0 {
		return strings.TrimSpace(string(b))
	}
	for path, name := range map[string]string{"/.dockerenv": "docker", "/run/.containerenv": "podman"} {
		if _, err := env.Stat(path); err == nil {
			return name
		}
	}
	return ""
}

// kvmClosed reports whether QEMU's user, who is in group kvm, cannot open an existing /dev/kvm.
// Where udev runs, it sets the permissions.
func kvmClosed(env Env) bool {
	if _, err := env.Stat("/run/udev"); err == nil {
		return false
	}
	st, err := env.Stat("/dev/kvm")
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || sys.Mode&0o006 == 0o006 {
		return false
	}
	gid, ok := groupID(env, "kvm")
	return ok && (int(sys.Gid) != gid || sys.Mode&0o060 != 0o060)
}

// groupLists reports whether /etc/group lists a user as a member of a group.
func groupLists(env Env, group, user string) bool {
	b, err := env.Head("/etc/group", 1<<20)
	if err != nil || user == "" {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= 4 && f[0] == group {
			return slices.Contains(strings.Split(f[3], ","), user)
		}
	}
	return false
}

// groupID finds a group's ID in /etc/group (group(5)).
func groupID(env Env, name string) (int, bool) {
	b, err := env.Head("/etc/group", 1<<20)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= 3 && f[0] == name {
			gid, err := strconv.Atoi(f[2])
			return gid, err == nil
		}
	}
	return 0, false
}

// shellWord removes the quotes a shell would remove: os-release(5) is a list of assignments, whose
// double quotes have a backslash before ", $, ` and \.
func shellWord(v string) string {
	if len(v) < 2 || v[0] != v[len(v)-1] || v[0] != '"' && v[0] != '\'' {
		return v
	}
	in := v[1 : len(v)-1]
	if v[0] == '\'' {
		return in
	}
	return strings.NewReplacer(`\"`, `"`, `\$`, "$", "\\`", "`", `\\`, `\`).Replace(in)
}
