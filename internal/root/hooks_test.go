package root

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/wall"
)

func testWall(network, bridge string) wall.Wall {
	return wall.Wall{
		Network: network, Prefix: "aivm_sandbox", Bridge: bridge,
		Subnet: netip.MustParsePrefix("10.99.0.0/24"), Gateway: netip.MustParseAddr("10.99.0.1"),
		Block:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Guests: []wall.Guest{{MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.99.0.10")}},
	}
}

// stageHooks gives the namespace places of its own for hooks and program.
func stageHooks(t *testing.T, work string) {
	t.Helper()
	stage(t, work, unix.MS_PRIVATE)
	for _, d := range []string{"/etc/libvirt", "/usr/local", "/run", "/var/log"} {
		must(t, unix.Mount("none", d, "tmpfs", 0, "mode=0755"))
	}
	must(t, os.Mkdir("/var/log/libvirt", 0o755))
}

// libvirtd starts a real libvirtd in this mount and network namespace, and
// stops it with all it made.
func libvirtd(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile("/etc/libvirt/qemu.conf", []byte("stdio_handler = \"file\"\nuser = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nnamespaces = []\ncgroup_controllers = []\n"), 0o600))
	must(t, os.MkdirAll("/run/lock", 0o755))
	sh(t, "ip link set lo up; libvirtd -d")
	b, err := os.ReadFile("/run/libvirtd.pid")
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	t.Cleanup(func() {
		_, _ = virsh("destroy", "hooked")
		for _, n := range []string{"hooked", "foreign"} {
			_, _ = virsh("net-destroy", n)
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
	})
}

func virsh(args ...string) (string, error) {
	out, err := exec.Command("virsh", append([]string{"-c", "qemu:///system"}, args...)...).CombinedOutput()
	return string(out), err
}

func virshOK(t *testing.T, args ...string) string {
	t.Helper()
	out, err := virsh(args...)
	if err != nil {
		t.Fatalf("virsh %v: %v\n%s", args, err, out)
	}
	return out
}

// virshFails wants a failure that carries these words to the person.
func virshFails(t *testing.T, words string, args ...string) {
	t.Helper()
	if out, err := virsh(args...); err == nil || !strings.Contains(out, words) {
		t.Fatalf("virsh %v: %v, %q lacks %q", args, err, out, words)
	}
}

func defineNetwork(t *testing.T, name, bridge, octet string) {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(p, []byte(fmt.Sprintf(`<network><name>%s</name>%s<forward mode='nat'/><bridge name='%s'/><ip address='10.%s.0.1' prefix='24'/></network>`, name, map[bool]string{true: ourMark}[name == "hooked"], bridge, octet)), 0o600))
	virshOK(t, "net-define", p)
}

func tableThere(w wall.Wall) bool {
	c, err := nftread.Read(w.Tables())
	return err == nil && c.Digest != ""
}

// A libvirtd that started before the hooks existed is told of them; from then
// on a network, or a VM, whose rules cannot be put up does not start.
func TestFailingHookStopsTheStart(t *testing.T) {
	work, ok := privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	stageHooks(t, work)
	libvirtd(t)
	defineNetwork(t, "hooked", "brh", "99")
	defineNetwork(t, "foreign", "brf", "98")
	dom := filepath.Join(t.TempDir(), "dom")
	must(t, os.WriteFile(dom, []byte(`<domain type='qemu'><name>hooked</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='hooked'/></interface></devices></domain>`), 0o600))
	virshOK(t, "define", dom)
	w := testWall("hooked", "brh")

	do(t, Hooks{})
	if ok, err := HooksCurrent("/proc/self/exe"); !ok || err != nil {
		t.Fatalf("installed, but not current: %v %v", ok, err)
	}
	do(t, Nft{Wall: w})
	if !tableThere(w) {
		t.Fatal("no rules after loading them")
	}
	sh(t, "nft flush ruleset")

	virshOK(t, "net-start", "hooked")
	if !tableThere(w) {
		t.Fatal("the network started without its rules")
	}
	sh(t, "nft delete table inet "+w.Table())
	virshOK(t, "start", "hooked")
	if !tableThere(w) {
		t.Fatal("the VM started without its network's rules")
	}
	// Its card is bound to its port while it runs, and let go afterwards.
	port := func() string {
		t.Helper()
		m, err := ReadNetManifest("hooked")
		must(t, err)
		return m.Wall.Guests[0].Port
	}
	if list := virshOK(t, "domiflist", "hooked"); port() == "" || !strings.Contains(list, port()+" ") {
		t.Errorf("bound to port %q:\n%s", port(), list)
	}
	do(t, Nft{Wall: w}) // who puts the rules up again does not know the port
	if port() == "" {
		t.Error("the port is lost when the rules are put up again")
	}
	virshOK(t, "destroy", "hooked")
	for end := time.Now().Add(5 * time.Second); port() != "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
	if port() != "" {
		t.Errorf("a VM that is off is still bound to port %q", port())
	}
	virshOK(t, "net-destroy", "hooked")
	if tableThere(w) {
		t.Error("the rules of a network that stopped are still there")
	}
	// A guest that is forgotten then does not bring them back; nor does a VM that
	// stops after its network.
	do(t, Nft{Wall: w, IfUp: true})
	if tableThere(w) {
		t.Error("the rules of a network that stopped are back")
	}
	virshOK(t, "net-start", "hooked")
	virshOK(t, "start", "hooked")
	virshOK(t, "net-destroy", "hooked")
	virshOK(t, "destroy", "hooked")
	for end := time.Now().Add(5 * time.Second); port() != "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
	if port() != "" || tableThere(w) {
		t.Errorf("a VM that stopped after its network: port %q, rules there: %v", port(), tableThere(w))
	}

	// What the hook cannot do keeps both from starting, and says why.
	good, err := os.ReadFile(netManifest("hooked"))
	must(t, err)
	must(t, os.WriteFile(netManifest("hooked"), []byte("{"), 0o644))
	virshFails(t, "is not known", "net-start", "hooked")
	virshOK(t, "net-start", "foreign")
	must(t, os.WriteFile(netManifest("hooked"), good, 0o644))
	virshOK(t, "net-start", "hooked")
	must(t, os.WriteFile(netManifest("hooked"), []byte(strings.Replace(string(good), `"version": 1`, `"version": 99`, 1)), 0o644))
	virshFails(t, "version 99", "start", "hooked")
	virshOK(t, "net-destroy", "hooked")
	must(t, os.WriteFile(netManifest("hooked"), good, 0o644))

	// Without the program ours stays off, and nobody else's does.
	must(t, os.Rename(HookProgram, HookProgram+".away"))
	virshFails(t, "No such file", "net-start", "hooked")
	virshOK(t, "net-destroy", "foreign")
	virshOK(t, "net-start", "foreign")
	must(t, os.Rename(HookProgram+".away", HookProgram))

	var best time.Duration
	for range 5 {
		began := time.Now()
		sh(t, hookScript("network")+" hooked start begin - </dev/null")
		if d := time.Since(began); best == 0 || d < best {
			best = d
		}
	}
	t.Logf("the hook takes %v", best)
	if best > 50*time.Millisecond {
		t.Errorf("the hook takes %v", best)
	}
}

func TestHooksAreRenewedAndRemoved(t *testing.T) {
	work, ok := privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	stageHooks(t, work)
	current := func(want bool) {
		t.Helper()
		if got, err := HooksCurrent("/proc/self/exe"); got != want || err != nil {
			t.Errorf("current: %v %v, want %v", got, err, want)
		}
	}
	current(false)
	foreign := "/etc/libvirt/hooks/network.d/theirs"
	must(t, os.MkdirAll(filepath.Dir(foreign), 0o755))
	must(t, os.WriteFile(foreign, []byte("#!/bin/sh\n"), 0o755))
	do(t, Hooks{})
	current(true)
	st, err := os.Stat(HookProgram)
	must(t, err)
	if st.Mode() != 0o755 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the program: %v", st.Mode())
	}
	// An older program is replaced, the running one of a daemon undisturbed.
	must(t, os.Truncate(HookProgram, st.Size()-1))
	current(false)
	do(t, Hooks{})
	current(true)
	must(t, os.WriteFile(hookScript("qemu"), []byte(scriptText("qemu")+"# older\n"), 0o755))
	current(false)
	do(t, Hooks{})
	current(true)

	w := testWall("n", "b")
	do(t, Nft{Wall: w})
	refuses(t, Hooks{Remove: true}, "net-n.json")
	do(t, Nft{Wall: w, Remove: true})
	if tableThere(w) {
		t.Error("removed, and the rules are there")
	}
	do(t, Nft{Wall: w, Remove: true})
	do(t, Hooks{Remove: true})
	do(t, Hooks{Remove: true})
	current(false)
	for _, p := range []string{HookProgram, hookScript("network"), hookScript("qemu"), netManifest("n")} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s is still there", p)
		}
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("somebody else's hook: %v", err)
	}
	must(t, os.MkdirAll(filepath.Dir(hookScript("qemu")), 0o755))
	must(t, os.WriteFile(hookScript("qemu"), []byte("#!/bin/sh\nmine\n"), 0o755))
	refuses(t, Hooks{}, "somebody else's")
	must(t, os.Remove(hookScript("qemu")))
	must(t, os.Chmod("/etc/libvirt/hooks", 0o777))
	refuses(t, Hooks{}, "others than root")
}

// A user's helper puts up walls for that user's networks only, as libvirt has
// them.
func TestWallOfAnotherUser(t *testing.T) {
	work, ok := privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	stageHooks(t, work)
	w := testWall("n", "b")
	as := func(uid int, o Nft) error { return putWall(t.Context(), o, uid) }
	if err := as(1000, Nft{Wall: w}); err == nil || !strings.Contains(err.Error(), "not defined") {
		t.Errorf("a network that is not there: %v", err)
	}
	must(t, os.MkdirAll(networkXML, 0o755))
	define := func(owner, bridge string) {
		must(t, os.WriteFile(filepath.Join(networkXML, "n.xml"), []byte(`<!-- WARNING -->
<network xmlns:aivm='urn:aivm:mark:1'><name>n</name><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="`+owner+`"/></metadata><bridge name='`+bridge+`'/><ip address='10.99.0.1' prefix='24'/></network>`), 0o600))
	}
	define("1001", "b")
	if err := as(1000, Nft{Wall: w}); err == nil || !strings.Contains(err.Error(), "not made by aivm for uid 1000") {
		t.Errorf("another user's network: %v", err)
	}
	define("1000", "c")
	if err := as(1000, Nft{Wall: w}); err == nil || !strings.Contains(err.Error(), "another bridge") {
		t.Errorf("another bridge: %v", err)
	}
	define("1000", "b")
	must(t, as(1000, Nft{Wall: w}))
	m, err := ReadNetManifest("n")
	if err != nil || m.Owner != 1000 || !m.Wall.Same(w) || len(m.Digest) != 64 {
		t.Errorf("%+v %v", m, err)
	}
	// A VM was made since the caller looked: libvirt keeps an address for it. One
	// that is deleted has none any more.
	const kept = "<dhcp><host mac='52:54:00:AA:00:09' ip='10.99.0.9'/><host mac='52:54:00:aa:00:08' ip='192.0.2.8'/><host name='x' ip='10.99.0.7'/></dhcp>"
	define("1000", "b")
	def := filepath.Join(networkXML, "n.xml")
	b, err := os.ReadFile(def)
	must(t, err)
	must(t, os.WriteFile(def, []byte(strings.Replace(string(b), "prefix='24'/>", "prefix='24'>"+kept+"</ip>", 1)), 0o600))
	must(t, as(1000, Nft{Wall: w}))
	both := w.With("52:54:00:aa:00:09", netip.MustParseAddr("10.99.0.9"))
	if m, err := ReadNetManifest("n"); err != nil || !m.Wall.Same(both) || m.Wall.Same(w) {
		t.Errorf("a VM made meanwhile: %+v %v", m.Wall.Guests, err)
	}
	define("1000", "b")
	must(t, as(1000, Nft{Wall: w, IfUp: true}))
	if m, err := ReadNetManifest("n"); err != nil || !m.Wall.Same(w) {
		t.Errorf("a VM that is deleted: %+v %v", m.Wall.Guests, err)
	}
	if err := as(1001, Nft{Wall: w, Remove: true}); err == nil || !strings.Contains(err.Error(), "belongs to uid 1000") {
		t.Errorf("removed by another: %v", err)
	}
	must(t, as(1000, Nft{Wall: w, Remove: true}))
}
