package domain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// diskVM is a VM of the test in the libvirt of this machine, with a disk in a pool; it is
// never started.
type diskVM struct {
	t          *testing.T
	name, file string
	l          *virt.Conn
}

func newDiskVM(t *testing.T) *diskVM {
	t.Helper()
	ctx := context.Background()
	top, err := os.MkdirTemp("/var/tmp", "aivm-snap-test-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := virt.Dial(ctx, virt.URI{})
	if err != nil {
		t.Fatalf("this test asks the libvirt of this machine (sudo systemctl start libvirtd, or sudo libvirtd -d): %v", err)
	}
	v := &diskVM{t: t, name: fmt.Sprintf("snaptest%d", os.Getpid()), file: top + "/pool/disk.qcow2", l: l}
	t.Cleanup(func() {
		_ = l.Undefine(ctx, v.name)
		for _, verb := range []string{"pool-destroy", "pool-undefine"} {
			_ = exec.Command("virsh", "-c", virt.SystemURI, verb, v.name).Run()
		}
		_ = l.Close()
		_ = os.RemoveAll(top)
	})
	if err := l.EnsurePool(ctx, v.name, filepath.Dir(v.file)); err != nil {
		t.Fatal(err)
	}
	if err := l.CreateVolume(ctx, v.name, virt.NewVolume{Name: "disk.qcow2", Format: "qcow2", Mode: "0600", Capacity: 2 << 30}); err != nil {
		t.Fatal(err)
	}
	if err := l.Define(ctx, `<domain type='qemu'><name>`+v.name+`</name><metadata>`+virt.MarkXML(0)+`</metadata><memory>65536</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>`+
		`<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='`+
		v.file+`'/><target dev='vda' bus='virtio'/><serial>`+DiskSerial+`</serial></disk></devices></domain>`); err != nil {
		t.Fatal(err)
	}
	return v
}

// write writes a pattern to the disk, at two offsets far apart.
func (v *diskVM) write(pattern int) {
	v.t.Helper()
	run(v.t, "qemu-io", "-c", fmt.Sprintf("write -P %d 0 1M", pattern), "-c", fmt.Sprintf("write -P %d 1G 1M", pattern), v.file)
}

// holds reports whether the disk has that pattern.
func (v *diskVM) holds(pattern int) bool {
	v.t.Helper()
	out := run(v.t, "qemu-io", "-r", "-c", fmt.Sprintf("read -P %d 0 1M", pattern), "-c", fmt.Sprintf("read -P %d 1G 1M", pattern), v.file)
	return !strings.Contains(out, "verification failed")
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "verification failed") {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

func (v *diskVM) facts() (*virt.Domain, *SnapFacts) {
	v.t.Helper()
	d, err := v.l.Domain(context.Background(), v.name)
	if err != nil {
		v.t.Fatal(err)
	}
	f, err := ObserveSnapshots(context.Background(), v.l, d, true)
	if err != nil {
		v.t.Fatal(err)
	}
	return d, f
}

// apply runs actions over l until one fails.
func apply(as []plan.Action) error {
	for _, a := range as {
		if err := a.Do(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

func (v *diskVM) snapshot(l Snapshots, name string) error {
	d, f := v.facts()
	as, err := PlanSnapshot(d, f, name, func() (Snapshots, error) { return l, nil })
	if err != nil {
		return err
	}
	return apply(as)
}

func (v *diskVM) rollback(l Snapshots, name, keepAs string) (bool, error) {
	d, f := v.facts()
	kept := false
	as, err := PlanRollback(d, f, name, keepAs, func() { kept = true }, func() (Snapshots, error) { return l, nil })
	if err != nil {
		return false, err
	}
	return kept, apply(as)
}

func (v *diskVM) deleteSnapshot(l Snapshots, name string) error {
	d, f := v.facts()
	as, err := PlanDeleteSnapshot(d, f, name, func() (Snapshots, error) { return l, nil })
	if err != nil {
		return err
	}
	return apply(as)
}

// shape is the tree in one line: "a b<a *c<a", with * for the current snapshot, followed by
// ! if the disk has changed since.
func (v *diskVM) shape() string {
	v.t.Helper()
	_, f := v.facts()
	var out []string
	for _, s := range f.Snapshots {
		w := s.Name
		if s.Parent != "" {
			w += "<" + s.Parent
		}
		if s.Current {
			w = "*" + w
		}
		out = append(out, w)
	}
	if f.Changed {
		out = append(out, "!")
	}
	return strings.Join(out, " ")
}

func TestSnapshotsForReal(t *testing.T) {
	v := newDiskVM(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	v.write(1)
	must(v.snapshot(v.l, "one"))
	if err := v.snapshot(v.l, "one"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice: %v", err)
	}
	v.write(2)
	if got := v.shape(); got != "*one !" {
		t.Errorf("%s", got)
	}
	must(v.snapshot(v.l, "two"))
	v.write(3)
	// A device added since the snapshot stays: rolling back keeps the present definition.
	run(t, "virsh", "-q", "-c", virt.SystemURI, "attach-interface", v.name, "network", "default", "--config")
	before, err := v.l.InactiveXML(context.Background(), v.name)
	must(err)
	kept, err := v.rollback(v.l, "one", "kept")
	must(err)
	after, err := v.l.InactiveXML(context.Background(), v.name)
	must(err)
	cut := func(s string) string { _, s, _ = strings.Cut(s, "</metadata>"); return s }
	if cut(before) != cut(after) || cut(before) == "" {
		t.Error("rolling back changed the definition")
	}
	if !kept || !v.holds(1) || v.shape() != "*one two<one kept<two" {
		t.Errorf("kept %v, %s", kept, v.shape())
	}
	// Nothing has changed since: nothing is saved again.
	if kept, err := v.rollback(v.l, "kept", "again"); err != nil || kept || !v.holds(3) {
		t.Errorf("kept %v, %v", kept, err)
	}
	if kept, err := v.rollback(v.l, "kept", "again"); err != nil || kept {
		t.Errorf("to the present state: kept %v, %v", kept, err)
	}
	_, f := v.facts()
	size := map[string]uint64{}
	for _, s := range f.Snapshots {
		size[s.Name] = s.Own
	}
	// Two megabytes, and the metadata for them.
	if size["one"] < 2<<20 || size["one"] > 3<<20 || size["two"] != size["one"] || size["kept"] != 0 || f.Kept < 4<<20 || f.Kept > 6<<20 {
		t.Errorf("sizes %v, kept %d", size, f.Kept)
	}
	must(v.deleteSnapshot(v.l, "two"))
	if got := v.shape(); got != "one *kept<one" {
		t.Errorf("%s", got)
	}
	if _, now := v.facts(); now.Kept > f.Kept-2<<20 || now.Kept < 2<<20 {
		t.Errorf("deleting freed %d of %d", f.Kept-now.Kept, f.Kept)
	}
	if kept, err := v.rollback(v.l, "one", "again"); err != nil || kept || !v.holds(1) {
		t.Errorf("%v %v", kept, err)
	}
	must(v.deleteSnapshot(v.l, "one"))
	must(v.deleteSnapshot(v.l, "kept"))
	if got := v.shape(); got != "!" || !v.holds(1) {
		t.Errorf("after the last one: %q", got)
	}
	run(t, "qemu-img", "check", "-q", v.file)
	if err := v.deleteSnapshot(v.l, "one"); err == nil {
		t.Error("deleted a snapshot that does not exist")
	}
}

type calls = Snapshots

// dying simulates an aivm that is killed at its nth change, before or after the change is
// made. It gets no result and makes no further change.
type dying struct {
	calls
	remaining int
	after     bool
}

var errKilled = errors.New("killed")

func (d *dying) step(f func() error) error {
	d.remaining--
	switch {
	case d.remaining > 0:
		return f()
	case d.remaining == 0 && d.after:
		_ = f()
	}
	return errKilled
}

func (d *dying) CreateSnapshot(ctx context.Context, n, x string) error {
	return d.step(func() error { return d.calls.CreateSnapshot(ctx, n, x) })
}

func (d *dying) RedefineSnapshot(ctx context.Context, n, s, x string) error {
	return d.step(func() error { return d.calls.RedefineSnapshot(ctx, n, s, x) })
}

func (d *dying) ForgetSnapshot(ctx context.Context, n, s string) error {
	return d.step(func() error { return d.calls.ForgetSnapshot(ctx, n, s) })
}

func (d *dying) RevertSnapshot(ctx context.Context, n, s string) error {
	return d.step(func() error { return d.calls.RevertSnapshot(ctx, n, s) })
}

func (d *dying) DeleteSnapshot(ctx context.Context, n, s string) error {
	return d.step(func() error { return d.calls.DeleteSnapshot(ctx, n, s) })
}

func (d *dying) SetMetadata(ctx context.Context, n, p, u, e string) error {
	return d.step(func() error { return d.calls.SetMetadata(ctx, n, p, u, e) })
}

// A command that was killed at any of its changes finishes when it is run again, and no state
// of the disk is lost.
func TestSnapshotsKilledAnywhere(t *testing.T) {
	v := newDiskVM(t)
	pattern := 1
	v.write(pattern)
	if err := v.snapshot(v.l, "base"); err != nil {
		t.Fatal(err)
	}
	kills := 0
	for n := 1; ; n++ {
		anyKilled := false
		for _, after := range []bool{false, true} {
			die := func(f func(Snapshots) error) {
				if err := f(&dying{calls: v.l, remaining: n, after: after}); errors.Is(err, errKilled) {
					anyKilled = true
					kills++
				} else if err != nil {
					t.Fatalf("%d %v: %v", n, after, err)
				}
			}
			pattern++
			v.write(pattern)
			name := fmt.Sprintf("s%d", pattern)
			die(func(l Snapshots) error { return v.snapshot(l, name) })
			if _, f := v.facts(); true {
				if _, there := f.Find(name); !there {
					if err := v.snapshot(v.l, name); err != nil {
						t.Fatal(err)
					}
				}
			}
			present := pattern + 100
			v.write(present)
			keep := fmt.Sprintf("k%d", pattern)
			die(func(l Snapshots) error { _, err := v.rollback(l, "base", keep); return err })
			if _, err := v.rollback(v.l, "base", keep+"b"); err != nil {
				t.Fatal(err)
			}
			if !v.holds(1) {
				t.Fatalf("%d %v: the rollback did not happen", n, after)
			}
			_, f := v.facts()
			if f.Current() != "base" || f.Changed {
				t.Errorf("%d %v: %s", n, after, v.shape())
			}
			if _, twice := f.Find(keep + "b"); twice {
				if _, there := f.Find(keep); there {
					t.Errorf("%d %v: the present disk was saved twice: %s", n, after, v.shape())
				}
				keep += "b"
			}
			if _, err := v.rollback(v.l, keep, "x"); err != nil || !v.holds(present) {
				t.Fatalf("%d %v: the snapshot the rollback saved is lost: %v, %s", n, after, err, v.shape())
			}
			die(func(l Snapshots) error { return v.deleteSnapshot(l, keep) })
			if _, f := v.facts(); true {
				if _, there := f.Find(keep); there {
					if err := v.deleteSnapshot(v.l, keep); err != nil {
						t.Fatal(err)
					}
				}
				if _, there := f.Find(name); !there {
					t.Errorf("%s", v.shape())
				}
			}
			if err := v.deleteSnapshot(v.l, name); err != nil {
				t.Fatal(err)
			}
			if got := v.shape(); strings.TrimPrefix(got, "*") != "base" && got != "*base !" && got != "base !" {
				t.Errorf("%d %v: %s", n, after, got)
			}
		}
		if !anyKilled {
			break
		}
	}
	if kills < 12 {
		t.Errorf("killed only %d times", kills)
	}
	run(t, "qemu-img", "check", "-q", v.file)
}

func TestSnapshotNames(t *testing.T) {
	for _, n := range []string{"a", "before-upgrade", "X_1.2"} {
		if err := CheckSnapshotName(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []string{"", "1", "-a", "a b", "a\nb", "a'", "../x", "a/b", strings.Repeat("a", 64), "é", "<x>"} {
		if CheckSnapshotName(n) == nil {
			t.Errorf("%q was accepted", n)
		}
	}
	f := &SnapFacts{}
	now := time.Date(2026, 11, 26, 1, 2, 3, 0, time.UTC)
	for _, want := range []string{"x-20261126-010203", "x-20261126-010203-2", "x-20261126-010203-3"} {
		got := f.NewName("x-", now)
		if got != want {
			t.Errorf("%s, not %s", got, want)
		}
		f.Snapshots = append(f.Snapshots, Snapshot{Name: got})
	}
}

// A damaged or hostile file gives an error, never an endless loop, a panic or unbounded
// memory.
func TestReadQcow2Damaged(t *testing.T) {
	file := make([]byte, 4096)
	copy(file, "QFI\xfb")
	read := func(at, n uint64) ([]byte, error) {
		if at+n > uint64(len(file)) || at+n < at {
			return nil, errors.New("over the end")
		}
		return file[at : at+n], nil
	}
	set := func(at int, b ...byte) { copy(file[at:], b) }
	for what, change := range map[string]func(){
		"no version":      func() {},
		"huge L1":         func() { set(7, 3); set(23, 16); set(36, 0xff, 0xff, 0xff, 0xff) },
		"huge clusters":   func() { set(7, 3); set(23, 60) },
		"many snapshots":  func() { set(7, 3); set(23, 16); set(36, 0, 0, 0, 0); set(60, 0xff, 0xff, 0xff, 0xff) },
		"table elsewhere": func() { set(60, 0, 0, 0, 1); set(64, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0) },
	} {
		change()
		if _, err := readQcow2(read); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
