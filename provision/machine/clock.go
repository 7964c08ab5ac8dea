package machine

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

// A guest whose host was suspended, or that was paused for a full disk, goes on
// with the time it had. TLS, make and git then fail in ways nobody looks for in
// the clock.

// clockSlack is how far a guest's clock may be off before it is set.
const clockSlack = 2 * time.Second

// ClockProbe asks for the time. It comes first in the probe, close to when the
// script was sent; a guest that has no answer costs nothing.
func ClockProbe() guest.Probe {
	return guest.Probe{Name: "clock", Script: "date +%s.%N 2>/dev/null || :"}
}

// ClockOff is how far the clock that said out is ahead (or, below 0, behind),
// at least: the guest read it at some moment between sent and got, so what is
// between these is no error of it. An answer that is no time is no error either.
func ClockOff(out []byte, sent, got time.Time) time.Duration {
	whole, frac, _ := strings.Cut(strings.TrimSpace(string(out)), ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec < 0 || sec > 1<<40 || len(frac) > 9 {
		return 0
	}
	var nsec int64
	if frac != "" {
		if nsec, err = strconv.ParseInt((frac + "000000000")[:9], 10, 64); err != nil || nsec < 0 {
			return 0
		}
	}
	at := time.Unix(sec, nsec)
	// Wall clocks only: the monotonic one stands still while a host sleeps.
	switch ahead, behind := at.Sub(got.Round(0)), sent.Round(0).Sub(at); {
	case ahead > 0:
		return ahead
	case behind > 0:
		return -behind
	}
	return 0
}

// PlanClock sets a clock that is off.
func (e Part) PlanClock(w *target.Target, f *loop.Facts) []plan.Action {
	off := f.Guest.Clock
	if off >= -clockSlack && off <= clockSlack {
		return nil
	}
	way := "ahead"
	if off < 0 {
		way = "behind"
		off = -off
	}
	return []plan.Action{{
		ID: "clock.set", Why: fmt.Sprintf("set the clock of VM %s, which is %s %s", w.Name, roughDuration(off), way), Timing: "ssh",
		Shows: []string{"date -s @NOW (in the guest)"},
		Do: func(ctx context.Context) error {
			if err := setClock(ctx, f.Conn, time.Now); err != nil {
				// No reason to keep anybody from working.
				e.WarnOnce(fmt.Sprintf("the clock of VM %s is %s %s and could not be set: %v", w.Name, roughDuration(off), way, err))
			}
			return nil
		},
	}}
}

// span is a duration without digits nobody needs.
func roughDuration(d time.Duration) string {
	if d > 48*time.Hour {
		return fmt.Sprintf("%.0f days", math.Round(d.Hours()/24))
	}
	return d.Round(time.Second).String()
}

// setClock sets the guest's clock to this machine's. How long a command takes
// to get there is measured with one that does the same and sets nothing.
func setClock(ctx context.Context, c guest.Conn, now func() time.Time) error {
	run := func(argv ...string) error {
		said := capture.Head{Limit: session.GuestOutputLimit}
		code, err := c.Run(ctx, guest.Cmd{Argv: argv, Stderr: &said})
		if err == nil && code != 0 {
			err = fmt.Errorf("status %d: %s", code, session.LastLine(said.String()))
		}
		return err
	}
	began := time.Now()
	if err := run("sudo", "-n", "date", "+%s"); err != nil {
		return err
	}
	at := now().Add(time.Since(began) / 2)
	return run("sudo", "-n", "date", "-u", "-s", fmt.Sprintf("@%d.%09d", at.Unix(), at.Nanosecond()))
}
