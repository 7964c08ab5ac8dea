package nftload_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/nftload"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/wall"
)

// networkFile writes the definition of a network on bridge brx, with more added to it.
func networkFile(t *testing.T, name, more string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	roottest.Must(t, os.WriteFile(p, []byte(fmt.Sprintf(`<network><name>%s</name>%s<forward mode='nat'/><bridge name='brx'/><ip address='10.99.0.1' prefix='24'/></network>`, name, more)), 0o600))
	return p
}

// A manifest belongs to one network, not to a name: the hook loads the firewall for
// the network that aivm made, also if it was redefined, and for no other network of
// its name.
func TestHookIdentifiesTheNetwork(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Libvirtd(t)
	t.Cleanup(func() { _, _ = roottest.Virsh("net-destroy", "named") })
	roottest.Do(t, record.Hooks{})
	w := roottest.Wall("named", "brx")
	uuid := func() string { return strings.TrimSpace(roottest.VirshOK(t, "net-uuid", "named")) }
	undefine := func() { _, _ = roottest.Virsh("net-destroy", "named"); _, _ = roottest.Virsh("net-undefine", "named") }
	redefine := func(more string) {
		undefine()
		roottest.VirshOK(t, "net-define", networkFile(t, "named", more))
	}
	manifest := func() manifest.Net {
		t.Helper()
		m, err := manifest.ReadNet("named")
		roottest.Must(t, err)
		return m
	}
	wantRules := func(what string, want bool) {
		t.Helper()
		if roottest.RulesLoaded(w) != want {
			t.Errorf("%s: rules loaded: %v, want %v", what, !want, want)
		}
		if _, err := os.Lstat(rootfile.NetManifestPath("named")); (err == nil) != want {
			t.Errorf("%s: manifest: %v", what, err)
		}
	}

	redefine(roottest.Mark)
	roottest.Do(t, record.Nft{Wall: w})
	if m := manifest(); m.UUID != uuid() {
		t.Errorf("the manifest is of network %q, libvirt has %q", m.UUID, uuid())
	}
	roottest.Must(t, nftload.LoadScript(t.Context(), wall.Removal(w)))
	roottest.VirshOK(t, "net-start", "named")
	wantRules("the network aivm made", true)

	// The network is removed with virsh, and another program makes one of its name.
	redefine("")
	roottest.VirshOK(t, "net-start", "named")
	wantRules("another program's network of that name", false)

	// Rules that are still loaded are removed, too, also for a transient network.
	redefine(roottest.Mark)
	roottest.Do(t, record.Nft{Wall: w})
	undefine()
	wantRules("before another program's network", true)
	roottest.VirshOK(t, "net-create", networkFile(t, "named", ""))
	wantRules("another program's transient network", false)

	// A damaged manifest keeps aivm's network from starting, but not another program's.
	undefine()
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("named"), []byte("{"), 0o644))
	redefine("")
	roottest.VirshOK(t, "net-start", "named")
	redefine(roottest.Mark)
	roottest.VirshFails(t, "reading the firewall", "net-start", "named")
	roottest.Must(t, os.Remove(rootfile.NetManifestPath("named")))

	// aivm defines the network again: another UUID, the same mark.
	roottest.Do(t, record.Nft{Wall: w})
	old := uuid()
	redefine(roottest.Mark)
	roottest.Must(t, nftload.LoadScript(t.Context(), wall.Removal(w)))
	roottest.VirshOK(t, "net-start", "named")
	wantRules("redefined by aivm", true)
	if m := manifest(); m.UUID != uuid() || m.UUID == old {
		t.Errorf("the manifest is of network %q, libvirt has %q", m.UUID, uuid())
	}
	// Without its mark, the UUID still identifies the network.
	roottest.VirshOK(t, "net-destroy", "named")
	roottest.VirshOK(t, "net-define", networkFile(t, "named", "<uuid>"+uuid()+"</uuid>"))
	roottest.VirshOK(t, "net-start", "named")
	wantRules("the same network without its mark", true)

	// An older aivm that did not record UUIDs adopted the running network: the mark is
	// in the persistent definition and, before libvirt 9.7, not in the live one.
	clearUUID := func() {
		m := manifest()
		m.UUID = ""
		b, err := json.Marshal(m)
		roottest.Must(t, err)
		roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("named"), b, 0o644))
	}
	roottest.VirshOK(t, "net-define", networkFile(t, "named", "<uuid>"+uuid()+"</uuid>"+roottest.Mark))
	clearUUID()
	dom := filepath.Join(t.TempDir(), "dom")
	roottest.Must(t, os.WriteFile(dom, []byte(`<domain type='qemu'><name>hooked</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='named'/></interface></devices></domain>`), 0o600))
	roottest.VirshOK(t, "define", dom)
	roottest.Must(t, nftload.LoadScript(t.Context(), wall.Removal(w)))
	roottest.VirshOK(t, "start", "hooked")
	wantRules("adopted while it ran", true)
	roottest.VirshOK(t, "destroy", "hooked")

	// A VM starts on another program's network for which a stale manifest exists.
	redefine(roottest.Mark)
	roottest.Do(t, record.Nft{Wall: w})
	stale, err := os.ReadFile(rootfile.NetManifestPath("named"))
	roottest.Must(t, err)
	redefine("")
	roottest.VirshOK(t, "net-start", "named")
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("named"), stale, 0o644))
	roottest.VirshOK(t, "start", "hooked")
	wantRules("a VM on another program's network", false)
	roottest.VirshOK(t, "destroy", "hooked")
}

// A stale manifest of another user's network does not keep a user from using the name.
func TestStaleWallOfAnotherUser(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	w := roottest.Wall("n", "b")
	roottest.Must(t, os.MkdirAll(definition.NetworkDir, 0o755))
	define := func(owner int, uuid string) {
		roottest.Must(t, os.WriteFile(filepath.Join(definition.NetworkDir, "n.xml"), fmt.Appendf(nil, `<network><name>n</name><uuid>%s</uuid><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="%d"/></metadata><bridge name='b'/><ip address='10.99.0.1' prefix='24'/></network>`, uuid, owner), 0o600))
	}
	define(1000, "a")
	roottest.Must(t, nftload.LoadWall(t.Context(), record.Nft{Wall: w}, 1000))
	define(1001, "b")
	roottest.Must(t, nftload.LoadWall(t.Context(), record.Nft{Wall: w}, 1001))
	if m, err := manifest.ReadNet("n"); err != nil || m.Owner != 1001 || m.UUID != "b" {
		t.Errorf("%+v %v", m, err)
	}
	if err := nftload.LoadWall(t.Context(), record.Nft{Wall: w, Remove: true}, 1000); err == nil || !strings.Contains(err.Error(), "belongs to uid 1001") {
		t.Errorf("removed by the previous owner: %v", err)
	}
	all, err := manifest.Nets()
	if err != nil || len(all) != 1 || all[0].Wall.Network != "n" {
		t.Errorf("%+v %v", all, err)
	}
}
