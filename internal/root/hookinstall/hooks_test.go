package hookinstall_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/root/hookinstall"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// A libvirtd that started before the hooks existed loads them; from then on a network or
// VM whose rules cannot be loaded does not start.
func TestFailingHookStopsTheStart(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Libvirtd(t)
	roottest.DefineNetwork(t, "hooked", "brh", "99")
	roottest.DefineNetwork(t, "foreign", "brf", "98")
	dom := filepath.Join(t.TempDir(), "dom")
	roottest.Must(t, os.WriteFile(dom, []byte(`<domain type='qemu'><name>hooked</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='hooked'/></interface></devices></domain>`), 0o600))
	roottest.VirshOK(t, "define", dom)
	w := roottest.Wall("hooked", "brh")

	roottest.Do(t, record.Hooks{})
	if ok, err := hookinstall.Current("/proc/self/exe"); !ok || err != nil {
		t.Fatalf("installed, but not current: %v %v", ok, err)
	}
	roottest.Do(t, record.Nft{Wall: w})
	if !roottest.RulesLoaded(w) {
		t.Fatal("no rules after loading them")
	}
	roottest.Sh(t, "nft flush ruleset")

	roottest.VirshOK(t, "net-start", "hooked")
	if !roottest.RulesLoaded(w) {
		t.Fatal("the network started without its rules")
	}
	roottest.Sh(t, "nft delete table inet "+w.Table())
	roottest.VirshOK(t, "start", "hooked")
	if !roottest.RulesLoaded(w) {
		t.Fatal("the VM started without its network's rules")
	}
	// Its MAC address is bound to its port while it runs, and not afterwards.
	port := func() string {
		t.Helper()
		m, err := manifest.ReadNet("hooked")
		roottest.Must(t, err)
		return m.Wall.Guests[0].Port
	}
	if list := roottest.VirshOK(t, "domiflist", "hooked"); port() == "" || !strings.Contains(list, port()+" ") {
		t.Errorf("bound to port %q:\n%s", port(), list)
	}
	roottest.Do(t, record.Nft{Wall: w}) // a record does not have the port
	if port() == "" {
		t.Error("the port is lost when the rules are loaded again")
	}
	roottest.VirshOK(t, "destroy", "hooked")
	for end := time.Now().Add(5 * time.Second); port() != "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
	if port() != "" {
		t.Errorf("a VM that is off is still bound to port %q", port())
	}
	roottest.VirshOK(t, "net-destroy", "hooked")
	if roottest.RulesLoaded(w) {
		t.Error("the rules of a network that stopped are still there")
	}
	// Removing a guest from the record, and a VM that stops after its network, do not
	// load the rules again.
	roottest.Do(t, record.Nft{Wall: w, IfUp: true})
	if roottest.RulesLoaded(w) {
		t.Error("the rules of a network that stopped are loaded again")
	}
	roottest.VirshOK(t, "net-start", "hooked")
	roottest.VirshOK(t, "start", "hooked")
	roottest.VirshOK(t, "net-destroy", "hooked")
	roottest.VirshOK(t, "destroy", "hooked")
	for end := time.Now().Add(5 * time.Second); port() != "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
	if port() != "" || roottest.RulesLoaded(w) {
		t.Errorf("a VM that stopped after its network: port %q, rules loaded: %v", port(), roottest.RulesLoaded(w))
	}

	// A failure of the hook keeps the network and the VM from starting, with the reason.
	good, err := os.ReadFile(rootfile.NetManifestPath("hooked"))
	roottest.Must(t, err)
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("hooked"), []byte("{"), 0o644))
	roottest.VirshFails(t, "reading the firewall", "net-start", "hooked")
	roottest.VirshOK(t, "net-start", "foreign")
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("hooked"), good, 0o644))
	roottest.VirshOK(t, "net-start", "hooked")
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("hooked"), []byte(strings.Replace(string(good), `"version": 1`, `"version": 99`, 1)), 0o644))
	roottest.VirshFails(t, "version 99", "start", "hooked")
	roottest.VirshOK(t, "net-destroy", "hooked")
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("hooked"), good, 0o644))

	// Without the program only aivm's network does not start.
	roottest.Must(t, os.Rename(rootfile.HookProgram, rootfile.HookProgram+".away"))
	roottest.VirshFails(t, "No such file", "net-start", "hooked")
	roottest.VirshOK(t, "net-destroy", "foreign")
	roottest.VirshOK(t, "net-start", "foreign")
	roottest.Must(t, os.Rename(rootfile.HookProgram+".away", rootfile.HookProgram))

	// The hook's CPU time, because the time it takes depends on what else this machine does. CPU time
	// grows too on a busy machine, so it is compared with that of nft, which the hook starts.
	spent := func(line string) time.Duration {
		c := exec.Command("sh", "-c", line)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	}
	hook, nft := time.Hour, time.Hour
	for range 5 {
		hook = min(hook, spent(rootfile.HookScript("network")+" hooked start begin -"))
		nft = min(nft, spent("nft list tables"))
	}
	t.Logf("CPU time: the hook %v, nft list tables %v", hook, nft)
	if hook > 50*time.Millisecond && hook > 3*nft {
		t.Errorf("the hook needs %v of CPU time, nft list tables %v", hook, nft)
	}
}

func TestHooksAreRenewedAndRemoved(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	current := func(want bool) {
		t.Helper()
		if got, err := hookinstall.Current("/proc/self/exe"); got != want || err != nil {
			t.Errorf("current: %v %v, want %v", got, err, want)
		}
	}
	current(false)
	foreign := "/etc/libvirt/hooks/network.d/foreign"
	roottest.Must(t, os.MkdirAll(filepath.Dir(foreign), 0o755))
	roottest.Must(t, os.WriteFile(foreign, []byte("#!/bin/sh\n"), 0o755))
	roottest.Do(t, record.Hooks{})
	current(true)
	st, err := os.Stat(rootfile.HookProgram)
	roottest.Must(t, err)
	if st.Mode() != 0o755 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the program: %v", st.Mode())
	}
	// An older program is replaced; a running one keeps its file.
	roottest.Must(t, os.Truncate(rootfile.HookProgram, st.Size()-1))
	current(false)
	roottest.Do(t, record.Hooks{})
	current(true)
	roottest.Must(t, os.WriteFile(rootfile.HookScript("qemu"), []byte(hookinstall.ScriptText("qemu")+"# older\n"), 0o755))
	current(false)
	roottest.Do(t, record.Hooks{})
	current(true)

	w := roottest.Wall("n", "b")
	roottest.Do(t, record.Nft{Wall: w})
	roottest.Refuses(t, record.Hooks{Remove: true}, "net-n.json")
	roottest.Do(t, record.Nft{Wall: w, Remove: true})
	if roottest.RulesLoaded(w) {
		t.Error("the rules are loaded after they were removed")
	}
	roottest.Do(t, record.Nft{Wall: w, Remove: true})
	roottest.Do(t, record.Hooks{Remove: true})
	roottest.Do(t, record.Hooks{Remove: true})
	current(false)
	for _, p := range []string{rootfile.HookProgram, rootfile.HookScript("network"), rootfile.HookScript("qemu"), rootfile.NetManifestPath("n")} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s is still there", p)
		}
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("another program's hook: %v", err)
	}
	roottest.Must(t, os.MkdirAll(filepath.Dir(rootfile.HookScript("qemu")), 0o755))
	roottest.Must(t, os.WriteFile(rootfile.HookScript("qemu"), []byte("#!/bin/sh\nforeign\n"), 0o755))
	roottest.Refuses(t, record.Hooks{}, "a hook of another program")
	roottest.Must(t, os.Remove(rootfile.HookScript("qemu")))
	roottest.Must(t, os.Chmod("/etc/libvirt/hooks", 0o777))
	roottest.Refuses(t, record.Hooks{}, "users other than root")
}
