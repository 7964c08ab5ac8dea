package hostsetup

import (
	"strings"
	"testing"
)

// A parsed progress line of apt has a percentage from 0 to 100.
func FuzzAptStatus(f *testing.F) {
	f.Add("pmstatus:libc6:amd64:20.0:Unpacking")
	f.Add("dlstatus:1:50.5:Retrieving file 1 of 2")
	f.Add("pmstatus:x:NaN:y")
	f.Fuzz(func(t *testing.T, line string) {
		if s, ok := parseAptStatus(line); ok && (s.percent < 0 || s.percent > 100 || s.percent != s.percent || !strings.HasSuffix(line, s.text)) {
			t.Errorf("%+v of %q", s, line)
		}
	})
}

func TestAptStatus(t *testing.T) {
	for line, want := range map[string]aptStatus{
		"dlstatus:1:12.5:Retrieving file 1 of 3 (20s remaining)": {true, 12.5, "Retrieving file 1 of 3 (20s remaining)"},
		"pmstatus:git:50.0:Unpacking git (amd64)":                {false, 50, "Unpacking git (amd64)"},
		"pmstatus:libc6:amd64:20.0:Installing: libc6":            {false, 20, "Installing: libc6"},
	} {
		if got, ok := parseAptStatus(line); !ok || got != want {
			t.Errorf("%q: %+v %v", line, got, ok)
		}
	}
	for _, line := range []string{"", "x", "pmerror:a:1:b", "dlstatus:1:NaN:x", "dlstatus:1:200:x", "pmstatus:a:b:c", "pmstatus::::"} {
		if got, ok := parseAptStatus(line); ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}
