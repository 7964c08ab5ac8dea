package provision

import (
	"context"
	"errors"
	"testing"
	"time"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/session"
)

// slowWall takes its time to read the rules, whatever becomes of the caller.
type slowWall struct {
	session.Wallkeeper
	read chan struct{}
}

func (s slowWall) Rules(context.Context, string, bool) firewall.Facts {
	time.Sleep(100 * time.Millisecond)
	close(s.read)
	return firewall.Facts{}
}

// An observation that fails returns when everything it started has ended, so
// that the next one meets nothing of it.
func TestFailedObservationWaits(t *testing.T) {
	w := newWorld(t)
	w.Records(w.MakeFolder("p"))
	in := looptest.Saved(w, "")
	in.Boot, in.Network = true, config.Network{Network: config.NetworkSpec{Name: "n"}}
	head, broken := w.Host.Head, errors.New("unreadable")
	w.Host.Head = func(path string, limit int) ([]byte, error) {
		if path == mountinfo.Self {
			return nil, broken
		}
		return head(path, limit)
	}
	slow := slowWall{read: make(chan struct{})}
	w.Wall = slow
	if _, err := env(w).Observe(t.Context(), in); !errors.Is(err, broken) {
		t.Error(err)
	}
	select {
	case <-slow.read:
	default:
		t.Error("the observation returned while the firewall was being read")
	}
}
