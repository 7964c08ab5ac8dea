package machine

import (
	"testing"
	"time"

	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
)

func TestClockOff(t *testing.T) {
	sent := time.Unix(1_800_000_000, 0)
	got := sent.Add(3 * time.Second) // a slow guest
	for _, c := range []struct {
		answer string
		want   time.Duration
	}{
		{"1800000000.000000000\n", 0},
		{"1800000002.999999999\n", 0},
		{"1799996400.000000000\n", -time.Hour},
		{"1800000005.500000000\n", 2500 * time.Millisecond},
		{"1799999999.250000000\n", -750 * time.Millisecond},
		{"1800003603\n", time.Hour},
		// Answers of a hostile guest.
		{"", 0},
		{"-5.0\n", 0},
		{"99999999999999999999\n", 0},
		{"1799996400.\x1b[31m\n", 0},
		{"1799996400.-1\n", 0},
		{"NaN\n", 0},
		{"1799996400.0000000000000\n", 0},
	} {
		if off := ClockOff([]byte(c.answer), sent, got); off != c.want {
			t.Errorf("%q: %s, not %s", c.answer, off, c.want)
		}
	}
}

func TestPlanClock(t *testing.T) {
	e := &Part{}
	w := &target.Target{Name: "work"}
	for off, want := range map[time.Duration]string{
		0:                       "",
		2 * time.Second:         "",
		-2 * time.Second:        "",
		2100 * time.Millisecond: "set the clock of VM work, which is 2s ahead",
		-90 * time.Minute:       "set the clock of VM work, which is 1h30m0s behind",
		-240 * time.Hour:        "set the clock of VM work, which is 10 days behind",
	} {
		got := ""
		for _, a := range e.PlanClock(w, &loop.Facts{Guest: loop.Guest{Clock: off}}) {
			got = a.Why
		}
		if got != want {
			t.Errorf("%s: %q", off, got)
		}
	}
}
