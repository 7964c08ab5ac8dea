package root

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aivm.dev/aivm/internal/wall"
)

const ourMark = `<metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/></metadata>`

// networkFile is the definition of a network on bridge brx; more is put in.
func networkFile(t *testing.T, name, more string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(p, []byte(fmt.Sprintf(`<network><name>%s</name>%s<forward mode='nat'/><bridge name='brx'/><ip address='10.99.0.1' prefix='24'/></network>`, name, more)), 0o600))
	return p
}

// A manifest is of one network, not of a name: the wall goes up for the network
// aivm made, whatever became of it, and for nobody else's that has its name.
func TestHookGoesByTheNetwork(t *testing.T) {
	work, ok := privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	stageHooks(t, work)
	libvirtd(t)
	t.Cleanup(func() { _, _ = virsh("net-destroy", "named") })
	do(t, Hooks{})
	w := testWall("named", "brx")
	uuid := func() string { return strings.TrimSpace(virshOK(t, "net-uuid", "named")) }
	gone := func() { _, _ = virsh("net-destroy", "named"); _, _ = virsh("net-undefine", "named") }
	fresh := func(more string) {
		gone()
		virshOK(t, "net-define", networkFile(t, "named", more))
	}
	manifest := func() NetManifest {
		t.Helper()
		m, err := ReadNetManifest("named")
		must(t, err)
		return m
	}
	is := func(what string, walled bool) {
		t.Helper()
		if tableThere(w) != walled {
			t.Errorf("%s: rules there: %v, want %v", what, !walled, walled)
		}
		if _, err := os.Lstat(netManifest("named")); (err == nil) != walled {
			t.Errorf("%s: manifest: %v", what, err)
		}
	}

	fresh(ourMark)
	do(t, Nft{Wall: w})
	if m := manifest(); m.UUID != uuid() {
		t.Errorf("the manifest is of network %q, libvirt has %q", m.UUID, uuid())
	}
	must(t, load(t.Context(), wall.Removal(w)))
	virshOK(t, "net-start", "named")
	is("the network aivm made", true)

	// virsh takes it away, and somebody makes another one of its name.
	fresh("")
	virshOK(t, "net-start", "named")
	is("a stranger's network of that name", false)

	// Rules that nobody took away go, too; a network need not be defined to run.
	fresh(ourMark)
	do(t, Nft{Wall: w})
	gone()
	is("before a stranger's", true)
	virshOK(t, "net-create", networkFile(t, "named", ""))
	is("a stranger's that only runs", false)

	// A manifest nobody can read keeps ours from starting, not the stranger's.
	gone()
	must(t, os.WriteFile(netManifest("named"), []byte("{"), 0o644))
	fresh("")
	virshOK(t, "net-start", "named")
	fresh(ourMark)
	virshFails(t, "is not known", "net-start", "named")
	must(t, os.Remove(netManifest("named")))

	// Defined anew, by aivm: another UUID, the same mark.
	do(t, Nft{Wall: w})
	old := uuid()
	fresh(ourMark)
	must(t, load(t.Context(), wall.Removal(w)))
	virshOK(t, "net-start", "named")
	is("made anew by aivm", true)
	if m := manifest(); m.UUID != uuid() || m.UUID == old {
		t.Errorf("the manifest is of network %q, libvirt has %q", m.UUID, uuid())
	}
	// Without its mark it is still the same network.
	virshOK(t, "net-destroy", "named")
	virshOK(t, "net-define", networkFile(t, "named", "<uuid>"+uuid()+"</uuid>"))
	virshOK(t, "net-start", "named")
	is("the same, its mark taken off", true)

	// Taken over while it runs by an aivm that did not note UUIDs: the mark is in
	// the definition and, before libvirt 9.7, not in what runs.
	forget := func() {
		m := manifest()
		m.UUID = ""
		b, err := json.Marshal(m)
		must(t, err)
		must(t, os.WriteFile(netManifest("named"), b, 0o644))
	}
	virshOK(t, "net-define", networkFile(t, "named", "<uuid>"+uuid()+"</uuid>"+ourMark))
	forget()
	dom := filepath.Join(t.TempDir(), "dom")
	must(t, os.WriteFile(dom, []byte(`<domain type='qemu'><name>hooked</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='named'/></interface></devices></domain>`), 0o600))
	virshOK(t, "define", dom)
	must(t, load(t.Context(), wall.Removal(w)))
	virshOK(t, "start", "hooked")
	is("taken over while it ran", true)
	virshOK(t, "destroy", "hooked")

	// A VM on a stranger's network that ran before the manifest was left.
	fresh(ourMark)
	do(t, Nft{Wall: w})
	kept, err := os.ReadFile(netManifest("named"))
	must(t, err)
	fresh("")
	virshOK(t, "net-start", "named")
	must(t, os.WriteFile(netManifest("named"), kept, 0o644))
	virshOK(t, "start", "hooked")
	is("a VM on a stranger's network", false)
	virshOK(t, "destroy", "hooked")
}

// What another user's network left behind keeps nobody from the name.
func TestWallLeftByAnotherUser(t *testing.T) {
	work, ok := privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	stageHooks(t, work)
	w := testWall("n", "b")
	must(t, os.MkdirAll(networkXML, 0o755))
	define := func(owner int, uuid string) {
		must(t, os.WriteFile(filepath.Join(networkXML, "n.xml"), fmt.Appendf(nil, `<network><name>n</name><uuid>%s</uuid><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="%d"/></metadata><bridge name='b'/><ip address='10.99.0.1' prefix='24'/></network>`, uuid, owner), 0o600))
	}
	define(1000, "a")
	must(t, putWall(t.Context(), Nft{Wall: w}, 1000))
	define(1001, "b")
	must(t, putWall(t.Context(), Nft{Wall: w}, 1001))
	if m, err := ReadNetManifest("n"); err != nil || m.Owner != 1001 || m.UUID != "b" {
		t.Errorf("%+v %v", m, err)
	}
	if err := putWall(t.Context(), Nft{Wall: w, Remove: true}, 1000); err == nil || !strings.Contains(err.Error(), "belongs to uid 1001") {
		t.Errorf("taken away by the one before: %v", err)
	}
	all, err := NetManifests()
	if err != nil || len(all) != 1 || all[0].Wall.Network != "n" {
		t.Errorf("%+v %v", all, err)
	}
}
