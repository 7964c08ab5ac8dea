package record

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"
	"testing/fstest"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
)

// machine is the simulated host: facts recorded on a Debian 12, so that the tests give the same results
// everywhere.
type machine struct {
	files          map[string]string
	execs          []string
	dial           map[string]error
	free           uint64
	cpus           int
	kvm            error
	libvirtDenied  bool // libvirt refuses this user
	libvirtStopped bool // libvirt does not run
	hooksCurrent   bool // libvirt's hooks are up to date
	hooksInstalled bool // libvirt's hooks are installed
	local          []netip.Prefix
	routes         []network.Route
	walls          map[string]root.NetManifest
	loaded         map[string]string // digest of the loaded rules, by network
	kernel         error             // why the loaded rules cannot be read
	chains         []nftread.Chain
	ruleset        string
}

const (
	osRelease = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n"
	cpuinfo   = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme de vmx sse sse2\n\nprocessor\t: 1\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme de vmx sse sse2\n"
	cpuPlain  = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme de sse sse2\n"
	meminfo   = "MemTotal:       16384000 kB\nMemFree:         1024000 kB\nMemAvailable:   12288000 kB\n"
	procRoute = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\neth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
)

var allPrograms = []string{
	"/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img", "/usr/sbin/libvirtd", "/usr/sbin/virtlogd", "/usr/sbin/dnsmasq",
	"/usr/sbin/nft", "/usr/sbin/iptables", "/usr/sbin/ip", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/git",
	"/usr/bin/mmdebstrap", "/usr/bin/extlinux", "/usr/sbin/sfdisk", "/usr/sbin/mke2fs", "/usr/lib/qemu/virtiofsd",
	"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
	"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_network.so",
	"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_storage.so",
}

func newMachine() *machine {
	return &machine{
		files: map[string]string{
			"/etc/os-release": osRelease, "/proc/cpuinfo": cpuinfo, "/proc/meminfo": meminfo,
			"/proc/sys/kernel/osrelease": "6.1.0-30-amd64\n", "/run/systemd/system/x": "",
			"/run/libvirt/libvirt-sock": "", "/run/libvirt/virtlogd-sock": "",
			"/usr/share/keyrings/debian-archive-keyring.gpg": "", "/usr/lib/EXTLINUX/gptmbr.bin": "",
			"/proc/net/route":         procRoute,
			"/sys/class/net/eth0/mtu": "1500\n", "/sys/module/kvm_intel/parameters/nested": "Y\n",
			"/sys/module/apparmor/parameters/enabled": "Y\n", "/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper": "",
			"/etc/group": "root:x:0:\nlibvirt:x:112:u\nkvm:x:104:u\n", "/usr/bin/aivm": "",
		},
		execs: allPrograms, dial: map[string]error{}, free: 248340447232, cpus: 8, hooksCurrent: true, hooksInstalled: true,
		local:  []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		routes: []network.Route{{Interface: "eth0", Dst: netip.MustParsePrefix("0.0.0.0/0")}, {Interface: "eth0", Dst: netip.MustParsePrefix("192.0.2.0/24")}},
		walls:  map[string]root.NetManifest{}, loaded: map[string]string{},
		ruleset: `{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}]}`,
	}
}

// bare removes what a host has only after packages were installed.
func (m *machine) bare() {
	m.execs = []string{"/usr/bin/ssh", "/usr/bin/git"}
	for _, f := range []string{"/run/libvirt/libvirt-sock", "/run/libvirt/virtlogd-sock", "/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/lib/EXTLINUX/gptmbr.bin"} {
		delete(m.files, f)
	}
	m.libvirtStopped, m.hooksCurrent, m.hooksInstalled = true, false, false
}

func (m *machine) stopVirt() {
	m.libvirtStopped = true
	m.dial["/run/libvirt/libvirt-sock"] = fs.ErrNotExist
	delete(m.files, "/run/libvirt/libvirt-sock")
}

func (m *machine) fsys() fstest.MapFS {
	fsys := fstest.MapFS{}
	for p, s := range m.files {
		fsys[strings.TrimPrefix(p, "/")] = &fstest.MapFile{Data: []byte(s), Mode: 0o644, ModTime: day.Add(-24 * time.Hour)}
	}
	for _, p := range m.execs {
		fsys[strings.TrimPrefix(p, "/")] = &fstest.MapFile{Mode: 0o755}
	}
	return fsys
}

// day is the current time in all cases.
var day = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func (m *machine) env(w *world) host.Env {
	at := func(p string) string { return strings.TrimPrefix(p, "/") }
	return host.Env{
		Head: func(p string, limit int) ([]byte, error) {
			if p == "/proc/self/mountinfo" {
				return []byte(w.mountTable()), nil
			}
			b, err := m.fsys().ReadFile(at(p))
			return b[:min(len(b), limit)], err
		},
		Stat: func(p string) (fs.FileInfo, error) { return m.fsys().Stat(at(p)) },
		ReadDir: func(p string) ([]string, error) {
			es, err := m.fsys().ReadDir(at(p))
			var names []string
			for _, e := range es {
				names = append(names, e.Name())
			}
			return names, err
		},
		OpenDevice: func(string) error { return m.kvm },
		DialUnix: func(p string) error {
			if err, ok := m.dial[p]; ok {
				return err
			}
			_, err := m.fsys().Stat(at(p))
			return err
		},
		DiskFree: func(string) (uint64, error) { return m.free, nil },
		IDMap:    func() error { return nil },
		Getenv: func(k string) string {
			return map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin", "USER": "u", "HOME": homeDir}[k]
		},
		CPUs: func() int { return m.cpus }, Arch: "amd64", Euid: uid, Home: homeDir, Exe: "/usr/bin/aivm",
		Groups:      func() ([]int, error) { return []int{uid, 112, 104}, nil },
		Now:         func() time.Time { return day },
		ClockSynced: func() (bool, error) { return true, nil },
		MakeKVM:     func() error { return m.kvm },
		Output: func(_ context.Context, argv ...string) (string, error) {
			switch filepath.Base(argv[0]) {
			case "virtiofsd":
				return "virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", nil
			case "ssh", "sshd":
				return "OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17 1 Jul 2025", nil
			}
			return "", errors.New(argv[0] + " is not there")
		},
	}
}

// firewallState implements session.FirewallState with the simulated firewall.
type firewallState struct{ m *machine }

func (k firewallState) Hooks() (current, known bool, err error) {
	return k.m.hooksCurrent, k.m.hooksInstalled, nil
}

func (k firewallState) Rules(_ context.Context, network string, _ bool) firewall.Facts {
	f := firewall.Facts{Local: plan.Yes(k.m.local)}
	if man, ok := k.m.walls[network]; ok {
		f.Manifest.Value = &man
		f.Kernel.Value = nftread.Content{Digest: k.m.loaded[network], Chains: k.m.chains}
		f.Kernel.Err = k.m.kernel
	}
	return f
}

func (k firewallState) Manifests() ([]root.NetManifest, error) {
	var out []root.NetManifest
	for _, name := range sorted(k.m.walls) {
		out = append(out, k.m.walls[name])
	}
	return out, nil
}

func (k firewallState) Ruleset(context.Context, bool) ([]byte, error) {
	return []byte(k.m.ruleset), nil
}

// applyNft changes the simulated firewall as the privileged record Nft does.
func (m *machine) applyNft(o root.Nft, uuid string) {
	if o.Remove {
		delete(m.walls, o.Wall.Network)
		delete(m.loaded, o.Wall.Network)
		return
	}
	digest := "digest of " + wall.Digest(o.Wall, m.local)
	m.walls[o.Wall.Network] = root.NetManifest{Version: 1, Owner: uid, UUID: uuid, Wall: o.Wall, Local: m.local, Script: wall.Digest(o.Wall, m.local), Digest: digest}
	m.loaded[o.Wall.Network], m.kernel = digest, nil
}
