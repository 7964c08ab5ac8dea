package root

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

var goodOps = []Op{
	Export{VMKey: "1000-a"},
	Bind{Src: "/home/u/my p", VMKey: "1000-a", Token: "p-0123", RO: true, UID: 1000, GID: 100, Dev: 3, Ino: 4},
	Unbind{VMKey: "1000-a", Token: "p-0123"},
	Unexport{VMKey: "1000-a"},
	OldShares{BaseDir: "/var/lib/libvirt/aivm", VM: "old-vm"},
	Packages{Manager: "apt", Names: []string{"qemu-system-x86", "libstdc++6", "g++"}},
	Service{Name: "libvirtd"},
	KVMDevice{},
	KVMModule{Name: "kvm_amd"},
	Ruleset{},
	LibvirtSocket{Path: "/run/libvirt/libvirt-sock"},
	BuildImage{Distro: "debian-12"},
	Hooks{},
	Nft{Wall: testWall("aivm-net", "virbr-aivm")},
}

func TestOpsSurviveTheWire(t *testing.T) {
	if len(goodOps) != len(kinds) {
		t.Errorf("%d kinds, %d examples", len(kinds), len(goodOps))
	}
	for _, op := range goodOps {
		b, err := encodeOp(op)
		if err != nil {
			t.Fatal(err)
		}
		var r request
		if err := strictJSON(b, &r); err != nil {
			t.Fatal(err)
		}
		got, err := decodeOp(r)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(op, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
			t.Error(d)
		}
		if err := validate(got, 1000); err != nil {
			t.Errorf("%s: %v", op.Kind(), err)
		}
		if len(op.Shows()) == 0 {
			t.Errorf("%s shows nothing", op.Kind())
		}
	}
}

func TestRecordsRefused(t *testing.T) {
	for _, line := range []string{
		`{"kind":"shell","op":{}}`,
		`{"kind":"","op":{}}`,
		`{"kind":"export","op":{"vm_key":"1000-a","extra":1}}`,
		`{"kind":"export","op":{"vm_key":["1000-a"]}}`,
		`{"kind":"export","op":{"vm_key":"1000-a"}{}}`,
		`{"kind":"export"}`,
		`{"kind":"export","op":{"vm_key":"1000-a"},"shell":"x"}`,
		`{"kind":"bind","op":{"uid":1.5}}`,
	} {
		var r request
		err := strictJSON([]byte(line), &r)
		if err == nil {
			_, err = decodeOp(r)
		}
		if err == nil {
			t.Errorf("%s was accepted", line)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	good := goodOps[1].(Bind)
	bind := func(change func(*Bind)) Op { b := good; change(&b); return b }
	nft := func(change func(*wall.Wall)) Op { w := testWall("n", "b"); change(&w); return Nft{Wall: w} }
	bad := []Op{
		Nft{},
		nft(func(w *wall.Wall) { w.Network = "../x" }), nft(func(w *wall.Wall) { w.Network = "" }), nft(func(w *wall.Wall) { w.Network = "a;b" }),
		nft(func(w *wall.Wall) { w.Bridge = `b" drop; flush ruleset` }), nft(func(w *wall.Wall) { w.Bridge = strings.Repeat("b", 16) }),
		nft(func(w *wall.Wall) { w.Prefix = "x { }" }), nft(func(w *wall.Wall) { w.Prefix = "" }),
		nft(func(w *wall.Wall) { w.Subnet = netip.Prefix{} }), nft(func(w *wall.Wall) { w.Gateway = netip.MustParseAddr("8.8.8.8") }),
		nft(func(w *wall.Wall) { w.Block = append(w.Block, netip.Prefix{}) }),
		nft(func(w *wall.Wall) { w.Ports = []wall.Ports{{Proto: "sctp", First: 1, Last: 2}} }),
		nft(func(w *wall.Wall) { w.Ports = []wall.Ports{{Proto: "tcp", First: 9, Last: 2}} }),
		nft(func(w *wall.Wall) { w.LAN = []wall.Endpoint{{}} }),
		nft(func(w *wall.Wall) { w.Guests = []wall.Guest{{MAC: "52:54:00:00:00:01; x", IP: w.Gateway}} }),
		nft(func(w *wall.Wall) {
			w.Guests = []wall.Guest{{MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("8.8.8.8")}}
		}),
		Export{},
		Export{VMKey: "a"},
		Export{VMKey: "1000-"},
		Export{VMKey: "1000-A"},
		Export{VMKey: "1000-a/../b"},
		Export{VMKey: "1000-a\n"},
		Export{VMKey: "01000-a"},
		Export{VMKey: "99999999999999999999-a"},
		Export{VMKey: "1000-" + strings.Repeat("a", 64)},
		Export{VMKey: "1001-a"},
		Unexport{VMKey: "0-a"},
		Unbind{VMKey: "1001-a", Token: "x"}, // not the caller's
		Unbind{VMKey: "1000-a", Token: ".."},
		Unbind{VMKey: "1000-a", Token: "a/b"},
		Unbind{VMKey: "1000-a", Token: ""},
		Unbind{VMKey: "1000-a", Token: "a\n"},
		Unbind{VMKey: "1000-a", Token: strings.Repeat("a", 65)},
		bind(func(b *Bind) { b.Src = "" }), bind(func(b *Bind) { b.Src = "p" }), bind(func(b *Bind) { b.Src = "/" }),
		bind(func(b *Bind) { b.Src = "/a/../etc" }), bind(func(b *Bind) { b.Src = "/a/" }), bind(func(b *Bind) { b.Src = "/a\nb" }),
		bind(func(b *Bind) { b.Src = ExportBase }), bind(func(b *Bind) { b.Src = ExportBase + "/1000-a/x" }),
		bind(func(b *Bind) { b.UID = -1 }), bind(func(b *Bind) { b.GID = 1<<32 - 1 }), bind(func(b *Bind) { b.Ino = 0 }),
		bind(func(b *Bind) { b.VMKey = "1001-a" }), bind(func(b *Bind) { b.Token = "-x" }),
		Packages{Manager: "apt"},
		Packages{Manager: "sh", Names: []string{"a1"}},
		Packages{Manager: "apt", Names: []string{"-o"}},
		Packages{Manager: "apt", Names: []string{"a b"}},
		Packages{Manager: "apt", Names: []string{"bash-"}},
		Packages{Manager: "apt", Names: []string{"bash+"}},
		Packages{Manager: "apt", Names: []string{"bash-++-"}},
		Packages{Manager: "apt", Names: []string{"bash."}},
		Packages{Manager: "apt", Names: []string{"ok1", "./x.deb"}},
		Packages{Manager: "apt", Names: []string{"git/sid"}},
		Packages{Manager: "apt", Names: []string{"git="}},
		Packages{Manager: "dnf", Names: []string{"--nogpgcheck"}},
		Packages{Manager: "pacman"},
		Service{Name: "sshd"},
		Service{Name: ""},
		KVMModule{Name: "nf_tables"},
		KVMModule{Name: "kvm_intel.ko"},
		LibvirtSocket{Path: "/run/docker.sock"},
		LibvirtSocket{},
		BuildImage{},
		BuildImage{Distro: "../x"},
		BuildImage{Distro: "-x"},
	}
	for _, op := range bad {
		err := validate(op, 1000)
		var e *ui.Error
		if !errors.As(err, &e) || e.Kind != "refused" {
			t.Errorf("%s %+v: got %v, want refused", op.Kind(), op, err)
		}
	}
	if err := validate(Export{VMKey: "1001-a"}, -1); err != nil {
		t.Errorf("root itself may name any VM: %v", err)
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, e := range []*ui.Error{
		ui.Refused("no %q", "x").Hint("a", "b"), ui.Failed("it went wrong"), ui.NeedsApproval("ask"),
		ui.Failed("/m %w: a shell", ErrInUse),
	} {
		b, err := json.Marshal(wireError(fmt.Errorf("around: %w", e)))
		if err != nil {
			t.Fatal(err)
		}
		var l errorLine
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
		var got *ui.Error
		if !errors.As(remoteError(&l), &got) || got.Exit != e.Exit || got.Kind != e.Kind ||
			got.Message != "around: "+e.Message || cmp.Diff(got.Hints, e.Hints) != "" || errors.Is(got, ErrInUse) != errors.Is(e, ErrInUse) {
			t.Errorf("%+v became %+v", e, got)
		}
	}
}

func TestServeWantsRootAndASocket(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Setenv("SUDO_UID", "")
	if err := Serve(t.Context(), f, nil); err == nil {
		t.Error("it served /dev/null")
	}
	if _, err := sudoCaller("x"); err == nil {
		t.Error("SUDO_UID=x was accepted")
	}
}

func FuzzRecord(f *testing.F) {
	for _, op := range goodOps {
		b, _ := encodeOp(op)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var r request
		if strictJSON(line, &r) != nil {
			return
		}
		op, err := decodeOp(r)
		if err != nil || validate(op, 1000) != nil {
			return
		}
		// Whatever passes stays inside the export of its caller.
		switch o := op.(type) {
		case Bind:
			if !strings.HasPrefix(o.VMKey, "1000-") || strings.ContainsAny(o.Token, "/\n") || strings.Contains(o.VMKey, "/") {
				t.Errorf("%+v", o)
			}
		case Unexport:
			if !strings.HasPrefix(o.VMKey, "1000-") || strings.ContainsAny(o.VMKey, "/\n.") {
				t.Errorf("%+v", o)
			}
		}
	})
}

func TestBindShowsItsMap(t *testing.T) {
	b := goodOps[1].(Bind)
	want := "mount --bind -o nosuid,nodev,ro,X-mount.idmap='u:1000:1000:1 u:65534:0:1 g:100:1000:1 g:65534:0:1' '/home/u/my p' /var/lib/aivm/export/1000-a/p-0123"
	if got := b.Shows(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q", got)
	}
}
