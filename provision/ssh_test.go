package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

type lostGuest struct {
	guest.Conn
	err error
}

func (g lostGuest) Run(context.Context, guest.Cmd) (int, error) { return -1, g.err }

// The error of a command whose connection was lost has a hint. If libvirt can be asked, it also
// tells whether the VM is off (TestPairs: ssh beside down).
func TestLostCommand(t *testing.T) {
	w := newWorld(t)
	lost := fmt.Errorf("%w: the guest went silent", guest.ErrLost)
	err := env(w).remoteCommand(t.Context(), &target.Target{Name: "t"}, &loop.Facts{Conn: lostGuest{err: lost}}, []string{"cat"})
	var ue *ui.Error
	if !errors.As(err, &ue) || !errors.Is(err, guest.ErrLost) || !slices.Contains(ue.HintLines(), "aivm status --vm t") {
		t.Errorf("%v", err)
	}
	// In the middle of a run the error also has the command to continue with; so has that of settings.
	err = w.WithRerunHint(w.ExplainLost(t.Context(), "t", lost))
	if !errors.As(err, &ue) || !slices.Equal(ue.HintLines(), []string{"aivm status --vm t", "to continue where it stopped: aivm x"}) {
		t.Errorf("%v", err)
	}
	s := &loop.Settings{Round: &settingsync.Round{}}
	if err := settings.For(w.Loop).Send(t.Context(), &target.Target{Name: "t"}, &loop.Facts{Progress: loop.Progress{Settings: s}, Conn: lostGuest{err: lost}}); err != nil || !errors.As(s.Err, &ue) || !slices.Contains(ue.HintLines(), "aivm status --vm t") {
		t.Errorf("%v %v", err, s.Err)
	}
	other, none := errors.New("another"), (*ui.Error)(nil)
	err = env(w).remoteCommand(t.Context(), &target.Target{Name: "t"}, &loop.Facts{Conn: lostGuest{err: other}}, []string{"cat"})
	if !errors.Is(err, other) || errors.As(err, &none) {
		t.Errorf("%v", err)
	}
}
