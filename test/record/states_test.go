package record

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/network"
)

// Each function brings a new world into a state. The VM of most states is "box", the folder projDir.

const (
	projDir   = homeDir + "/proj"
	storePath = homeDir + "/.config/aivm/config.toml"
	stateDir  = homeDir + "/.local/state/aivm"
)

// all combines states: it runs the functions one after the other.
func all(fs ...func(*world)) func(*world) {
	return func(w *world) {
		for _, f := range fs {
			f(w)
		}
	}
}

// ran is the state after a successful command.
func ran(line string) func(*world) { return func(w *world) { w.run(strings.Fields(line)...) } }

// proj creates the folder of most cases and makes it the working directory.
func proj(w *world) {
	w.write(projDir+"/main.go", "package main\n", 0o644)
	w.write(projDir+"/Makefile", "all:\n\tgo build\n", 0o644)
	w.cwd = projDir
}

// bare is a host without the packages that aivm needs.
func bare(w *world) { w.machine.bare() }

func noKVM(w *world) {
	w.machine.files["/proc/cpuinfo"] = cpuPlain
	w.machine.kvm = fs.ErrNotExist
}

func libvirtDenied(w *world) { w.machine.libvirtDenied = true }
func stopped(w *world)       { w.machine.stopVirt() }
func noHooks(w *world)       { w.machine.hooksCurrent, w.machine.hooksInstalled = false, false }
func outdatedHooks(w *world) { w.machine.hooksCurrent = false }
func terminal(w *world)      { w.tty = true }

func typed(s string) func(*world) { return func(w *world) { w.tty, w.answers = true, s } }

// subnetInUse adds a VPN route to the default subnet.
func subnetInUse(w *world) {
	w.machine.routes = append(w.machine.routes, network.Route{Interface: "tun0", Dst: netip.MustParsePrefix("10.77.0.0/16")})
}

// created has the running VM box.
var created = ran("vm create box --yes --image " + imageFile)

// attached has the running VM box with the folder attached.
var attached = all(proj, created, ran("attach . --yes"))

// opened has a VM that `aivm code` created for the folder.
var opened = all(proj, ran("code . --yes --image "+imageFile))

// off stops box with aivm.
func off(w *world) {
	w.run("vm", "down", "box", "--yes")
	w.guest("box").reboot()
}

// stoppedWithoutAivm stops box without aivm.
func stoppedWithoutAivm(w *world) {
	w.virt.stop(w.virt.domainNamed("box"))
	w.guest("box").reboot()
}

func paused(w *world) { w.virt.domainNamed("box").state = libvirt.DomainPaused }

// guestUnreachable is a running guest that cannot be reached by SSH.
func guestUnreachable(w *world) { w.guest("box").noAnswer = true }

// wrongHostKey is a guest with another host key.
func wrongHostKey(w *world) { w.guest("box").badKey = true }

// rebooted is a guest that rebooted without aivm.
func rebooted(w *world) { w.guest("box").reboot() }

func hostRebooted(w *world) {
	stoppedWithoutAivm(w)
	w.binds, w.exports = nil, nil
	for _, n := range w.virt.networks {
		n.active, n.leases = false, nil
	}
	w.machine.loaded = map[string]string{}
}

func clockBehind(w *world) { w.guest("box").clock = "1700000000.000000000\n" }

func booting(w *world) {
	w.guest("box").boot = "installed\nstatus {\"v1\": {\"datasource\": \"DataSourceNoCloud [seed=/dev/vdb]\", \"stage\": \"modules-final\"}}\nend\n"
}

// firewallFlushed is a host whose firewall rules were flushed, firewallAltered one with other rules instead.
func firewallFlushed(w *world) { w.machine.loaded = map[string]string{} }
func firewallAltered(w *world) { w.machine.loaded["aivm-net"] = "of somebody else" }
func firewallUnreadable(w *world) {
	w.machine.kernel = errors.New("reading the rules as root: sudo: a password is required")
}

func foreignChains(w *world) {
	w.machine.chains = []nftread.Chain{{Family: "ip", Table: "docker", Name: "pre", Type: "nat", Hook: 0, Priority: -400}}
}

// newSubnet adds a network interface after the rules were loaded.
func newSubnet(w *world) {
	w.machine.local = append(w.machine.local, netip.MustParsePrefix("203.0.113.0/24"))
}

// unmounted removes the folder's mount on the host.
func unmounted(w *world) { w.binds = nil }

// replacedFolder replaces the folder by another directory.
func replacedFolder(w *world) {
	w.must(os.Rename(projDir, projDir+".old"))
	w.write(projDir+"/main.go", "package other\n", 0o644)
	w.cwd = homeDir
}

func lostFolder(w *world) {
	w.cwd = homeDir
	w.must(os.RemoveAll(projDir))
}

// lostState removes the state directory of box, with its host key and address.
func lostState(w *world) { w.must(os.RemoveAll(stateDir + "/box")) }

// lostDomain removes box from libvirt.
func lostDomain(w *world) { w.virt.domains = nil }

func lostStore(w *world) { w.must(os.Remove(storePath)) }

// foreignDomain defines a domain named box that is not aivm's.
func foreignDomain(w *world) {
	_, err := w.virt.define(`<domain type="kvm"><name>box</name><memory unit="MiB">1024</memory><vcpu>1</vcpu><os><type arch="x86_64">hvm</type></os><devices></devices></domain>`)
	w.must(err)
}

func foreignNetwork(w *world) {
	n, err := w.virt.defineNetwork(`<network><name>aivm-net</name><forward mode="nat"/><bridge name="virbr7"/><ip address="10.77.0.1" prefix="24"/></network>`)
	w.must(err)
	n.active = true
}

// sshConfig is a user's own ssh configuration.
func sshConfig(w *world) {
	w.write(homeDir+"/.ssh/config", "# mine\nHost *\n\tServerAliveInterval 30\n\nHost work\n\tHostName work.example.org\n", 0o600)
}

func sshTaken(w *world) {
	w.write(homeDir+"/.ssh/config", "Host box\n\tHostName box.example.org\n", 0o600)
}

// aliasGone removes the ssh entry of box.
func aliasGone(w *world) { w.must(os.Remove(homeDir + "/.config/aivm/ssh/box.conf")) }

func noEditor(w *world) { w.editors = nil }

func withImage(w *world) { w.run("image", "fetch", imageFile, "--yes") }

// hostExecuted adds host-executed files to the folder.
func hostExecuted(w *world) {
	w.write(projDir+"/.vscode/tasks.json", "{\"version\": \"2.0.0\"}\n", 0o644)
	w.write(projDir+"/.envrc", "export A=1\n", 0o644)
}

// stray adds a mount of a folder that is not recorded.
func stray(w *world) {
	w.binds = append(w.binds, root.Bind{Src: homeDir + "/gone", VMKey: "4321-box", Token: "gone-0123456789abcdef01234567", Ino: 7})
}

// busyGuest has a process in the guest that uses the folder.
func busyGuest(w *world) {
	g := w.guest("box")
	g.rootFails, g.rootPrints = "release ", "aivm-share-held "+w.token()+" 812 node\naivm-share-error busy "+w.token()+" "+projDir+"\n"
}

// token returns the token of the first shared folder.
func (w *world) token() string {
	if len(w.binds) == 0 {
		w.t.Fatal("no folder is shared")
	}
	return w.binds[0].Token
}

// fullDir has a guest path that is not empty.
func fullDir(w *world) {
	g := w.guest("box")
	g.rootFails, g.rootPrints = "folder ", "aivm-share-error full - "+projDir+"\n"
}

func rootRefuses(kind string) func(*world) {
	return func(w *world) { w.rootErr[kind] = errors.New("the privileged helper stopped: out of luck") }
}

func smallMachine(w *world) {
	w.machine.cpus, w.machine.free = 1, 2<<30
	w.machine.files["/proc/meminfo"] = "MemTotal:        1024000 kB\nMemAvailable:     300000 kB\n"
}

func dirtyDisk(w *world) { w.virt.diskOf(w.virt.domainNamed("box")).write() }

// firewallNeedsPassword has rules that only root can read, and sudo asks for a password.
func firewallNeedsPassword(w *world) {
	w.machine.kernel = fmt.Errorf("%w: a password is required", firewall.ErrPasswordNeeded)
}

// foreignDefaultDomain defines a domain with aivm's default name.
func foreignDefaultDomain(w *world) {
	_, err := w.virt.define(`<domain type="kvm"><name>aivm</name><memory unit="MiB">1024</memory><vcpu>1</vcpu><os><type arch="x86_64">hvm</type></os><devices></devices></domain>`)
	w.must(err)
}

// linked has a symbolic link to the folder in the home, which is the working directory.
func linked(w *world) {
	w.must(os.Symlink(projDir, homeDir+"/link"))
	w.cwd = homeDir
}

// twoFolders attaches a second folder.
func twoFolders(w *world) {
	w.write(homeDir+"/second/a.txt", "a\n", 0o644)
	w.cwd = homeDir + "/second"
	w.run("attach", ".", "--yes")
	w.cwd = projDir
}

func secondLost(w *world) { w.must(os.RemoveAll(homeDir + "/second")) }

// hostExecutedChanged changes host-executed files of the folder after it was attached.
func hostExecutedChanged(w *world) {
	w.write(projDir+"/Makefile", "all:\n\tcurl example.org\n", 0o644)
	w.write(projDir+"/.envrc", "export A=1\n", 0o644)
}

func setuidFile(w *world) {
	w.write(projDir+"/setuid", "#!/bin/sh\n", 0o755)
	w.must(os.Chmod(projDir+"/setuid", 0o755|os.ModeSetuid))
}

// docker adds nftables rules of Docker and ufw that drop packets of guests.
func docker(w *world) {
	w.machine.ruleset = `{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
{"table": {"family": "ip", "name": "filter", "handle": 1}},
{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 2, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
{"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 3}},
{"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 4, "expr": [{"counter": {"packets": 0, "bytes": 0}}, {"jump": {"target": "DOCKER-USER"}}]}},
{"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 5, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "docker0"}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
{"rule": {"family": "ip", "table": "filter", "chain": "DOCKER-USER", "handle": 6, "expr": [{"counter": {"packets": 0, "bytes": 0}}, {"return": null}]}},
{"table": {"family": "inet", "name": "ufw", "handle": 2}},
{"chain": {"family": "inet", "table": "ufw", "name": "input", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
{"rule": {"family": "inet", "table": "ufw", "chain": "input", "handle": 4, "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}]}}]}`
}

// vpn routes all internet addresses through a tunnel.
func vpn(w *world) {
	w.machine.routes = append(w.machine.routes, network.Route{Interface: "wg0", Dst: netip.MustParsePrefix("0.0.0.0/1")}, network.Route{Interface: "wg0", Dst: netip.MustParsePrefix("128.0.0.0/1")})
	w.machine.files["/sys/class/net/wg0/mtu"] = "1420\n"
	w.machine.files["/proc/net/route"] += "wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\nwg0\t00000080\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n"
}

func serialLog(w *world) {
	w.virt.mu.Lock()
	defer w.virt.mu.Unlock()
	p := w.virt.poolNamed("aivm")
	v, err := w.virt.addVolume(p, `<volume><name>4321-box.serial.log</name><capacity unit="bytes">100</capacity><target><format type="raw"/></target></volume>`)
	w.must(err)
	v.data = []byte("[    0.000000] Linux version 6.1.0\r\n[   12.3] Kernel panic - not syncing: no init\r\n")
}

func crashed(w *world) {
	d := w.virt.domainNamed("box")
	w.virt.stop(d)
	d.reason = int32(libvirt.DomainShutoffCrashed)
	w.guest("box").reboot()
}

// openPool is a pool whose directory every user can enter, as earlier versions of aivm created it.
func openPool(w *world) { w.virt.poolNamed("aivm").x.Target.Permissions.Mode = "0711" }

// hostsFile is a network without dnsmasq's option no-hosts, as earlier versions created it.
func hostsFile(w *world) { w.virt.networkNamed("aivm-net").x.DnsmasqOptions = nil }

func damagedImage(w *world) {
	files, err := os.ReadDir(homeDir + "/.cache/aivm/images")
	w.must(err)
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".qcow2") {
			p := homeDir + "/.cache/aivm/images/" + f.Name()
			w.must(os.Chmod(p, 0o600))
			w.write(p, string(imageBytes("damaged")), 0o600)
		}
	}
}

func withExtension(w *world) {
	w.dir(homeDir + "/.vscode/extensions/ms-vscode-remote.remote-ssh-0.120.0")
}

func foreignDefaultNetwork(w *world) {
	n, err := w.virt.defineNetwork(`<network><name>default</name><forward mode="nat"/><bridge name="virbr0"/><ip address="192.168.122.1" prefix="24"/></network>`)
	w.must(err)
	n.active = true
}
