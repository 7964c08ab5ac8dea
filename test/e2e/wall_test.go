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

// wall is the firewall around a real VM: what it reaches and what not, with the
// rules and without them, and how the rules come back. The rest is proved with
// packets (test/packets).
func (f *firstVM) wall(t *testing.T) {
	v := &walled{w: f.w, vm: f.vm}
	v.neighbourhood(t)
	n := listedNetwork(t, f.w)
	if !n.Firewall || n.Rules != "in place" {
		t.Fatalf("before anything was done to it: %+v", n)
	}
	v.gw, v.network = strings.TrimSuffix(n.Subnet, "0/24")+"1", n.Name
	step := f.w.steps()
	step("with the rules", func(t *testing.T) { v.reaches(t, true) })
	step("status tells", v.told)
	step("without them everything is open", v.open)
	step("altered", v.altered)
	step("ports and addresses of the config", v.config)
	step("a stranger on the bridge", v.stranger)
	step("no-firewall", v.noFirewall)
	step("off and on, by libvirt's own means", v.hooks)
}

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

// walled is a VM and what stands around it.
type walled struct {
	w                *world
	vm, gw, network  string
	lan              string // a service in a subnet this machine is connected to
	service, another string // ports of this machine
}

// neighbourhood is a LAN in a network namespace, on a public subnet this
// machine is directly connected to, and two services of this machine's.
func (v *walled) neighbourhood(t *testing.T) {
	_ = exec.Command("ip", "netns", "del", "e2e-lan").Run() // of a run that was killed
	run2(t, "ip", "netns", "add", "e2e-lan")
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", "e2e-lan").Run() })
	run2(t, "sh", "-ec", `ip link add e2e-lan0 type veth peer name eth0 netns e2e-lan
		ip addr add 198.18.77.1/24 dev e2e-lan0; ip link set e2e-lan0 up
		ip netns exec e2e-lan sh -ec 'ip link set lo up; ip link set eth0 up; ip addr add 198.18.77.9/24 dev eth0; ip route add default via 198.18.77.1'`)
	v.lan = "198.18.77.9/4455"
	c := exec.Command("ip", "netns", "exec", "e2e-lan", "socat", "TCP4-LISTEN:4455,fork,reuseaddr", "EXEC:echo lan")
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

// ask tries TCP addresses (HOST/PORT) from the guest, all in one login, and
// says which of them answered.
func (v *walled) ask(t *testing.T, addrs ...string) map[string]bool {
	t.Helper()
	script := "for a in " + strings.Join(addrs, " ") + `; do (timeout 8 bash -c "exec 3<>/dev/tcp/$a" 2>/dev/null && echo "yes $a" || echo "no $a") & done; wait`
	out := map[string]bool{}
	for line := range strings.Lines(v.w.guest(v.vm, script)) {
		word, a, _ := strings.Cut(strings.TrimSpace(line), " ")
		out[a] = word == "yes"
	}
	return out
}

// mirror is the address, HOST/PORT, of the package mirror the guest knows: the
// one place in the internet that is there on every test machine.
func (v *walled) mirror(t *testing.T) string {
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

func (v *walled) reaches(t *testing.T, walled bool) {
	t.Helper()
	mirror := v.mirror(t)
	closed := []string{v.gw + "/" + v.service, "198.18.77.1/" + v.another, v.lan}
	got := v.ask(t, append(closed, mirror, v.gw+"/53")...)
	for _, a := range closed {
		if got[a] == walled {
			t.Errorf("%s: reached: %v, with the rules: %v", a, got[a], walled)
		}
	}
	for _, a := range []string{mirror, v.gw + "/53"} {
		if !got[a] {
			t.Errorf("%s is not reached", a)
		}
	}
	v.w.guest(v.vm, "ping -c1 -W5 "+v.gw)
}

func (v *walled) told(t *testing.T) {
	st := v.w.must("", "status", "--json").stdout
	for _, want := range []string{"reaches the internet and DHCP, DNS and echo of its gateway " + v.gw, `"id":"firewall"`} {
		if !strings.Contains(st, want) {
			t.Errorf("status lacks %q:\n%s", want, st)
		}
	}
	if r := v.w.must("", "host", "fw", "status"); !strings.Contains(r.stdout, v.network+": in place") {
		t.Errorf("%+v", r)
	}
	// Another build of aivm may have put its own copy into the hooks meanwhile;
	// the rules are what counts.
	if r := v.w.must("", "host", "fw", "apply", "--dry-run"); strings.Contains(r.stdout, "nft -f") {
		t.Errorf("%+v", r)
	}
}

func (v *walled) tables(t *testing.T) int {
	t.Helper()
	return strings.Count(run2(t, "nft", "list", "tables"), strings.ReplaceAll(v.network, "-", "_")+"_")
}

// open takes the rules away: the same guest reaches all of it, and the next
// command closes it again.
func (v *walled) open(t *testing.T) {
	if r := v.w.must("", "host", "fw", "remove", "--dry-run"); !strings.Contains(r.stdout, "nft delete table") || v.tables(t) != 3 {
		t.Errorf("%+v", r)
	}
	// Another VM of this network, as libvirt knows it.
	const other = "<host mac='52:54:00:aa:bb:01' ip='10.94.8.77'/>"
	virsh(t, "net-update", v.network, "add", "ip-dhcp-host", other, "--live", "--config")
	defer virsh(t, "net-update", v.network, "delete", "ip-dhcp-host", other, "--live", "--config")
	v.w.must("", "host", "fw", "remove", "--yes")
	if v.tables(t) != 0 {
		t.Errorf("removed, but: %s", run2(t, "nft", "list", "tables"))
	}
	v.reaches(t, false)
	v.w.must("", "vm", "up", v.vm, "--yes")
	v.reaches(t, true)
	if !strings.Contains(run2(t, "nft", "list", "ruleset"), "52:54:00:aa:bb:01") {
		t.Error("the rules that came back for one VM cut off the others")
	}
}

func (v *walled) altered(t *testing.T) {
	table := strings.Fields(run2(t, "sh", "-c", "nft list tables | grep 'inet aivm.*"+strings.ReplaceAll(v.network, "-", "_")+"_'"))[2]
	run2(t, "nft", "insert", "rule", "inet", table, "to_host", "accept")
	if r := v.w.aivm("", "status"); !strings.Contains(r.stdout, "altered") {
		t.Errorf("status does not see a rule more: %s", r.stdout)
	}
	if r := v.w.must("", "vm", "up", v.vm, "--no-firewall"); !strings.Contains(r.stderr, "is not checked") {
		t.Errorf("%+v", r)
	}
	if n := listedNetwork(t, v.w); n.Firewall || n.Rules != "altered" {
		t.Errorf("--no-firewall mended it, or list does not tell: %+v", n)
	}
	r := v.w.must("", "vm", "up", v.vm)
	if !strings.Contains(r.stderr, "reload the firewall") {
		t.Errorf("%+v", r)
	}
	// Mended: nothing is done a second time.
	if r := v.w.must("", "vm", "up", v.vm); strings.Contains(r.stderr, "firewall") {
		t.Errorf("%+v", r)
	}
	v.reaches(t, true)
}

func (v *walled) config(t *testing.T) {
	store := filepath.Join(v.w.home, ".config/aivm/config.toml")
	b, err := os.ReadFile(store)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	i := strings.Index(text, "[networks.firewall]")
	if i < 0 {
		t.Fatalf("the store has no firewall section:\n%s", text)
	}
	i += len("[networks.firewall]\n")
	write(t, store, text[:i]+"allow_tcp_ports = ["+v.service+"]\nallow_lan = [\"198.18.77.9:4455\"]\n"+text[i:], 0o600)
	v.w.must("", "vm", "up", v.vm)
	got := v.ask(t, v.gw+"/"+v.service, v.gw+"/"+v.another, v.lan)
	if !got[v.gw+"/"+v.service] || !got[v.lan] || got[v.gw+"/"+v.another] {
		t.Errorf("with a port and an address allowed: %v", got)
	}
	write(t, store, text, 0o600)
	if r := v.w.must("", "host", "fw", "apply"); !strings.Contains(r.stdout, "rules are loaded") {
		t.Errorf("%+v", r)
	}
	v.reaches(t, true)
}

// stranger is a machine on the bridge that is no VM of ours.
func (v *walled) stranger(t *testing.T) {
	bridge := listedNetwork(t, v.w).Bridge
	_ = exec.Command("ip", "netns", "del", "e2e-two").Run() // of a run that was killed
	run2(t, "ip", "netns", "add", "e2e-two")
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", "e2e-two").Run() })
	second := strings.TrimSuffix(v.gw, ".1")
	run2(t, "sh", "-ec", `ip link add e2e-two0 type veth peer name eth0 netns e2e-two; ip link set e2e-two0 master `+bridge+` up
		ip netns exec e2e-two sh -ec 'ip link set lo up; ip link set eth0 up; ip addr add `+second+`.77/24 dev eth0; ip route add default via `+v.gw+`'`)
	try := func(addr string) bool {
		return exec.Command("ip", "netns", "exec", "e2e-two", "timeout", "4", "bash", "-c", "exec 3<>/dev/tcp/"+addr).Run() == nil
	}
	for _, a := range []string{v.gw + "/53", second + ".10/22", v.gw + "/" + v.service} {
		if try(a) {
			t.Errorf("a stranger reaches %s", a)
		}
	}
	v.w.must("", "host", "fw", "remove", "--yes")
	if !try(v.gw + "/53") {
		t.Error("without the rules the stranger should reach the gateway")
	}
	v.w.must("", "host", "fw", "apply", "--yes")
	run2(t, "ip", "link", "del", "e2e-two0")
}

func (v *walled) noFirewall(t *testing.T) {
	run2(t, "sh", "-c", "nft list tables | grep '"+strings.ReplaceAll(v.network, "-", "_")+"_' | while read l; do nft delete $l; done")
	if r := v.w.must("", "vm", "up", v.vm, "--no-firewall"); !strings.Contains(r.stderr, "this once") || v.tables(t) != 0 {
		t.Errorf("%+v", r)
	}
	v.w.must("", "vm", "up", v.vm) // it is not remembered
	if v.tables(t) != 3 {
		t.Error("the next use did not put the rules back")
	}
}

// hooks shuts the VM down, restarts its network and starts it with virsh: the
// rules are back, and the guest has the address and the keys that it had.
func (v *walled) hooks(t *testing.T) {
	facts := `sudo -n cat /etc/ssh/ssh_host_ed25519_key.pub ~/.ssh/authorized_keys; id; ip -4 -o addr show scope global | awk '{print $4}'; cat ~/kept`
	v.w.guest(v.vm, "echo kept > ~/kept; sync")
	before := v.w.guest(v.vm, facts)
	v.w.must("", "vm", "down", v.vm)
	if s := strings.TrimSpace(virsh(t, "domstate", v.vm)); s != "shut off" {
		t.Fatalf("after down: %s", s)
	}
	if r := v.w.aivm("", "vm", "status", v.vm); r.code != 0 || !strings.Contains(r.stdout, "aivm vm up "+v.vm) {
		t.Errorf("%+v", r)
	}
	virsh(t, "net-destroy", v.network)
	if v.tables(t) != 0 {
		t.Error("the rules of a stopped network are still there")
	}
	virsh(t, "net-start", v.network)
	if v.tables(t) != 3 {
		t.Error("the network started without its rules")
	}
	run2(t, "sh", "-c", "nft list tables | grep '"+strings.ReplaceAll(v.network, "-", "_")+"_' | while read l; do nft delete $l; done")
	began := time.Now()
	virsh(t, "start", v.vm)
	if v.tables(t) != 3 {
		t.Error("the VM started without its network's rules")
	}
	v.w.must("", "vm", "up", v.vm)
	t.Logf("a later boot: %.1f s", time.Since(began).Seconds())
	v.reaches(t, true)
	if after := v.w.guest(v.vm, facts); after != before {
		t.Errorf("a later boot changed:\n%s\nto\n%s", before, after)
	}
}
