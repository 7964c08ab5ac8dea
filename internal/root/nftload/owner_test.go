package nftload_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/nftload"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/roottest"
)

// A user's helper loads rules only for that user's networks, with the bridge and
// address that libvirt has.
func TestWallOfAnotherUser(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	w := roottest.Wall("n", "b")
	as := func(uid int, o record.Nft) error { return nftload.LoadWall(t.Context(), o, uid) }
	if err := as(1000, record.Nft{Wall: w}); err == nil || !strings.Contains(err.Error(), "not defined") {
		t.Errorf("an undefined network: %v", err)
	}
	roottest.Must(t, os.MkdirAll(definition.NetworkDir, 0o755))
	define := func(owner, bridge string) {
		roottest.Must(t, os.WriteFile(filepath.Join(definition.NetworkDir, "n.xml"), []byte(`<!-- WARNING -->
<network xmlns:aivm='urn:aivm:mark:1'><name>n</name><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="`+owner+`"/></metadata><bridge name='`+bridge+`'/><ip address='10.99.0.1' prefix='24'/></network>`), 0o600))
	}
	define("1001", "b")
	if err := as(1000, record.Nft{Wall: w}); err == nil || !strings.Contains(err.Error(), "not made by aivm for uid 1000") {
		t.Errorf("another user's network: %v", err)
	}
	define("1000", "c")
	if err := as(1000, record.Nft{Wall: w}); err == nil || !strings.Contains(err.Error(), "another bridge") {
		t.Errorf("another bridge: %v", err)
	}
	define("1000", "b")
	roottest.Must(t, as(1000, record.Nft{Wall: w}))
	m, err := manifest.ReadNet("n")
	if err != nil || m.Owner != 1000 || !m.Wall.Same(w) || len(m.Digest) != 64 {
		t.Errorf("%+v %v", m, err)
	}
	// A VM that was made after the caller made the record has a reservation in the
	// network; a deleted VM has none.
	const kept = "<dhcp><host mac='52:54:00:AA:00:09' ip='10.99.0.9'/><host mac='52:54:00:aa:00:08' ip='192.0.2.8'/><host name='x' ip='10.99.0.7'/></dhcp>"
	define("1000", "b")
	def := filepath.Join(definition.NetworkDir, "n.xml")
	b, err := os.ReadFile(def)
	roottest.Must(t, err)
	roottest.Must(t, os.WriteFile(def, []byte(strings.Replace(string(b), "prefix='24'/>", "prefix='24'>"+kept+"</ip>", 1)), 0o600))
	roottest.Must(t, as(1000, record.Nft{Wall: w}))
	both := w.With("52:54:00:aa:00:09", netip.MustParseAddr("10.99.0.9"))
	if m, err := manifest.ReadNet("n"); err != nil || !m.Wall.Same(both) || m.Wall.Same(w) {
		t.Errorf("a VM made in between: %+v %v", m.Wall.Guests, err)
	}
	define("1000", "b")
	roottest.Must(t, as(1000, record.Nft{Wall: w, IfUp: true}))
	if m, err := manifest.ReadNet("n"); err != nil || !m.Wall.Same(w) {
		t.Errorf("a deleted VM: %+v %v", m.Wall.Guests, err)
	}
	if err := as(1001, record.Nft{Wall: w, Remove: true}); err == nil || !strings.Contains(err.Error(), "belongs to uid 1000") {
		t.Errorf("removed by another user: %v", err)
	}
	roottest.Must(t, as(1000, record.Nft{Wall: w, Remove: true}))
}
