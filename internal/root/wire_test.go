package root_test

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

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/ui"
)

var goodOps = []record.Op{
	record.Export{VMKey: "1000-a"},
	record.Bind{Src: "/home/u/my p", VMKey: "1000-a", Token: "p-0123", RO: true, UID: 1000, GID: 100, Dev: 3, Ino: 4},
	record.Unbind{VMKey: "1000-a", Token: "p-0123"},
	record.Unexport{VMKey: "1000-a"},
	record.OldShares{BaseDir: "/var/lib/libvirt/aivm", VM: "old-vm"},
	record.Packages{Manager: "apt", Names: []string{"qemu-system-x86", "libstdc++6", "g++"}},
	record.Service{Name: "libvirtd"},
	record.KVMDevice{},
	record.KVMModule{Name: "kvm_amd"},
	record.Ruleset{},
	record.LibvirtSocket{Path: "/run/libvirt/libvirt-sock"},
	record.BuildImage{Distro: "debian-12"},
	record.Hooks{},
	record.Nft{Wall: roottest.Wall("aivm-net", "virbr-aivm")},
}

func TestOpsSurviveTheWire(t *testing.T) {
	if len(goodOps) != len(record.Kinds()) {
		t.Errorf("%d kinds, %d examples", len(record.Kinds()), len(goodOps))
	}
	for _, op := range goodOps {
		b, err := root.EncodeOp(op)
		if err != nil {
			t.Fatal(err)
		}
		var r root.Request
		if err := record.StrictJSON(b, &r); err != nil {
			t.Fatal(err)
		}
		got, err := record.Decode(r.Kind, r.Op)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(op, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
			t.Error(d)
		}
		if err := record.Check(got, 1000); err != nil {
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
		var r root.Request
		err := record.StrictJSON([]byte(line), &r)
		if err == nil {
			_, err = record.Decode(r.Kind, r.Op)
		}
		if err == nil {
			t.Errorf("%s was accepted", line)
		}
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, e := range []*ui.Error{
		ui.Refused("no %q", "x").Hint(ui.Remark("a"), ui.Remark("b")), ui.Failed("it failed"), ui.NeedsApproval("ask"),
		ui.Failed("/m %w: a shell", mount.ErrInUse),
	} {
		b, err := json.Marshal(root.WireError(fmt.Errorf("around: %w", e)))
		if err != nil {
			t.Fatal(err)
		}
		var l root.ErrorLine
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
		var got *ui.Error
		if !errors.As(root.RemoteError(&l), &got) || got.Exit != e.Exit || got.Kind != e.Kind ||
			got.Message != "around: "+e.Message || cmp.Diff(got.HintLines(), e.HintLines()) != "" || errors.Is(got, mount.ErrInUse) != errors.Is(e, mount.ErrInUse) {
			t.Errorf("%+v became %+v", e, got)
		}
	}
}

func TestServeNeedsRootAndASocket(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Setenv("SUDO_UID", "")
	if err := root.Serve(t.Context(), f, nil); err == nil {
		t.Error("Serve accepted /dev/null as stdin")
	}
	if _, err := root.SudoCaller("x"); err == nil {
		t.Error("SUDO_UID=x was accepted")
	}
}

func FuzzRecord(f *testing.F) {
	for _, op := range goodOps {
		b, _ := root.EncodeOp(op)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var r root.Request
		if record.StrictJSON(line, &r) != nil {
			return
		}
		op, err := record.Decode(r.Kind, r.Op)
		if err != nil || record.Check(op, 1000) != nil {
			return
		}
		// Every record that passes names only exports of its caller.
		switch o := op.(type) {
		case record.Bind:
			if !strings.HasPrefix(o.VMKey, "1000-") || strings.ContainsAny(o.Token, "/\n") || strings.Contains(o.VMKey, "/") {
				t.Errorf("%+v", o)
			}
		case record.Unexport:
			if !strings.HasPrefix(o.VMKey, "1000-") || strings.ContainsAny(o.VMKey, "/\n.") {
				t.Errorf("%+v", o)
			}
		}
	})
}
