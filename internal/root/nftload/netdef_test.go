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

// networkFile is the definition of a network on bridge brx; more is put in.
func networkFile(t *testing.T, name, more string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	roottest.Must(t, os.WriteFile(p, []byte(fmt.Sprintf(`<network><name>%s</name>%s<forward mode='nat'/><bridge name='brx'/><ip address='10.99.0.1' prefix='24'/></network>`, name, more)), 0o600))
	return p
}

// A manifest is of one network, not of a name: the wall goes up for the network
// aivm made, whatever became of it, and for nobody else's that has its name.
func TestHookGoesByTheNetwork(t *testing.T) {
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
	gone := func() { _, _ = roottest.Virsh("net-destroy", "named"); _, _ = roottest.Virsh("net-undefine", "named") }
	fresh := func(more string) {
		gone()
		roottest.VirshOK(t, "net-define", networkFile(t, "named", more))
	}
	manifest := func() manifest.Net {
		t.Helper()
		m, err := manifest.ReadNet("named")
		roottest.Must(t, err)
		return m
	}
	is := func(what string, walled bool) {
		t.Helper()
		if roottest.TableThere(w) != walled {
			t.Errorf("%s: rules there: %v, want %v", what, !walled, walled)
		}
		if _, err := os.Lstat(rootfile.NetManifestPath("named")); (err == nil) != walled {
			t.Errorf("%s: manifest: %v", what, err)
		}
	}

	fresh(roottest.Mark)
	roottest.Do(t, record.Nft{Wall: w})
	if m := manifest(); m.UUID != uuid() {
		t.Errorf("the manifest is of network %q, libvirt has %q", m.UUID, uuid())
	}
	roottest.Must(t, nftload.Load(t.Context(), wall.Removal(w)))
	roottest.VirshOK(t, "net-start", "named")
	is("the network aivm made", true)

	// virsh takes it away, and somebody makes another one of its name.
	fresh("")
	roottest.VirshOK(t, "net-start", "named")
	is("a stranger's network of that name", false)

	// Rules that nobody took away go, too; a network need not be defined to run.
	fresh(roottest.Mark)
	roottest.Do(t, record.Nft{Wall: w})
	gone()
	is("before a stranger's", true)
	roottest.VirshOK(t, "net-create", networkFile(t, "named", ""))
	is("a stranger's that only runs", false)

	// A manifest nobody can read keeps ours from starting, not the stranger's.
	gone()
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("named"), []byte("{"), 0o644))
	fresh("")
	roottest.VirshOK(t, "net-start", "named")
	fresh(roottest.Mark)
	roottest.VirshFails(t, "is not known", "net-start", "named")
	roottest.Must(t, os.Remove(rootfile.NetManifestPath("named")))

	// Defined anew, by aivm: another UUID, the same mark.
	roottest.Do(t, record.Nft{Wall: w})
	old := uuid()
	fresh(roottest.Mark)
	roottest.Must(t, nftload.Load(t.Context(), wall.Removal(w)))
	roottest.VirshOK(t, "net-start", "named")
	is("made anew by aivm", true)
	if m := manifest(); m.UUID != uuid() || m.UUID == old {
		t.Errorf("the manifest is of network %q, libvirt has %q", m.UUID, uuid())
	}
	// Without its mark it is still the same network.
	roottest.VirshOK(t, "net-destroy", "named")
	roottest.VirshOK(t, "net-define", networkFile(t, "named", "<uuid>"+uuid()+"</uuid>"))
	roottest.VirshOK(t, "net-start", "named")
	is("the same, its mark taken off", true)

	// Taken over while it runs by an aivm that did not note UUIDs: the mark is in
	// the definition and, before libvirt 9.7, not in what runs.
	forget := func() {
		m := manifest()
		m.UUID = ""
		b, err := json.Marshal(m)
		roottest.Must(t, err)
		roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("named"), b, 0o644))
	}
	roottest.VirshOK(t, "net-define", networkFile(t, "named", "<uuid>"+uuid()+"</uuid>"+roottest.Mark))
	forget()
	dom := filepath.Join(t.TempDir(), "dom")
	roottest.Must(t, os.WriteFile(dom, []byte(`<domain type='qemu'><name>hooked</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='named'/></interface></devices></domain>`), 0o600))
	roottest.VirshOK(t, "define", dom)
	roottest.Must(t, nftload.Load(t.Context(), wall.Removal(w)))
	roottest.VirshOK(t, "start", "hooked")
	is("taken over while it ran", true)
	roottest.VirshOK(t, "destroy", "hooked")

	// A VM on a stranger's network that ran before the manifest was left.
	fresh(roottest.Mark)
	roottest.Do(t, record.Nft{Wall: w})
	kept, err := os.ReadFile(rootfile.NetManifestPath("named"))
	roottest.Must(t, err)
	fresh("")
	roottest.VirshOK(t, "net-start", "named")
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("named"), kept, 0o644))
	roottest.VirshOK(t, "start", "hooked")
	is("a VM on a stranger's network", false)
	roottest.VirshOK(t, "destroy", "hooked")
}

// What another user's network left behind keeps nobody from the name.
func TestWallLeftByAnotherUser(t *testing.T) {
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
	roottest.Must(t, nftload.PutWall(t.Context(), record.Nft{Wall: w}, 1000))
	define(1001, "b")
	roottest.Must(t, nftload.PutWall(t.Context(), record.Nft{Wall: w}, 1001))
	if m, err := manifest.ReadNet("n"); err != nil || m.Owner != 1001 || m.UUID != "b" {
		t.Errorf("%+v %v", m, err)
	}
	if err := nftload.PutWall(t.Context(), record.Nft{Wall: w, Remove: true}, 1000); err == nil || !strings.Contains(err.Error(), "belongs to uid 1001") {
		t.Errorf("taken away by the one before: %v", err)
	}
	all, err := manifest.Nets()
	if err != nil || len(all) != 1 || all[0].Wall.Network != "n" {
		t.Errorf("%+v %v", all, err)
	}
}
