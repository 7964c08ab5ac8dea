package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/settingsync"
)

type lostGuest struct {
	guest.Conn
	err error
}

func (g lostGuest) Run(context.Context, guest.Cmd) (int, error) { return -1, g.err }

// A command whose connection broke says what to type next; that the VM is off
// is said where libvirt can be asked (TestPairs: ssh beside down).
func TestLostCommand(t *testing.T) {
	w := newWorld(t)
	lost := fmt.Errorf("%w: the guest went silent", guest.ErrLost)
	err := w.remoteCommand(t.Context(), &want{name: "t"}, &facts{conn: lostGuest{err: lost}}, []string{"cat"})
	var ue *ui.Error
	if !errors.As(err, &ue) || !errors.Is(err, guest.ErrLost) || !slices.Contains(ue.Hints, "aivm status --vm t") {
		t.Errorf("%v", err)
	}
	// In the middle of a run it says how to go on, too; settings say the same.
	err = w.resume(w.explainLost(t.Context(), "t", lost))
	if !errors.As(err, &ue) || !slices.Equal(ue.Hints, []string{"aivm status --vm t", "to go on where it stopped: aivm x"}) {
		t.Errorf("%v", err)
	}
	s := &settings{round: &settingsync.Round{}}
	if err := w.sendSettings(t.Context(), &want{name: "t", settings: s}, &facts{conn: lostGuest{err: lost}}); err != nil || !errors.As(s.err, &ue) || !slices.Contains(ue.Hints, "aivm status --vm t") {
		t.Errorf("%v %v", err, s.err)
	}
	other, none := errors.New("another"), (*ui.Error)(nil)
	err = w.remoteCommand(t.Context(), &want{name: "t"}, &facts{conn: lostGuest{err: other}}, []string{"cat"})
	if !errors.Is(err, other) || errors.As(err, &none) {
		t.Errorf("%v", err)
	}
}
