package provision

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/provision/machine"
)

// FuzzClock: ClockOff returns 0 or the difference to the time that the guest printed.
func FuzzClock(f *testing.F) {
	f.Add([]byte("1800000000.000000000\n"))
	f.Add([]byte("1.-1"))
	f.Add([]byte("999999999999.999999999"))
	sent := time.Unix(1_800_000_000, 0)
	got := sent.Add(3 * time.Second)
	f.Fuzz(func(t *testing.T, out []byte) {
		off := machine.ClockOff(out, sent, got)
		if off == 0 {
			return
		}
		at := sent
		if off > 0 {
			at = got
		}
		want := at.Add(off).Unix()
		seconds, _, _ := strings.Cut(strings.TrimSpace(string(out)), ".")
		if n, err := strconv.ParseInt(seconds, 10, 64); off > -1<<62 && off < 1<<62 && (err != nil || n != want) {
			t.Errorf("%q is %s off, which means %d", out, off, want)
		}
	})
}
