package domain

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/virt"
)

// A disk of version 0.10 on a backing file, with a snapshot, becomes 1.1: QEMU finds no fault, the
// contents stay, also those of the snapshot, and discarded space is freed.
func TestUpgradeForReal(t *testing.T) {
	ctx := context.Background()
	v := newDiskVM(t)
	base := filepath.Join(filepath.Dir(v.file), "base file with a long name")
	run(t, "qemu-img", "create", "-q", "-f", "raw", base, "2G")
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 9 512M 1M", base)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", base, "-F", "raw", v.file)
	v.write(1)
	if err := v.snapshot(v.l, "one"); err != nil {
		t.Fatal(err)
	}
	v.write(2)
	before, err := os.ReadFile(v.file)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := v.facts()
	old, err := OldDisk(ctx, v.l, d)
	if err != nil || !old {
		t.Fatal(old, err)
	}
	as := PlanDisk(d, old, func() (Libvirt, error) { return v.l, nil })
	if ids(as) != "disk.upgrade disk.discard" { // this test's domain has no discard
		t.Fatal(ids(as))
	}
	for range 2 { // the second time it changes nothing
		if err := apply(as); err != nil {
			t.Fatal(err)
		}
	}
	after, err := os.ReadFile(v.file)
	if err != nil || len(after) != len(before) || !bytes.Equal(after[maxHeader:], before[maxHeader:]) {
		t.Errorf("more than the header was changed: %v", err)
	}
	d, f := v.facts()
	if old, err := OldDisk(ctx, v.l, d); old || err != nil {
		t.Error(old, err)
	}
	if disk, _ := mainDisk(d); disk.Discard != "unmap" || len(f.Snapshots) != 1 || len(PlanDisk(d, false, nil)) != 0 {
		t.Errorf("%+v %+v", disk, f)
	}
	info := run(t, "qemu-img", "info", v.file)
	for _, want := range []string{"compat: 1.1", "backing file: " + base, "backing file format: raw", "one"} {
		if !strings.Contains(info, want) {
			t.Errorf("%q is missing:\n%s", want, info)
		}
	}
	if out, err := exec.Command("qemu-img", "check", v.file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out := run(t, "qemu-io", "-r", "-c", "read -P 9 512M 1M", v.file); !v.holds(2) || strings.Contains(out, "failed") {
		t.Error("the content changed")
	}
	// As virsh checkpoint-create-as does; and a discarded cluster reads as zeroes.
	run(t, "qemu-img", "bitmap", "--add", v.file, "b")
	run(t, "qemu-img", "bitmap", "--remove", v.file, "b")
	run(t, "qemu-io", "-c", "discard 512M 1M", "-d", "unmap", v.file)
	if out := run(t, "qemu-io", "-r", "-c", "read -P 0 512M 1M", v.file); strings.Contains(out, "failed") {
		t.Error("discarded space shows the backing file again")
	}
	if _, err := v.rollback(v.l, "one", "two"); err != nil || !v.holds(1) {
		t.Error("rollback:", err)
	}
	// A VM that runs, or is another one, is not touched.
	d.UUID = "other"
	if err := upgradeDisk(ctx, v.l, d, v.file); err == nil {
		t.Error("the disk of another domain was changed")
	}
	if PlanDisk(&virt.Domain{Name: "x", State: virt.Running, Stored: d.Stored}, true, nil) != nil {
		t.Error("a running VM")
	}
}

// The sizes and discard of a definition change, and nothing else of it.
func TestResizeForReal(t *testing.T) {
	ctx := context.Background()
	v := newDiskVM(t)
	xml := func() string {
		t.Helper()
		out, err := v.l.InactiveXML(ctx, v.name)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	without := func(text string) string {
		var out []string
		for line := range strings.Lines(text) {
			if !strings.Contains(line, "emory unit") && !strings.Contains(line, "<currentMemory") && !strings.Contains(line, "<vcpu") {
				out = append(out, strings.ReplaceAll(line, " discard='unmap'", ""))
			}
		}
		return strings.Join(out, "")
	}
	before := xml()
	for _, want := range [][2]int{{4, 512}, {1, 128}, {3, 1024}} {
		d, err := v.l.Domain(ctx, v.name)
		if err != nil {
			t.Fatal(err)
		}
		as := PlanSizes(d, want[0], want[1], func() (Libvirt, error) { return v.l, nil })
		if ids(as) != "domain.resize" {
			t.Fatal(ids(as))
		}
		if err := apply(as); err != nil {
			t.Fatal(err)
		}
		if d, err = v.l.Domain(ctx, v.name); err != nil || !d.StoredSizes.Are(want[0], want[1]) || d.VCPUs != want[0] || d.RAMMB != want[1] {
			t.Errorf("%v: %+v %v", want, d, err)
		}
		if PlanSizes(d, want[0], want[1], nil) != nil || PlanSizes(d, 0, 0, nil) != nil {
			t.Errorf("%v: planned again", want)
		}
		briefs, err := v.l.Briefs(ctx, 0)
		if b := briefs[v.name]; err != nil || b != (virt.Brief{State: virt.Off, VCPUs: want[0], RAMMB: want[1]}) {
			t.Errorf("%+v %v", b, err)
		}
	}
	for range 2 {
		if err := v.l.SetDiscard(ctx, v.name, "vda"); err != nil {
			t.Fatal(err)
		}
	}
	if now := xml(); without(now) != without(before) || strings.Count(now, "discard='unmap'") != 1 {
		t.Errorf("was:\n%s\nis:\n%s", before, now)
	}
	if err := v.l.SetDiscard(ctx, v.name, "vdz"); err == nil || !strings.Contains(err.Error(), `no disk "vdz"`) {
		t.Error(err)
	}
	if err := v.l.Resize(ctx, "no-such-vm", 1, 512); !errors.Is(err, virt.ErrNotFound) {
		t.Error(err)
	}
}

// oldQcow returns the start of a file of version 2 with a backing file and an extension.
func oldQcow(name string, change func(b []byte)) readAt {
	b := make([]byte, 8<<16)
	copy(b, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(b[4:], 2)
	be.PutUint64(b[8:], 96)
	be.PutUint32(b[16:], uint32(len(name)))
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 1<<30)
	be.PutUint32(b[36:], 2)
	be.PutUint64(b[40:], 3<<16)
	be.PutUint32(b[72:], 0xE2792ACA)
	be.PutUint32(b[76:], 5)
	copy(b[80:], "qcow2")
	copy(b[96:], name)
	change(b)
	var asked uint64
	return fileOf(b, &asked)
}

// Files that QEMU compromised, or that are of another kind, are left alone or refused; the new header
// is never longer than what was read.
func TestNewHeader(t *testing.T) {
	be := binary.BigEndian
	for name, c := range map[string]struct {
		change func(b []byte)
		want   string // "": a header; "none", "error"
	}{
		"sound":             {func([]byte) {}, ""},
		"version 3":         {func(b []byte) { be.PutUint32(b[4:], 3) }, "none"},
		"raw":               {func(b []byte) { copy(b, "RAW ") }, "none"},
		"encrypted":         {func(b []byte) { be.PutUint32(b[32:], 1) }, "none"},
		"name far away":     {func(b []byte) { be.PutUint64(b[8:], 1<<40) }, "error"},
		"name overflows":    {func(b []byte) { be.PutUint64(b[8:], 1<<64-8); be.PutUint32(b[16:], 64) }, "error"},
		"name too long":     {func(b []byte) { be.PutUint32(b[16:], 1<<31) }, "error"},
		"name in header":    {func(b []byte) { be.PutUint64(b[8:], 24) }, "error"},
		"name does not fit": {func(b []byte) { be.PutUint32(b[16:], maxHeader-100) }, "none"},
		"extension":         {func(b []byte) { be.PutUint32(b[76:], 1<<31) }, "error"},
		"extension wraps":   {func(b []byte) { be.PutUint32(b[76:], 1<<32-1) }, "error"},
		"cluster size":      {func(b []byte) { be.PutUint32(b[20:], 40) }, "error"},
		"old snapshots": {func(b []byte) {
			be.PutUint32(b[60:], 1)
			be.PutUint64(b[64:], 4<<16)
			be.PutUint64(b[4<<16:], 3<<16)
			be.PutUint32(b[4<<16+8:], 2)
		}, "none"},
		"many snapshots": {func(b []byte) { be.PutUint32(b[60:], 1<<30) }, "error"},
	} {
		h, err := newHeader(oldQcow("/pool/base", c.change))
		got := ""
		switch {
		case err != nil:
			got = "error"
		case h == nil:
			got = "none"
		}
		if got != c.want || len(h) > maxHeader {
			t.Errorf("%s: %q, not %q (%v)", name, got, c.want, err)
		}
	}
	h, err := newHeader(oldQcow("/pool/base", func([]byte) {}))
	if err != nil || string(h[len(h)-10:]) != "/pool/base" || be.Uint64(h[8:]) != uint64(len(h)-10) || be.Uint32(h[100:]) != 104 {
		t.Errorf("%x %v", h, err)
	}
}

// FuzzNewHeader: from whatever is in a file comes no header that is longer than what was read, or that
// is changed again.
func FuzzNewHeader(f *testing.F) {
	f.Add(qcowSeed())
	old := qcowSeed()
	old[7] = 2
	f.Add(old)
	f.Fuzz(func(t *testing.T, b []byte) {
		var asked uint64
		h, err := newHeader(fileOf(b, &asked))
		if err != nil || h == nil {
			return
		}
		if len(h) > maxHeader || len(h) > len(b) {
			t.Fatalf("%d bytes", len(h))
		}
		if again, err := newHeader(fileOf(append(append([]byte{}, h...), b[len(h):]...), &asked)); again != nil || err != nil {
			t.Errorf("changed again: %x %v", again, err)
		}
	})
}
