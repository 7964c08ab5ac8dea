package host

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// fakeEnv is a machine made of file contents.
type fakeEnv struct {
	files   map[string]string
	execs   []string
	dial    map[string]error
	kvm     error
	idmap   error
	free    uint64
	cpus    int
	arch    string
	euid    int
	home    string
	output  string
	outErr  error
	readErr map[string]error

	groups   []int
	getenv   map[string]string
	now      time.Time
	built    time.Time // time of aivm's program file; zero: no such file
	unsynced error     // errUnsynced, or the error of asking
	makeKVM  error
	outputs  map[string]string // by program
}

var errUnsynced = errors.New("unsynchronised")

func skew(err error) error {
	if errors.Is(err, errUnsynced) {
		return nil
	}
	return err
}

func (f fakeEnv) env() Env {
	fsys := fstest.MapFS{}
	for p, s := range f.files {
		fsys[strings.TrimPrefix(p, "/")] = &fstest.MapFile{Data: []byte(s), Mode: 0o644}
	}
	if !f.built.IsZero() {
		fsys["usr/bin/aivm"] = &fstest.MapFile{Mode: 0o755, ModTime: f.built}
	}
	for _, p := range f.execs {
		fsys[strings.TrimPrefix(p, "/")] = &fstest.MapFile{Mode: 0o755}
	}
	return Env{
		Head: func(p string, limit int) ([]byte, error) {
			if err := f.readErr[p]; err != nil {
				return nil, err
			}
			b, err := fsys.ReadFile(strings.TrimPrefix(p, "/"))
			return b[:min(len(b), limit)], err
		},
		Stat:       func(p string) (fs.FileInfo, error) { return fsys.Stat(strings.TrimPrefix(p, "/")) },
		OpenDevice: func(string) error { return f.kvm },
		DialUnix:   func(p string) error { return f.dial[p] },
		DiskFree: func(p string) (uint64, error) {
			if p != "/" && p != "/var" && p != "/home/u" {
				return 0, fs.ErrNotExist
			}
			return f.free, nil
		},
		IDMap: func() error { return f.idmap },
		Getenv: func(k string) string {
			if k == "PATH" {
				return "/opt/bin:relative"
			}
			return f.getenv[k]
		},
		CPUs: func() int { return f.cpus },
		Arch: f.arch, Euid: f.euid, Home: f.home, Exe: "/usr/bin/aivm",
		ReadDir: func(p string) ([]string, error) {
			es, err := fsys.ReadDir(strings.TrimPrefix(p, "/"))
			var names []string
			for _, e := range es {
				names = append(names, e.Name())
			}
			return names, err
		},
		Groups:      func() ([]int, error) { return f.groups, nil },
		Now:         func() time.Time { return f.now },
		ClockSynced: func() (bool, error) { return f.unsynced == nil, skew(f.unsynced) },
		MakeKVM:     func() error { return f.makeKVM },
		Output: func(_ context.Context, argv ...string) (string, error) {
			if out, ok := f.outputs[filepath.Base(argv[0])]; ok {
				return out, nil
			}
			return f.output, f.outErr
		},
	}
}

const (
	debian12   = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n"
	debian13   = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\nID=debian\n"
	debianSid  = "PRETTY_NAME=\"Debian GNU/Linux forky/sid\"\nID=debian\n"
	debian11   = "PRETTY_NAME=\"Debian GNU/Linux 11 (bullseye)\"\nVERSION_ID=\"11\"\nVERSION_CODENAME=bullseye\nID=debian\n"
	ubuntu2204 = "PRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\nVERSION_ID=\"22.04\"\nVERSION_CODENAME=jammy\nUBUNTU_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\n"
	ubuntu2404 = "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n"
	mint22     = "PRETTY_NAME=\"Linux Mint 22\"\nVERSION_ID=\"22\"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"
	mint21     = "PRETTY_NAME=\"Linux Mint 21.3\"\nVERSION_ID=\"21.3\"\nVERSION_CODENAME=virginia\nUBUNTU_CODENAME=jammy\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"
	gentoo     = "PRETTY_NAME=\"Gentoo Linux\"\nID=gentoo\n"
	fedora     = "PRETTY_NAME=\"Fedora Linux 41\"\nVERSION_ID=41\nID=fedora\n"
)

const (
	cpuinfoVMX   = "processor\t: 0\nflags\t\t: fpu vme vmx sse\n\nprocessor\t: 1\nflags\t\t: fpu vme vmx sse\n"
	cpuinfoPlain = "processor\t: 0\nflags\t\t: fpu vme sse\n"
	meminfo16    = "MemTotal:       16384000 kB\nMemFree:  100 kB\nMemAvailable:   12288000 kB\n"
)

var allExecs = []string{
	"/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img", "/usr/sbin/libvirtd", "/usr/sbin/virtlogd", "/usr/sbin/dnsmasq",
	"/usr/sbin/nft", "/usr/sbin/iptables", "/usr/sbin/ip", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/git",
	"/usr/bin/mmdebstrap", "/usr/bin/extlinux", "/usr/sbin/sfdisk", "/usr/sbin/mke2fs", "/usr/libexec/virtiofsd",
	"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
	"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_network.so",
	"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_storage.so",
}

// full is a machine with everything installed.
func full() fakeEnv {
	return fakeEnv{
		files: map[string]string{
			"/etc/os-release": debian12, "/proc/cpuinfo": cpuinfoVMX, "/proc/meminfo": meminfo16,
			"/proc/sys/kernel/osrelease": "6.1.0-30-amd64\n", "/run/systemd/system/x": "",
			"/run/libvirt/libvirt-sock": "", "/run/libvirt/virtlogd-sock": "",
			"/usr/share/keyrings/debian-archive-keyring.gpg": "", "/usr/lib/EXTLINUX/gptmbr.bin": "",
			"/proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "/proc/net/route": routes("eth0 00000000 00000000 100"),
			"/sys/class/net/eth0/mtu": "1500\n", "/sys/module/kvm_intel/parameters/nested": "Y\n",
			"/sys/module/apparmor/parameters/enabled": "Y\n", "/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper": "",
			"/etc/group": "root:x:0:\nlibvirt:x:112:u\n",
		},
		groups: []int{1000, 112}, getenv: map[string]string{"USER": "u"},
		execs: allExecs, free: 100 << 30, cpus: 8, arch: "amd64", euid: 1000, home: "/home/u",
		output:  "OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.15 3 Sep 2024",
		outputs: map[string]string{"virtiofsd": "virtiofsd 1.10.0"},
		now:     time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC),
	}
}

// routes returns /proc/net/route with these lines of interface, destination, mask and metric.
func routes(lines ...string) string {
	s := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
	for _, l := range lines {
		w := strings.Fields(l)
		s += w[0] + "\t" + w[1] + "\t00000000\t0003\t0\t0\t" + w[3] + "\t" + w[2] + "\t0\t0\t0\n"
	}
	return s
}

// bare is the same machine with nothing installed.
func bare(osRelease string) fakeEnv {
	f := full()
	f.execs = nil
	f.files = map[string]string{
		"/etc/os-release": osRelease, "/proc/cpuinfo": cpuinfoPlain, "/proc/meminfo": meminfo16,
		"/proc/sys/kernel/osrelease": "6.1.0-30-amd64\n",
	}
	return f
}

func TestObserveThisMachine(t *testing.T) {
	env := OSEnv()
	f := Observe(env)
	if f.CPUs < 1 || f.MemErr != nil || f.MemTotalMB < 100 || f.MemAvailMB > f.MemTotalMB || f.Kernel == "" || f.OS.ID == "" {
		t.Errorf("facts of this machine are missing: %+v", f)
	}
	dir := filepath.Join(t.TempDir(), "not", "yet")
	if n, err := f.DiskFreeGB(dir); err != nil || n < 0 {
		t.Errorf("free space at a directory that does not exist yet: %d, %v", n, err)
	}
	if n := testing.AllocsPerRun(1, func() { Observe(env) }); n > 5000 {
		t.Errorf("Observe allocates %v times: it is on the warm path", n)
	}
}
