package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/plan"
)

// A verdict is what a check must report: its state, a part of its detail, and a part of its fix (""
// if it must have none).
type verdict struct{ id, state, detail, fix string }

func drop(e *fakeEnv, base ...string) {
	e.execs = slices.DeleteFunc(slices.Clone(e.execs), func(p string) bool {
		return slices.ContainsFunc(base, func(b string) bool { return strings.HasSuffix(p, "/"+b) })
	})
}

func put(e *fakeEnv, path, text string) { e.files[path] = text }

func version(lib string) *plan.Known[LibvirtFact] {
	k := plan.Yes(LibvirtFact{Library: lib, QEMU: "8.2.2"})
	return &k
}

func rules(chains string, rules ...string) *plan.Known[[]byte] {
	k := plan.Yes([]byte(`{"nftables":[{"metainfo":{"version":"1.0.9"}},{"table":{"family":"ip","name":"filter"}},` + chains +
		strings.Join(append([]string{""}, rules...), ",") + `]}`))
	return &k
}

func base(name, hook, policy string) string {
	return fmt.Sprintf(`{"chain":{"family":"ip","table":"filter","name":%q,"handle":1,"type":"filter","hook":%q,"prio":0,"policy":%q}}`, name, hook, policy)
}

func sub(name string) string {
	return fmt.Sprintf(`{"chain":{"family":"ip","table":"filter","name":%q,"handle":2}}`, name)
}

func jump(from, to string) string {
	return fmt.Sprintf(`{"rule":{"family":"ip","table":"filter","chain":%q,"handle":3,"expr":[{"jump": {"target": %q}}]}}`, from, to)
}

func iface(chain, key, name string) string {
	return fmt.Sprintf(`{"rule":{"family":"ip","table":"filter","chain":%q,"handle":4,"expr":[{"match":{"op":"==","left":{"meta":{"key":%q}},"right":%q}},{"accept":null}]}}`, chain, key, name)
}

// Each machine is the healthy one with one change. Checks without a verdict must have the same
// state as on the healthy machine.
func TestMachines(t *testing.T) {
	const bridge = "virbr-aivm"
	type env = *fakeEnv
	machines := []struct {
		name   string
		change func(env, *CallerFacts)
		want   []verdict
	}{
		{"healthy", func(env, *CallerFacts) {}, nil},
		{"healthy, root", func(e env, _ *CallerFacts) { e.euid = 0 }, []verdict{{"libvirtd", "ok", "as root", ""}}},
		{"AMD", func(e env, _ *CallerFacts) {
			put(e, "/proc/cpuinfo", strings.ReplaceAll(cpuinfoVMX, "vmx", "svm"))
			delete(e.files, "/sys/module/kvm_intel/parameters/nested")
			put(e, "/sys/module/kvm_amd/parameters/nested", "1\n")
		}, []verdict{{"acceleration", "ok", "KVM (svm)", ""}}},
		{"firmware switched off", func(e env, _ *CallerFacts) { put(e, "/proc/cpuinfo", cpuinfoPlain) }, []verdict{
			{"acceleration", "ok", "ten times slower", "firmware"}, {"nested", "skipped", "without KVM", ""},
		}},
		{"module not loaded", func(e env, _ *CallerFacts) { e.kvm = fs.ErrNotExist }, []verdict{
			{"acceleration", "bad", "module is not loaded", "sudo modprobe kvm_intel"}, {"nested", "skipped", "", ""},
		}},
		{"no permission for the device", func(e env, _ *CallerFacts) { e.kvm = syscall.EACCES }, []verdict{{"acceleration", "ok", "libvirt's QEMU can", ""}}},
		{"root cannot open it", func(e env, _ *CallerFacts) { e.kvm, e.euid = syscall.EACCES, 0 }, []verdict{
			{"acceleration", "bad", "cannot open /dev/kvm", "ls -l /dev/kvm"}, {"nested", "skipped", "", ""}, {"libvirtd", "ok", "as root", ""},
		}},
		{"VirtualBox uses it", func(e env, _ *CallerFacts) { e.makeKVM = syscall.EBUSY }, []verdict{{"acceleration", "bad", "VirtualBox", "shut down the VMs"}}},
		{"KVM cannot create a VM", func(e env, _ *CallerFacts) { e.makeKVM = syscall.EINVAL }, []verdict{{"acceleration", "bad", "cannot create a VM (", "dmesg"}}},
		{"a VM on Hyper-V without nesting", func(e env, _ *CallerFacts) {
			put(e, "/proc/cpuinfo", strings.ReplaceAll(cpuinfoPlain, "sse", "sse hypervisor"))
			put(e, "/sys/class/dmi/id/sys_vendor", "Microsoft Corporation\n")
			put(e, "/sys/class/dmi/id/product_name", "Virtual Machine\n")
		}, []verdict{
			{"system", "ok", "itself a VM (Microsoft Corporation Virtual Machine)", ""},
			{"acceleration", "ok", "without nested virtualisation", "Set-VMProcessor"},
			{"nested", "skipped", "", ""},
		}},
		{"a VM of an unknown vendor", func(e env, _ *CallerFacts) {
			put(e, "/proc/cpuinfo", strings.ReplaceAll(cpuinfoPlain, "sse", "sse hypervisor"))
		}, []verdict{
			{"system", "ok", "itself a VM", ""}, {"acceleration", "ok", "without nested", "where this machine is managed"}, {"nested", "skipped", "", ""},
		}},
		{"a VM with nesting", func(e env, _ *CallerFacts) {
			put(e, "/proc/cpuinfo", strings.ReplaceAll(cpuinfoVMX, "sse", "sse hypervisor"))
		}, []verdict{
			{"system", "ok", "itself a VM", ""}, {"nested", "ok", "with nested virtualisation", ""},
		}},
		{"no nested virtualisation", func(e env, _ *CallerFacts) { put(e, "/sys/module/kvm_intel/parameters/nested", "N\n") }, []verdict{{"nested", "ok", "nested virtualisation is off", "kvm_intel nested=1"}}},
		{"WSL 2", func(e env, _ *CallerFacts) {
			put(e, "/proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n")
			put(e, "/proc/cpuinfo", cpuinfoPlain)
			delete(e.files, "/run/systemd/system/x")
			put(e, "/run/systemd/container", "wsl\n")
		}, []verdict{
			{"system", "ok", "inside WSL", "systemd=true"},
			{"acceleration", "ok", "WSL", "nestedVirtualization"},
			{"nested", "skipped", "", ""},
			{"kernel", "ok", "can map", ""},
		}},
		{"WSL 1", func(e env, _ *CallerFacts) {
			put(e, "/proc/sys/kernel/osrelease", "4.4.0-19041-Microsoft\n")
			put(e, "/proc/cpuinfo", cpuinfoPlain)
		}, []verdict{
			{"system", "bad", "WSL 1", "--set-version"},
			{"acceleration", "ok", "", "wslconfig"},
			{"nested", "skipped", "", ""},
			{"kernel", "bad", "cannot map", "git mode"},
		}},
		{"privileged container", func(e env, _ *CallerFacts) {
			put(e, "/.dockerenv", "")
			put(e, "/proc/self/status", "Name:\tx\nCapBnd:\t000001ffffffffff\n")
			put(e, "/proc/self/uid_map", "0 0 4294967295\n")
		}, []verdict{{"system", "ok", "container (docker)", ""}}},
		{"plain container", func(e env, _ *CallerFacts) {
			put(e, "/.dockerenv", "")
			put(e, "/proc/self/status", "CapBnd:\t00000000a80425fb\n")
			e.kvm = fs.ErrNotExist
		}, []verdict{
			{"system", "bad", "CAP_NET_ADMIN and CAP_SYS_ADMIN", "--privileged"},
			{"acceleration", "bad", "no /dev/kvm", "--device /dev/kvm"},
			{"nested", "skipped", "", ""},
		}},
		{"rootless podman", func(e env, _ *CallerFacts) {
			put(e, "/run/.containerenv", "")
			put(e, "/proc/self/uid_map", "0 1000 1\n1 100000 65536\n")
		}, []verdict{{"system", "bad", "rootless", "--privileged"}}},
		{"toolbox", func(e env, _ *CallerFacts) {
			put(e, "/run/.containerenv", "")
			put(e, "/run/.toolboxenv", "")
		}, []verdict{{"system", "bad", "inside a toolbox", "exit"}}},
		{"a flatpak's terminal", func(e env, _ *CallerFacts) { put(e, "/.flatpak-info", "") }, []verdict{{"system", "bad", "flatpak", "terminal of the system"}}},
		{"arm64", func(e env, _ *CallerFacts) { e.arch = "arm64" }, []verdict{{"system", "bad", "arm64", "x86-64"}}},
		{"old kernel", func(e env, _ *CallerFacts) { put(e, "/proc/sys/kernel/osrelease", "5.4.0-100-generic\n") }, []verdict{{"kernel", "bad", "cannot map", "git mode"}}},
		{"kernel without mount_setattr", func(e env, _ *CallerFacts) { e.idmap = syscall.ENOSYS }, []verdict{{"kernel", "bad", "cannot map", "Linux 5.12"}}},
		{"home on NFS", func(e env, _ *CallerFacts) {
			put(e, "/proc/self/mountinfo", e.files["/proc/self/mountinfo"]+"30 22 0:40 / /home rw - nfs4 srv:/home rw\n")
		}, []verdict{{"kernel", "ok", "nfs4, which cannot", "--mode git"}}},
		{"home on a btrfs newer than the kernel's", func(e env, _ *CallerFacts) {
			put(e, "/proc/sys/kernel/osrelease", "5.14.0-503.el9.x86_64\n")
			put(e, "/proc/self/mountinfo", "22 1 8:1 / / rw - btrfs /dev/sda1 rw\n")
		}, []verdict{{"kernel", "ok", "btrfs, which cannot", "--mode git"}}},
		{"home on something odd", func(e env, _ *CallerFacts) { put(e, "/proc/self/mountinfo", "22 1 8:1 / / rw - zfs tank rw\n") }, []verdict{{"kernel", "ok", "whether zfs", ""}}},
		{"nothing installed, Fedora", func(e env, _ *CallerFacts) {
			put(e, "/etc/os-release", fedora)
			e.execs = nil
			delete(e.files, "/run/libvirt/libvirt-sock")
			delete(e.files, "/run/libvirt/virtlogd-sock")
		}, []verdict{
			{"tools", "bad", "qemu-system-x86_64", "sudo dnf"},
			{"image-tools", "skipped", "only needed", "Debian and Ubuntu"},
			{"libvirtd", "bad", "not installed", "dnf"},
			{"virtlogd", "bad", "not installed", ""},
			{"virtiofsd", "bad", "not installed", "virtiofsd"},
			{"ssh", "bad", "not installed", "openssh-clients"},
			{"system", "ok", "Fedora", ""},
		}},
		{"no nft", func(e env, _ *CallerFacts) { drop(e, "nft") }, []verdict{{"tools", "bad", "missing: nft", "apt-get install --no-install-recommends nftables"}}},
		{"no virtiofsd, Silverblue", func(e env, _ *CallerFacts) {
			put(e, "/etc/os-release", fedora)
			put(e, "/run/ostree-booted", "")
			drop(e, "virtiofsd")
		}, []verdict{
			{"tools", "bad", "virtiofsd", "rpm-ostree install"}, {"virtiofsd", "bad", "not installed", "rpm-ostree"}, {"system", "ok", "manually", ""},
		}},
		{"QEMU's own virtiofsd", func(e env, _ *CallerFacts) { e.outputs["virtiofsd"] = "virtiofsd version 7.2.22 (Debian)\nusing FUSE" }, []verdict{{"virtiofsd", "ok", "C implementation", ""}}},
		{"QEMU's own virtiofsd, asked by a user", func(e env, _ *CallerFacts) {
			delete(e.outputs, "virtiofsd")
			drop(e, "ssh")
			e.output, e.outErr = "setgroups() failed with error=1:Operation not permitted", errors.New("exit status 1")
		}, []verdict{{"virtiofsd", "ok", "only for root", ""}, {"ssh", "bad", "not installed", "openssh-client"}, {"tools", "bad", "ssh", "apt-get"}}},
		{"a virtiofsd without a version", func(e env, _ *CallerFacts) { e.outputs["virtiofsd"] = "what?" }, []verdict{{"virtiofsd", "unknown", "what?", ""}}},
		{"libvirt stopped", func(e env, _ *CallerFacts) {
			e.dial = map[string]error{"/run/libvirt/libvirt-sock": syscall.ECONNREFUSED}
		}, []verdict{
			{"libvirtd", "bad", "does not answer: connection refused", "systemctl start libvirtd"},
		}},
		{"libvirt for others", func(e env, _ *CallerFacts) {
			e.dial = map[string]error{"/run/libvirt/libvirt-sock": syscall.EACCES, "/run/libvirt/virtlogd-sock": syscall.EACCES}
			e.groups = []int{1000}
			put(e, "/etc/group", "libvirt:x:112:\n")
		}, []verdict{{"libvirtd", "ok", "asks for sudo", "usermod -aG libvirt"}, {"virtlogd", "ok", "systemd", ""}}},
		{"added to group libvirt after the last login", func(e env, _ *CallerFacts) {
			e.dial = map[string]error{"/run/libvirt/libvirt-sock": syscall.EACCES}
			e.groups = []int{1000}
		}, []verdict{{"libvirtd", "ok", "after you logged in", "log out"}}},
		{"polkit", func(e env, _ *CallerFacts) { e.groups = []int{1000} }, []verdict{{"libvirtd", "ok", "through polkit", ""}}},
		{"polkit refuses", func(e env, a *CallerFacts) {
			e.groups = []int{1000}
			put(e, "/etc/group", "x:x:1:\n")
			a.Denied = true
		}, []verdict{{"libvirtd", "ok", "asks for sudo", ""}}},
		{"libvirt hangs", func(_ env, a *CallerFacts) {
			k := plan.Unknown[LibvirtFact](errors.New("does not answer (8s)"))
			a.Libvirt = &k
		}, []verdict{{"libvirtd", "bad", "but fails: does not answer", "systemctl restart libvirtd"}}},
		{"libvirt in parts, networks missing", func(e env, _ *CallerFacts) {
			drop(e, "libvirtd")
			e.execs = append(e.execs, "/usr/sbin/virtqemud")
			delete(e.files, "/run/libvirt/libvirt-sock")
			put(e, "/run/libvirt/virtqemud-sock", "")
			put(e, "/run/libvirt/virtstoraged-sock", "")
		}, []verdict{{"libvirtd", "bad", "virtnetworkd", "systemctl start virtnetworkd.socket"}}},
		{"little memory", func(e env, _ *CallerFacts) {
			put(e, "/proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 300000 kB\n")
		}, []verdict{{"memory", "bad", "292 MiB free", "aivm list"}}},
		{"full disk", func(e env, _ *CallerFacts) { e.free = 1 << 29 }, []verdict{
			{"disk", "bad", "0 GiB free", "df -h"}, {"image-cache", "bad", "0 GiB free", "df -h"},
		}},
		{"SELinux", func(e env, _ *CallerFacts) {
			put(e, "/sys/fs/selinux/enforce", "1")
			put(e, "/sys/module/apparmor/parameters/enabled", "N\n")
		}, []verdict{{"security-modules", "unknown", "SELinux is enforcing", "ausearch"}}},
		{"SELinux, permissive", func(e env, _ *CallerFacts) {
			put(e, "/sys/fs/selinux/enforce", "0")
			put(e, "/sys/module/apparmor/parameters/enabled", "N\n")
		}, []verdict{{"security-modules", "ok", "only logs", ""}}},
		{"no security module", func(e env, _ *CallerFacts) { delete(e.files, "/sys/module/apparmor/parameters/enabled") }, []verdict{{"security-modules", "ok", "neither is active", ""}}},
		{"AppArmor without libvirt's profiles", func(e env, _ *CallerFacts) { delete(e.files, "/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper") }, []verdict{
			{"security-modules", "ok", "profiles are missing", ""},
		}},
		{"AppArmor that cannot be read", func(e env, _ *CallerFacts) {
			e.readErr = map[string]error{"/sys/module/apparmor/parameters/enabled": syscall.EACCES}
		}, []verdict{{"security-modules", "unknown", "permission denied", ""}}},
		{"unsynchronised clock", func(e env, _ *CallerFacts) { e.unsynced = errUnsynced }, []verdict{{"clock", "unknown", "not synchronised", "timedatectl"}}},
		{"clock before aivm's program file", func(e env, _ *CallerFacts) {
			e.now = time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)
			e.built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		}, []verdict{{"clock", "bad", "1970-01-02", "timedatectl"}}},
		{"clock state unreadable", func(e env, _ *CallerFacts) { e.unsynced = syscall.EPERM }, []verdict{{"clock", "unknown", "not permitted", ""}}},
		{"Docker, old libvirt", func(e env, a *CallerFacts) {
			put(e, "/sys/class/net/docker0/mtu", "1500\n")
			a.Libvirt = version("9.0.0")
		}, []verdict{{"filters", "ok", "Docker drops packets it has no rule for, but libvirt's rules", ""}, {"libvirtd", "ok", "QEMU 8.2.2", ""}}},
		{"Docker, new libvirt", func(e env, a *CallerFacts) {
			put(e, "/run/docker.sock", "")
			a.Libvirt = version("10.10.0")
		}, []verdict{{"filters", "unknown", "only root can read its rules", "aivm host doctor --sudo"}, {"libvirtd", "ok", "libvirt 10.10.0", ""}}},
		{"Docker, new libvirt set to iptables", func(e env, a *CallerFacts) {
			put(e, "/run/docker.sock", "")
			put(e, "/etc/libvirt/network.conf", "# x\nfirewall_backend = \"iptables\"\n")
			a.Libvirt = version("10.10.0")
		}, []verdict{{"filters", "ok", "come first", ""}, {"libvirtd", "ok", "libvirt 10.10.0", ""}}},
		{"Docker drops", func(e env, a *CallerFacts) {
			put(e, "/run/docker.sock", "")
			a.Bridges = []string{bridge}
			a.Ruleset = rules(base("FORWARD", "forward", "drop")+","+sub("DOCKER-USER")+`,{"table":{"family":"ip","name":"libvirt_network"}}`, jump("FORWARD", "DOCKER-USER"))
		}, []verdict{{"filters", "bad", "Docker drops guests' packets: virbr-aivm", "iptables -I DOCKER-USER -i virbr-aivm"}}},
		{"Docker drops, libvirt comes first", func(e env, a *CallerFacts) {
			put(e, "/run/docker.sock", "")
			a.Bridges = []string{bridge}
			a.Ruleset = rules(base("FORWARD", "forward", "drop")+","+sub("LIBVIRT_FWO"), jump("FORWARD", "LIBVIRT_FWO"), iface("LIBVIRT_FWO", "iifname", bridge))
		}, []verdict{{"filters", "ok", "no firewall drops guests' packets (Docker is active)", ""}}},
		{"a rule accepts all bridges of libvirt", func(_ env, a *CallerFacts) {
			a.Bridges = []string{bridge}
			a.Ruleset = rules(base("FORWARD", "forward", "drop"), iface("FORWARD", "iifname", "virbr*"))
		}, []verdict{{"filters", "ok", "no firewall drops", ""}}},
		{"ufw drops what comes in", func(e env, a *CallerFacts) {
			put(e, "/etc/ufw/ufw.conf", "ENABLED=yes\n")
			a.Bridges = []string{bridge}
			a.Ruleset = rules(base("INPUT", "input", "drop")+","+sub("ufw-before-input"), jump("INPUT", "ufw-before-input"))
		}, []verdict{{"filters", "bad", "ufw drops", "ufw allow in on virbr-aivm to any port 67"}}},
		{"ufw, rules unreadable", func(e env, a *CallerFacts) {
			put(e, "/etc/ufw/ufw.conf", "ENABLED=yes\n")
			k := plan.Unknown[[]byte](errors.New("sudo refused"))
			a.Ruleset = &k
		}, []verdict{{"filters", "unknown", "sudo refused", "--sudo"}}},
		{"ufw switched off", func(e env, _ *CallerFacts) { put(e, "/etc/ufw/ufw.conf", "ENABLED=no\n") }, nil},
		{"rules and no network yet", func(_ env, a *CallerFacts) { a.Ruleset = rules(base("FORWARD", "forward", "drop")) }, []verdict{{"filters", "ok", "no network is active yet", ""}}},
		{"another program's table drops", func(_ env, a *CallerFacts) {
			a.Bridges = []string{bridge}
			a.Ruleset = rules(base("mine", "forward", "drop"))
		}, []verdict{{"filters", "bad", "table ip filter drops", "nft list ruleset"}}},
		{"unreadable output of nft", func(_ env, a *CallerFacts) {
			k := plan.Yes([]byte("Error"))
			a.Ruleset = &k
		}, []verdict{{"filters", "ok", "neither Docker", ""}}},
		{"firewalld", func(e env, _ *CallerFacts) {
			put(e, "/sys/fs/cgroup/system.slice/firewalld.service/x", "")
			put(e, "/usr/lib/firewalld/zones/libvirt.xml", "")
		}, []verdict{{"filters", "ok", "has libvirt's zone", ""}}},
		{"firewalld without the zone", func(e env, _ *CallerFacts) { put(e, "/run/firewalld.pid", "1") }, []verdict{{"filters", "bad", "without libvirt's zone", "restart firewalld"}}},
		{"OpenVPN", func(e env, _ *CallerFacts) {
			put(e, "/sys/class/net/tun0/tun_flags", "0x1001\n")
			put(e, "/sys/class/net/tun0/mtu", "1400\n")
			put(e, "/proc/net/route", routes("eth0 00000000 00000000 0", "tun0 00000000 00000080 0", "tun0 00000080 00000080 0"))
		}, []verdict{{"vpn", "unknown", "tun0 (tunnel) has the default route", "kill switch"}}},
		{"WireGuard beside the default route", func(e env, _ *CallerFacts) { put(e, "/sys/class/net/wg0/uevent", "DEVTYPE=wireguard\nINTERFACE=wg0\n") }, []verdict{
			{"vpn", "ok", "wg0 (WireGuard); the default route goes through eth0", ""},
		}},
		{"taps of VMs are no VPN", func(e env, _ *CallerFacts) { put(e, "/sys/class/net/vnet0/tun_flags", "0x1002\n") }, nil},
		{"no route at all", func(e env, _ *CallerFacts) { put(e, "/proc/net/route", routes()) }, []verdict{{"vpn", "ok", "no default route", ""}}},
		{"routes that cannot be read", func(e env, _ *CallerFacts) { e.readErr = map[string]error{"/proc/net/route": syscall.EIO} }, []verdict{{"vpn", "unknown", "input/output error", ""}}},
		{"old ssh", func(e env, _ *CallerFacts) { e.output = "OpenSSH_6.6.1p1" }, []verdict{{"ssh", "bad", "too old", ""}}},
		{"guests answer", func(e env, a *CallerFacts) {
			a.SSHServers = []SSHServer{{Where: "VM a", Banner: "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"}}
			e.execs = append(e.execs, "/usr/sbin/sshd")
			e.outputs["sshd"] = "unknown option -- V\nOpenSSH_8.9p1 Ubuntu-3\nusage: sshd"
		}, []verdict{{"ssh-server", "ok", "VM a: OpenSSH_9.2p1 Debian-2; this machine: OpenSSH_8.9p1 Ubuntu-3", ""}}},
		{"a guest that does not answer", func(_ env, a *CallerFacts) { a.SSHServers = []SSHServer{{Where: "VM a", Err: syscall.ECONNREFUSED}} }, []verdict{
			{"ssh-server", "unknown", "VM a: connection refused", "aivm status"},
		}},
	}
	if len(machines) < 30 {
		t.Errorf("only %d machines", len(machines))
	}
	doctor := func(change func(env, *CallerFacts)) map[string]Check {
		e, a := full(), asked
		e.execs, e.files, e.outputs = slices.Clone(e.execs), maps.Clone(e.files), maps.Clone(e.outputs)
		change(&e, &a)
		env := e.env()
		f := Observe(env)
		by := map[string]Check{}
		for _, c := range Doctor(f, Examine(context.Background(), env, f).With(a)) {
			by[c.ID] = c
		}
		return by
	}
	healthy := doctor(func(env, *CallerFacts) {})
	for id, c := range healthy {
		if c.State == Bad || c.State == Unknown {
			t.Errorf("healthy: %s: %+v", id, c)
		}
	}
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			got := doctor(m.change)
			for _, v := range m.want {
				c := got[v.id]
				fix := strings.Join(c.Fix, "; ")
				if string(c.State) != v.state || !strings.Contains(c.Detail, v.detail) || !strings.Contains(fix, v.fix) || v.fix == "" && v.id != "virtlogd" && fix != "" {
					t.Errorf("%s: want %s %q, fix %q, got\n%+v", v.id, v.state, v.detail, v.fix, c)
				}
				delete(got, v.id)
			}
			for id, c := range got {
				if c.State != healthy[id].State {
					t.Errorf("%s differs from the healthy machine: %+v", id, c)
				}
			}
		})
	}
}
