package domain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// storage is a fake libvirt with one pool and many callers. hook, if set, is called
// before a call does anything, without the lock held.
type storage struct {
	Libvirt // nil: the methods not defined below must not be called
	mu      sync.Mutex
	vols    map[string]virt.Volume
	did     []string
	busy    int // how many calls are refused
	hook    func(call string)
	domain  *virt.Domain
	define  error
}

func newPool(vols ...virt.Volume) *storage {
	p := &storage{vols: map[string]virt.Volume{}}
	for _, v := range vols {
		p.put(v)
	}
	return p
}

func (p *storage) put(v virt.Volume) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v.Path = "/pool/" + v.Name
	p.vols[v.Name] = v
}

func (p *storage) names() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(p.vols)), " ")
}

func (p *storage) call(f func() error, words ...string) error {
	c := strings.Join(words, " ")
	if p.hook != nil {
		p.hook(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy > 0 {
		p.busy--
		return fmt.Errorf("%s: %w", c, virt.ErrBusy)
	}
	if words[0] != "unrecorded" {
		p.did = append(p.did, c)
	}
	return f()
}

func (p *storage) PoolAt(_ context.Context, path string) (out *virt.Pool, err error) {
	err = p.call(func() error {
		out = &virt.Pool{Name: "aivm", Path: path, Active: true, Volumes: maps.Clone(p.vols)}
		return nil
	}, "unrecorded")
	return out, err
}

func (p *storage) CreateVolume(_ context.Context, _ string, v virt.NewVolume) error {
	return p.call(func() error {
		if _, ok := p.vols[v.Name]; ok {
			return virt.ErrExists
		}
		p.vols[v.Name] = virt.Volume{Name: v.Name, Path: "/pool/" + v.Name, Backing: v.BackingPath, Modified: time.Now()}
		return nil
	}, "create", v.Name)
}

func (p *storage) Upload(_ context.Context, _, name string, r io.Reader, _ uint64) error {
	for buf := make([]byte, 1); ; {
		n, err := r.Read(buf)
		if n > 0 {
			err = p.call(func() error {
				if v, ok := p.vols[name]; ok { // false: the volume was deleted during the upload
					v.Allocation++
					p.vols[name] = v
				}
				return nil
			}, "unrecorded")
		}
		if errors.Is(err, io.EOF) {
			return p.call(func() error { return nil }, "uploaded", name)
		}
		if err != nil {
			return err
		}
	}
}

func (p *storage) DeleteVolume(_ context.Context, _, name string) error {
	return p.call(func() error { delete(p.vols, name); return nil }, "delete", name)
}

func (p *storage) Define(context.Context, string) error {
	return p.call(func() error { return p.define }, "define")
}

func (p *storage) Domain(context.Context, string) (*virt.Domain, error) {
	if p.domain == nil {
		return nil, virt.ErrNotFound
	}
	return p.domain, nil
}

func wantBase(content string) Wanted {
	return Wanted{Spec: spec("kvm"), Key: "1000-work", BaseDir: "/pool", DiskGB: 1, Base: func() (Base, error) {
		return Base{SHA256: "abc", Format: "qcow2", Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(content)), nil
		}}, nil
	}, Seed: func() ([]byte, error) { return []byte("seed"), nil }, wait: quick}
}

// quick has short times for the wait for other runs.
var quick = uploadWait{stall: 200 * time.Millisecond, poll: 5 * time.Millisecond}

// do runs one action of a plan made earlier, from the facts of that time.
func do(t *testing.T, p *storage, then *virt.Pool, w Wanted, id string, reported *bytes.Buffer) error {
	t.Helper()
	as, err := Plan(Facts{Domain: plan.Yes[*virt.Domain](nil), Pool: plan.Yes(then)}, w, "aivm", func() (Libvirt, error) { return p, nil })
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(as, func(a plan.Action) bool { return a.ID == id })
	if i < 0 {
		t.Fatalf("%s is not planned", id)
	}
	r := plan.Runner{Started: func(plan.Action) (func(string, float64), func(error)) {
		return func(s string, _ float64) {
			if reported != nil && s != "" {
				reported.WriteString(s + "\n")
			}
		}, func(error) {}
	}}
	again, err := r.Run(context.Background(), plan.Plan{Actions: as[i : i+1]})
	if again {
		return plan.ErrStale
	}
	return err
}

func then(t *testing.T, p *storage) *virt.Pool {
	t.Helper()
	v, err := p.PoolAt(context.Background(), "/pool")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var old = time.Now().Add(-time.Hour)

// A volume that was incomplete when the plan was made is complete now, and a disk is
// backed by it.
func TestUploadLooksAgain(t *testing.T) {
	p := newPool(virt.Volume{Name: "base-abc", Modified: old})
	planned := then(t, p)
	p.put(virt.Volume{Name: "base-abc.done"})
	p.put(virt.Volume{Name: "1000-other.qcow2", Backing: "/pool/base-abc"})
	if err := do(t, p, planned, wantBase("image"), "image.upload", nil); err != nil || p.did != nil {
		t.Errorf("%v %v", err, p.did)
	}
}

// The run waits for the writer of a volume that grows.
func TestUploadWaits(t *testing.T) {
	p := newPool(virt.Volume{Name: "base-abc", Modified: time.Now()})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 40 {
			time.Sleep(10 * time.Millisecond)
			p.put(virt.Volume{Name: "base-abc", Allocation: uint64(i), Modified: time.Now()})
		}
		p.put(virt.Volume{Name: "base-abc.done"})
	})
	var reported bytes.Buffer
	if err := do(t, p, then(t, p), wantBase("image"), "image.upload", &reported); err != nil || p.did != nil {
		t.Errorf("%v %v", err, p.did)
	}
	if !strings.Contains(reported.String(), "waiting for another aivm") {
		t.Errorf("reported %q", reported.String())
	}
	wg.Wait()
}

// The run neither waits for nor writes to the incomplete volume of a dead run. It deletes
// the volume when the image is complete, unless a disk is backed by it.
func TestUploadAfterADeadRun(t *testing.T) {
	p := newPool(
		virt.Volume{Name: "base-abc", Modified: old},
		virt.Volume{Name: "base-abc-2", Modified: old}, virt.Volume{Name: "1000-x.qcow2", Backing: "/pool/base-abc-2"},
		virt.Volume{Name: "base-abc-3.done"}, // its volume was deleted manually
		virt.Volume{Name: "base-abcd", Modified: old}, virt.Volume{Name: "base-abc-x", Modified: old},
	)
	start := time.Now()
	if err := do(t, p, then(t, p), wantBase("image"), "image.upload", nil); err != nil {
		t.Fatal(err)
	}
	if time.Since(start) > quick.stall {
		t.Error("waited for a dead run")
	}
	if got := p.names(); got != "1000-x.qcow2 base-abc-2 base-abc-3.done base-abc-4 base-abc-4.done base-abc-x base-abcd" {
		t.Errorf("%s", got)
	}
	// The disk is backed by the complete volume, whatever its name.
	if err := do(t, p, then(t, p), wantBase("image"), "disk.create", nil); err != nil || p.vols["1000-work.qcow2"].Backing != "/pool/base-abc-4" {
		t.Errorf("%v %+v", err, p.vols["1000-work.qcow2"])
	}
}

// An incomplete volume whose writer was just killed counts as being written for a short
// time.
func TestUploadTakesOver(t *testing.T) {
	p := newPool(virt.Volume{Name: "base-abc", Modified: time.Now()})
	if err := do(t, p, then(t, p), wantBase("image"), "image.upload", nil); err != nil {
		t.Fatal(err)
	}
	if got := p.names(); got != "base-abc-2 base-abc-2.done" {
		t.Errorf("%s", got)
	}
}

// A slow run that another one took for dead loses nothing: its volume is deleted, and it
// uses the other one; if that is not complete yet, it uploads again.
func TestUploadTakenForDead(t *testing.T) {
	for _, complete := range []bool{true, false} {
		p := newPool()
		once := sync.OnceFunc(func() {
			p.mu.Lock()
			delete(p.vols, "base-abc")
			p.mu.Unlock()
			if complete {
				p.put(virt.Volume{Name: "base-abc-2"})
				p.put(virt.Volume{Name: "base-abc-2.done"})
			}
		})
		p.hook = func(c string) {
			if c == "uploaded base-abc" {
				once()
			}
		}
		if err := do(t, p, then(t, p), wantBase("image"), "image.upload", nil); err != nil {
			t.Fatal(err)
		}
		want := "base-abc base-abc.done"
		if complete {
			want = "base-abc-2 base-abc-2.done"
		}
		if got := p.names(); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

// Of many runs at once, one uploads.
func TestUploadAtOnce(t *testing.T) {
	p := newPool()
	planned := then(t, p)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := do(t, p, planned, wantBase(strings.Repeat("x", 1000)), "image.upload", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := p.names(); got != "base-abc base-abc.done" {
		t.Errorf("%s", got)
	}
	if n := strings.Count(strings.Join(p.did, "\n"), "uploaded"); n != 1 {
		t.Errorf("%d uploads: %v", n, p.did)
	}
}

type broken struct{ io.Reader }

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func TestUploadFails(t *testing.T) {
	p := newPool(virt.Volume{Name: "base-abc", Modified: old})
	w := wantBase("image")
	w.Base = func() (Base, error) {
		return Base{SHA256: "abc", Size: 5, Open: func() (io.ReadCloser, error) { return io.NopCloser(broken{}), nil }}, nil
	}
	if err := do(t, p, then(t, p), w, "image.upload", nil); err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("%v", err)
	}
	if got := p.names(); got != "base-abc" {
		t.Errorf("leaves %s", got)
	}
}

// libvirt refuses to read the pool while a volume is being created; the call is repeated.
func TestBusyIsWaitedFor(t *testing.T) {
	p := newPool()
	planned := then(t, p)
	p.busy = 3
	var reported bytes.Buffer
	if err := do(t, p, planned, wantBase("image"), "image.upload", &reported); err != nil {
		t.Fatal(err)
	}
	if got := p.names(); got != "base-abc base-abc.done" || !strings.Contains(reported.String(), "libvirt, which is busy") {
		t.Errorf("%s, reported %q", got, reported.String())
	}
}

// A volume or domain that another run made since the plan gives ErrStale.
func TestMadeMeanwhile(t *testing.T) {
	p := newPool(virt.Volume{Name: "base-abc"}, virt.Volume{Name: "base-abc.done"})
	planned := then(t, p)
	p.put(virt.Volume{Name: "1000-work.qcow2"})
	if err := do(t, p, planned, wantBase(""), "disk.create", nil); !errors.Is(err, plan.ErrStale) {
		t.Errorf("disk: %v", err)
	}
	if err := do(t, newPool(), planned, wantBase(""), "disk.create", nil); !errors.Is(err, plan.ErrStale) {
		t.Errorf("the image went away: %v", err)
	}
	p.define = errors.New("domain exists already")
	if err := do(t, p, planned, wantBase(""), "domain.define", nil); err == nil || errors.Is(err, plan.ErrStale) {
		t.Errorf("a definition that is refused for another reason: %v", err)
	}
	p.domain = &virt.Domain{Name: "work", UUID: "6ba7b811-9dad-41d1-80b4-00c04fd430c8"}
	if err := do(t, p, planned, wantBase(""), "domain.define", nil); !errors.Is(err, plan.ErrStale) {
		t.Errorf("domain: %v", err)
	}
}
