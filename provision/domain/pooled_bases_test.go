package domain

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/virt"
)

var sum = strings.Repeat("0123456789abcdef", 4)

func basePool(vols ...virt.Volume) *storage {
	b := Base{SHA256: sum}
	return newPool(append(vols,
		virt.Volume{Name: b.volumeName(1), Allocation: 5}, virt.Volume{Name: b.volumeName(1) + marker},
		virt.Volume{Name: b.volumeName(2), Modified: time.Now().Add(-time.Hour)}, virt.Volume{Name: "1000-work.seed"})...)
}

func TestBases(t *testing.T) {
	p := basePool(virt.Volume{Name: "1000-work.qcow2", Backing: "/pool/" + Base{SHA256: sum}.volumeName(1)})
	pool, err := p.PoolAt(context.Background(), "/pool")
	if err != nil {
		t.Fatal(err)
	}
	got := Bases(pool)
	if len(got) != 1 || got[0].Sum != sum[:32] || got[0].Bytes != 5 || !slices.Equal(got[0].Users, []string{"1000-work"}) || got[0].Growing {
		t.Errorf("%+v", got)
	}
	if Bases(nil) != nil {
		t.Error("no pool has images")
	}
}

func TestRemoveBase(t *testing.T) {
	ctx := context.Background()
	disk := virt.Volume{Name: "1000-work.qcow2", Backing: "/pool/" + Base{SHA256: sum}.volumeName(1)}
	p := basePool()
	if err := RemoveBase(ctx, p, "aivm", "/pool", sum); err != nil {
		t.Fatal(err)
	}
	if got := p.names(); got != "1000-work.seed" {
		t.Errorf("remaining: %s", got)
	}
	if !strings.HasSuffix(p.did[0], marker) {
		t.Errorf("the volume was deleted before its marker: %v", p.did)
	}

	p = basePool(disk)
	was := p.names()
	if err := RemoveBase(ctx, p, "aivm", "/pool", sum); err == nil || !strings.Contains(err.Error(), "1000-work") || p.names() != was {
		t.Errorf("%v: %s", err, p.names())
	}

	// Another run creates a disk on it between the two checks: the marker is restored.
	p = basePool()
	p.hook = func(call string) {
		if strings.HasPrefix(call, "delete") && strings.HasSuffix(call, marker) {
			p.hook = nil
			p.put(disk)
		}
	}
	if err := RemoveBase(ctx, p, "aivm", "/pool", sum); err == nil {
		t.Error("an image in use was removed")
	}
	if p.names() != was {
		t.Errorf("remaining: %s\nwant: %s", p.names(), was)
	}

	// Another run is uploading it.
	p = newPool(virt.Volume{Name: Base{SHA256: sum}.volumeName(1), Modified: time.Now()})
	if err := RemoveBase(ctx, p, "aivm", "/pool", sum); err == nil || p.names() == "" {
		t.Errorf("%v", err)
	}
}

func TestChain(t *testing.T) {
	p := &virt.Pool{Path: "/pool", Volumes: map[string]virt.Volume{
		"c": {Name: "c", Path: "/pool/c", Backing: "/pool/b"}, "b": {Name: "b", Path: "/pool/b", Backing: "/pool/a"}, "a": {Name: "a", Path: "/pool/a"},
		"loop": {Name: "loop", Path: "/pool/loop", Backing: "/pool/loop"}, "off": {Name: "off", Path: "/pool/off", Backing: "/elsewhere"},
	}}
	got, err := Chain(p, "/pool/c")
	if err != nil || len(got) != 3 || got[0].Name != "c" || got[2].Name != "a" {
		t.Errorf("%v %v", got, err)
	}
	for _, top := range []string{"/pool/loop", "/pool/off", "/pool/none"} {
		if _, err := Chain(p, top); err == nil {
			t.Errorf("%s was accepted", top)
		}
	}
}

// All of the copy is deleted; another domain of that name stays.
func TestDropCopy(t *testing.T) {
	ctx := context.Background()
	const key = "1000-work"
	for _, tt := range []struct {
		name string
		d    *virt.Domain
		gone bool
	}{
		{"the copy", &virt.Domain{Name: "work-prepare", Mark: virt.Mark{Exists: true, Owner: 1000}, Disks: []virt.Disk{{Serial: DiskSerial, File: CopyPath("/pool", key)}}}, true},
		{"a VM that happens to have that name", &virt.Domain{Name: "work-prepare", Mark: virt.Mark{Exists: true, Owner: 1000}, Disks: []virt.Disk{{Serial: DiskSerial, File: "/pool/1000-work-prepare.qcow2"}}}, false},
		{"another user's", &virt.Domain{Name: "work-prepare", Disks: []virt.Disk{{Serial: DiskSerial, File: CopyPath("/pool", key)}}}, false},
		{"gone already", nil, false},
	} {
		p := newPool(virt.Volume{Name: copyVolume(key)}, virt.Volume{Name: copySerial(key)}, virt.Volume{Name: key + ".qcow2"})
		p.domain = tt.d
		l := &destroyer{storage: p}
		if err := DropCopy(ctx, l, "work", key, 1000, "aivm", "/pool"); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if (l.destroyed != "") != tt.gone || p.names() != key+".qcow2" {
			t.Errorf("%s: destroyed %q, remaining %s", tt.name, l.destroyed, p.names())
		}
	}
}

type destroyer struct {
	*storage
	destroyed string
}

func (d *destroyer) Destroy(_ context.Context, name string) error { d.destroyed = name; return nil }
