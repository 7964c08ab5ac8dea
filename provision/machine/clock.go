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

// After the host was suspended, or the VM was paused because of a full disk, the guest's clock is
// behind. TLS, make and git then fail with errors that do not name the clock.

// clockSlack is how far a guest's clock may differ before it is set.
const clockSlack = 2 * time.Second

// ClockProbe returns the probe for the guest's time. It is the first one of the script, close to
// the time at which the script was sent. A guest without an answer is no error.
func ClockProbe() guest.Probe {
	return guest.Probe{Name: "clock", Script: "date +%s.%N 2>/dev/null || :"}
}

// ClockOff returns by how much the guest's clock, which printed out, is ahead (below 0: behind), at
// least. The guest read it some time between sent and got, so a time between these counts as
// correct. An answer that is no time gives 0.
func ClockOff(out []byte, sent, got time.Time) time.Duration {
	seconds, frac, _ := strings.Cut(strings.TrimSpace(string(out)), ".")
	sec, err := strconv.ParseInt(seconds, 10, 64)
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
	// Compare wall clocks: the monotonic clock stops while the host is suspended.
	switch ahead, behind := at.Sub(got.Round(0)), sent.Round(0).Sub(at); {
	case ahead > 0:
		return ahead
	case behind > 0:
		return -behind
	}
	return 0
}

// PlanClock plans to set the guest's clock if it differs by more than clockSlack.
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
				// Only a warning: the VM can be used all the same.
				e.WarnOnce(fmt.Sprintf("the clock of VM %s is %s %s and could not be set: %v", w.Name, roughDuration(off), way, err))
			}
			return nil
		},
	}}
}

// roughDuration formats a duration in days or in seconds.
func roughDuration(d time.Duration) string {
	if d > 48*time.Hour {
		return fmt.Sprintf("%.0f days", math.Round(d.Hours()/24))
	}
	return d.Round(time.Second).String()
}

// setClock sets the guest's clock to this machine's. To account for the time a command takes to
// start, it first runs one that only reads the clock.
func setClock(ctx context.Context, c guest.Conn, now func() time.Time) error {
	run := func(argv ...string) error {
		stderr := capture.Head{Limit: session.GuestOutputLimit}
		code, err := c.Run(ctx, guest.Cmd{Argv: argv, Stderr: &stderr})
		if err == nil && code != 0 {
			err = fmt.Errorf("status %d: %s", code, session.LastLine(stderr.String()))
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
