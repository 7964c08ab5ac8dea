package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// firewall tests the firewall with a real VM: what the guest reaches with and without the rules, and
// how removed or altered rules are restored. TestSecondVM tests that libvirt's hooks load the rules, and
// test/packets tests single packets.
func (f *firstVM) firewall(t *testing.T) {
	v := &firewalledVM{w: f.w, vm: f.vm}
	v.addHostServices(t)
	// The host has joined a network since the rules were loaded.
	if n := listedNetwork(t, f.w); n.Rules != "older" {
		t.Errorf("after the host joined a network: %+v", n)
	}
	f.w.must("", "vm", "up", f.vm)
	n := listedNetwork(t, f.w)
	if !n.Firewall || n.Rules != "in place" {
		t.Fatalf("the network before this test changed it: %+v", n)
	}
	v.setNetwork(n)
	step := f.w.steps()
	step("with the rules", func(t *testing.T) { v.checkReachable(t, true) })
	step("status", v.status)
	step("without the rules", v.rulesRemoved)
	step("altered rules", v.rulesAltered)
	step("ports and addresses of the config", v.config)
	step("an unknown machine on the bridge", v.unknownMachine)
	step("no-firewall", v.noFirewall)
}

// lanNamespace and unknownNamespace are the network namespaces of these tests; the host's end of each
// is an interface of the same name with a 0 at its end.
const lanNamespace, unknownNamespace = "e2e-lan", "e2e-two"

// listed is a network as `aivm list --json` prints it.
type listed struct {
	Name, Bridge, Subnet, Rules string
	Firewall                    bool
}

func listedNetwork(t *testing.T, w *world) listed {
	t.Helper()
	var l struct{ Networks []listed }
	if err := json.Unmarshal([]byte(w.must("", "list", "--json").stdout), &l); err != nil || len(l.Networks) != 1 {
		t.Fatalf("%v %+v", err, l)
	}
	return l.Networks[0]
}

// firewalledVM is a VM with services on the host and on a LAN, which the firewall closes to it.
type firewalledVM struct {
	w                *world
	vm, gw, network  string
	lan              string // address/port of a service in a subnet the host is connected to
	service, another string // ports of services on the host
}

func (v *firewalledVM) setNetwork(n listed) {
	v.gw, v.network = strings.TrimSuffix(n.Subnet, "0/24")+"1", n.Name
}

// addHostServices creates a LAN in a network namespace, with a public subnet to which the host is
// directly connected, and starts a service there and two on the host.
func (v *firewalledVM) addHostServices(t *testing.T) {
	runHost(t, "ip", "netns", "add", lanNamespace)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", lanNamespace).Run() })
	runHost(t, "sh", "-ec", `ip link add e2e-lan0 type veth peer name eth0 netns e2e-lan
		ip addr add 198.18.77.1/24 dev e2e-lan0; ip link set e2e-lan0 up
		ip netns exec e2e-lan sh -ec 'ip link set lo up; ip link set eth0 up; ip addr add 198.18.77.9/24 dev eth0; ip route add default via 198.18.77.1'`)
	v.lan = "198.18.77.9/4455"
	c := exec.Command("ip", "netns", "exec", lanNamespace, "socat", "TCP4-LISTEN:4455,fork,reuseaddr", "EXEC:echo lan")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	for _, port := range []*string{&v.service, &v.another} {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, "hello")
				c.Close()
			}
		}()
		_, *port, _ = net.SplitHostPort(l.Addr().String())
	}
}

// connect tries TCP addresses (HOST/PORT) from the guest, all in one login, and returns which of them
// accepted a connection.
func (v *firewalledVM) connect(t *testing.T, addrs ...string) map[string]bool {
	t.Helper()
	script := "for a in " + strings.Join(addrs, " ") + `; do (timeout 8 bash -c "exec 3<>/dev/tcp/$a" 2>/dev/null && echo "yes $a" || echo "no $a") & done; wait`
	out := map[string]bool{}
	for line := range strings.Lines(v.w.guest(v.vm, script)) {
		word, a, _ := strings.Cut(strings.TrimSpace(line), " ")
		out[a] = word == "yes"
	}
	return out
}

// mirror returns the address (HOST/PORT) of the guest's package mirror: the only internet host that
// every test machine can reach.
func (v *firewalledVM) mirror(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(v.w.guest(v.vm, `grep -rhoE 'https?://[^/ ]+' /etc/apt/sources.list /etc/apt/sources.list.d | head -n1`))
	if err != nil || u.Host == "" {
		t.Fatalf("no mirror in the guest: %v %v", u, err)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Hostname() + "/" + port
}

// checkReachable checks that the guest reaches the mirror and the gateway's DNS, and the services
// unless the rules are loaded.
func (v *firewalledVM) checkReachable(t *testing.T, withRules bool) {
	t.Helper()
	mirror := v.mirror(t)
	closed := []string{v.gw + "/" + v.service, "198.18.77.1/" + v.another, v.lan}
	got := v.connect(t, append(closed, mirror, v.gw+"/53")...)
	for _, a := range closed {
		if got[a] == withRules {
			t.Errorf("%s: reached: %v, rules loaded: %v", a, got[a], withRules)
		}
	}
	for _, a := range []string{mirror, v.gw + "/53"} {
		if !got[a] {
			t.Errorf("the guest does not reach %s", a)
		}
	}
	v.w.guest(v.vm, "ping -c1 -W5 "+v.gw)
}

func (v *firewalledVM) status(t *testing.T) {
	st := v.w.must("", "status", "--json").stdout
	for _, want := range []string{"reaches the internet and DHCP, DNS and echo of its gateway " + v.gw, `"id":"firewall"`} {
		if !strings.Contains(st, want) {
			t.Errorf("status lacks %q:\n%s", want, st)
		}
	}
	if r := v.w.must("", "host", "fw", "status"); !strings.Contains(r.stdout, v.network+": in place") {
		t.Errorf("%+v", r)
	}
	// Another build of aivm may have installed its own copy for the hooks while this test ran, so
	// only the rules are checked.
	if r := v.w.must("", "host", "fw", "apply", "--dry-run"); strings.Contains(r.stdout, "nft -f") {
		t.Errorf("%+v", r)
	}
}

// tables returns the number of the network's nftables tables.
func (v *firewalledVM) tables(t *testing.T) int {
	t.Helper()
	return strings.Count(runHost(t, "nft", "list", "tables"), strings.ReplaceAll(v.network, "-", "_")+"_")
}

// deleteTables deletes the network's nftables tables with nft.
func (v *firewalledVM) deleteTables(t *testing.T) {
	t.Helper()
	runHost(t, "sh", "-c", "nft list tables | { grep '"+strings.ReplaceAll(v.network, "-", "_")+"_' || true; } | while read l; do nft delete $l; done")
}

// rulesRemoved removes the rules: the guest reaches all services until the next command loads the
// rules again.
func (v *firewalledVM) rulesRemoved(t *testing.T) {
	if r := v.w.must("", "host", "fw", "remove", "--dry-run"); !strings.Contains(r.stdout, "nft delete table") || v.tables(t) != 3 {
		t.Errorf("%+v", r)
	}
	// A reservation of another VM in this network.
	const other = "<host mac='52:54:00:aa:bb:01' ip='10.94.8.77'/>"
	virsh(t, "net-update", v.network, "add", "ip-dhcp-host", other, "--live", "--config")
	defer virsh(t, "net-update", v.network, "delete", "ip-dhcp-host", other, "--live", "--config")
	v.w.must("", "host", "fw", "remove", "--yes")
	if v.tables(t) != 0 {
		t.Errorf("tables after fw remove: %s", runHost(t, "nft", "list", "tables"))
	}
	v.checkReachable(t, false)
	v.w.must("", "vm", "up", v.vm, "--yes")
	v.checkReachable(t, true)
	if !strings.Contains(runHost(t, "nft", "list", "ruleset"), "52:54:00:aa:bb:01") {
		t.Error("the reloaded rules contain only this VM and cut off the others")
	}
}

func (v *firewalledVM) rulesAltered(t *testing.T) {
	table := strings.Fields(runHost(t, "sh", "-c", "nft list tables | grep 'inet aivm.*"+strings.ReplaceAll(v.network, "-", "_")+"_'"))[2]
	runHost(t, "nft", "insert", "rule", "inet", table, "to_host", "accept")
	if r := v.w.aivm("", "status"); !strings.Contains(r.stdout, "altered") {
		t.Errorf("status does not report an added rule: %s", r.stdout)
	}
	if r := v.w.must("", "vm", "up", v.vm, "--no-firewall"); !strings.Contains(r.stderr, "is not checked") {
		t.Errorf("%+v", r)
	}
	if n := listedNetwork(t, v.w); n.Firewall || n.Rules != "altered" {
		t.Errorf("--no-firewall repaired the rules, or list does not report that they are altered: %+v", n)
	}
	r := v.w.must("", "vm", "up", v.vm)
	if !strings.Contains(r.stderr, "reload the firewall") {
		t.Errorf("%+v", r)
	}
	// The rules are repaired, so the second run does nothing.
	if r := v.w.must("", "vm", "up", v.vm); strings.Contains(r.stderr, "firewall") {
		t.Errorf("%+v", r)
	}
	v.checkReachable(t, true)
}

func (v *firewalledVM) config(t *testing.T) {
	path := filepath.Join(v.w.home, ".config/aivm/config.toml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	i := strings.Index(text, "[networks.firewall]")
	if i < 0 {
		t.Fatalf("the config has no firewall section:\n%s", text)
	}
	i += len("[networks.firewall]\n")
	write(t, path, text[:i]+"allow_tcp_ports = ["+v.service+"]\nallow_lan = [\"198.18.77.9:4455\"]\n"+text[i:], 0o600)
	v.w.must("", "vm", "up", v.vm)
	got := v.connect(t, v.gw+"/"+v.service, v.gw+"/"+v.another, v.lan)
	if !got[v.gw+"/"+v.service] || !got[v.lan] || got[v.gw+"/"+v.another] {
		t.Errorf("with one port and one address allowed: %v", got)
	}
	write(t, path, text, 0o600)
	if r := v.w.must("", "host", "fw", "apply"); !strings.Contains(r.stdout, "rules are loaded") {
		t.Errorf("%+v", r)
	}
	v.checkReachable(t, true)
}

// unknownMachine tests a machine on the bridge that is not a VM of aivm: the rules give it nothing.
func (v *firewalledVM) unknownMachine(t *testing.T) {
	bridge := listedNetwork(t, v.w).Bridge
	runHost(t, "ip", "netns", "add", unknownNamespace)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", unknownNamespace).Run() })
	second := strings.TrimSuffix(v.gw, ".1")
	runHost(t, "sh", "-ec", `ip link add e2e-two0 type veth peer name eth0 netns e2e-two; ip link set e2e-two0 master `+bridge+` up
		ip netns exec e2e-two sh -ec 'ip link set lo up; ip link set eth0 up; ip addr add `+second+`.77/24 dev eth0; ip route add default via `+v.gw+`'`)
	try := func(addr string) bool {
		return exec.Command("ip", "netns", "exec", unknownNamespace, "timeout", "4", "bash", "-c", "exec 3<>/dev/tcp/"+addr).Run() == nil
	}
	for _, a := range []string{v.gw + "/53", second + ".10/22", v.gw + "/" + v.service} {
		if try(a) {
			t.Errorf("an unknown machine on the bridge reaches %s", a)
		}
	}
	v.w.must("", "host", "fw", "remove", "--yes")
	if !try(v.gw + "/53") {
		t.Error("without the rules the unknown machine does not reach the gateway, so this test shows nothing")
	}
	v.w.must("", "host", "fw", "apply", "--yes")
	runHost(t, "ip", "link", "del", "e2e-two0")
}

func (v *firewalledVM) noFirewall(t *testing.T) {
	v.deleteTables(t)
	if r := v.w.must("", "vm", "up", v.vm, "--no-firewall"); !strings.Contains(r.stderr, "this once") || v.tables(t) != 0 {
		t.Errorf("%+v", r)
	}
	v.w.must("", "vm", "up", v.vm) // --no-firewall is for one run only
	if v.tables(t) != 3 {
		t.Error("the next command did not load the rules again")
	}
}

// guestFacts prints what a guest must keep when it boots again: keys, user, addresses, a file.
const guestFacts = `sudo -n cat /etc/ssh/ssh_host_ed25519_key.pub ~/.ssh/authorized_keys; id; ip -4 -o addr show scope global | awk '{print $4}'; cat ~/kept`

// networkDestroyed destroys the network of a running VM: the rules are removed, and code fails at once
// instead of waiting for SSH.
func (v *firewalledVM) networkDestroyed(t *testing.T, project string) {
	virsh(t, "net-destroy", v.network)
	if v.tables(t) != 0 {
		t.Error("the rules of a stopped network are still loaded")
	}
	r, _ := v.w.peak(project, 90*time.Second, "code", ".")
	if r.code != 2 || r.took > 60*time.Second || !strings.Contains(r.stderr, "aivm vm restart "+v.vm) {
		t.Errorf("code with a destroyed network, after %s: %+v", r.took, r)
	}
}

// startByVirsh starts the network and the VM with virsh: libvirt's hooks must load the rules each time.
func (v *firewalledVM) startByVirsh(t *testing.T) {
	v.deleteTables(t)
	virsh(t, "net-start", v.network)
	if v.tables(t) != 3 {
		t.Error("the network started without its rules")
	}
	v.deleteTables(t)
	virsh(t, "start", v.vm)
	if v.tables(t) != 3 {
		t.Error("the VM started without its network's rules")
	}
}
