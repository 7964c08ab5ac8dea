package images

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/target"
)

// builder acts as the privileged helper: it takes a while and passes an image.
type builder struct {
	file  string
	built *atomic.Int32
}

func (b builder) Do(context.Context, root.Op, root.Progress) (root.Result, error) {
	b.built.Add(1)
	time.Sleep(500 * time.Millisecond)
	f, err := os.Open(b.file)
	return root.Result{File: f}, err
}

func (builder) Close() error { return nil }

// If several runs of one user need the same image at the same time, each for another VM, one run
// builds or copies it and the others use that.
func TestImageIsCreatedOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", file, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var built atomic.Int32
	for _, name := range []string{"packages:debian-12", file} {
		first := looptest.New(t)
		var plans []plan.Plan
		var bases []func() (domain.Base, error)
		var worlds []*looptest.World
		for range 3 {
			w := looptest.New(t)
			w.Cache = first.Cache
			w.Root, w.Timing = builder{file, &built}, ui.NewTiming("image")
			worlds = append(worlds, w)
			tgt := &target.Target{Store: &config.Store{Config: config.DefaultConfig()}, Image: name}
			p, base, err := For(w.Loop).Plan(tgt, For(w.Loop).Observe(t.Context(), tgt))
			if err != nil || len(p.Actions) != 1 {
				t.Fatalf("%v %v", p, err)
			}
			plans, bases = append(plans, p), append(bases, base)
		}
		var wg sync.WaitGroup
		var staleRuns atomic.Int32
		for i, w := range worlds {
			wg.Go(func() {
				stale, err := w.Run(context.Background(), plans[i])
				if err != nil {
					t.Error(err)
				}
				if stale {
					staleRuns.Add(1)
				}
				b, err := bases[i]()
				if err != nil || b.Size == 0 {
					t.Errorf("%+v %v", b, err)
				}
			})
		}
		wg.Wait()
		if strings.HasPrefix(name, "packages:") && (built.Load() != 1 || staleRuns.Load() != 2) {
			t.Errorf("built %d times, %d runs were stale", built.Load(), staleRuns.Load())
		}
		tgt := &target.Target{Store: &config.Store{Config: config.DefaultConfig()}, Image: name}
		p, _, err := For(first.Loop).Plan(tgt, For(first.Loop).Observe(t.Context(), tgt))
		if err != nil || len(p.Actions) != 0 {
			t.Errorf("still to do: %v %v", p, err)
		}
	}
}
