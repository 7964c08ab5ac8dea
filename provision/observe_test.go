package provision

import (
	"context"
	"errors"
	"testing"
	"time"

	"aivm.dev/aivm/provision/loop"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
)

// slowFirewall needs 100 ms to read the rules, even if the caller's context has ended.
type slowFirewall struct {
	session.FirewallState
	read chan struct{}
}

func (s slowFirewall) Rules(context.Context, string, bool) firewall.Facts {
	time.Sleep(100 * time.Millisecond)
	close(s.read)
	return firewall.Facts{}
}

// An observation that fails returns only after everything it started has ended, so that nothing
// disturbs the next one.
func TestFailedObservationWaits(t *testing.T) {
	w := newWorld(t)
	w.WriteConfig(w.MakeFolder("p"))
	tgt := looptest.SavedTarget(w, "")
	tgt.Boot, tgt.Network = true, config.Network{Network: config.NetworkSpec{Name: "n"}}
	head, broken := w.Host.Head, errors.New("unreadable")
	w.Host.Head = func(path string, limit int) ([]byte, error) {
		if path == mountinfo.Self {
			return nil, broken
		}
		return head(path, limit)
	}
	slow := slowFirewall{read: make(chan struct{})}
	w.Firewall = slow
	if _, err := env(w).Observe(t.Context(), tgt, loop.NewProgress(tgt)); !errors.Is(err, broken) {
		t.Error(err)
	}
	select {
	case <-slow.read:
	default:
		t.Error("the observation returned while the firewall was being read")
	}
}

// noFirewall has no rules for any network.
type noFirewall struct{ session.FirewallState }

func (noFirewall) Rules(context.Context, string, bool) firewall.Facts { return firewall.Facts{} }

func (noFirewall) Hooks() (current, known bool, err error) { return true, true, nil }

// While the plan is still to get access to libvirt, the observation for it does not use root: the
// guests behind missing rules are read when libvirt can be asked.
func TestRulesAreReadOnlyIfThePlanIncludesThem(t *testing.T) {
	w := newWorld(t)
	folder := w.MakeFolder("p")
	w.WriteConfig(folder)
	tgt := looptest.SavedTarget(w, folder)
	tgt.Guest, tgt.Folder.Mode, tgt.Network = true, share.Shared, config.Network{Network: config.DefaultConfig().Defaults.Network, Firewall: config.DefaultConfig().Defaults.Firewall}
	w.Firewall = noFirewall{}
	f := &loop.Facts{Progress: loop.NewProgress(tgt), Conn: &looptest.FakeGuest{}, Inst: &state.Instance{MAC: "52:54:00:00:00:01", Address: "10.77.0.10"}}
	f.Virt.Err, f.Domain.Domain.Err, f.Socket = virt.ErrDenied, virt.ErrDenied, w.URI().Socket()
	e := env(w)
	e.observeForPlan(t.Context(), tgt, f)
	p, err := e.planHost(t.Context(), tgt, f, nil)
	if err != nil || len(p.Actions) != 1 || p.Actions[0].ID != "libvirt.open" {
		t.Fatalf("%+v %v", p.Actions, err)
	}
	if len(w.Ops) > 0 {
		t.Errorf("root was asked for %v before the plan", w.Ops)
	}
}
