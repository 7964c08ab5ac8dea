package hostgit

import (
	"strings"
	"testing"
)

// FuzzStatus checks that ParseStatus reads a guest's list to its end and that each name is in the
// list.
func FuzzStatus(f *testing.F) {
	f.Add(" M a\x00?? b c\x00R  new\x00old\x00")
	f.Add("R  x")
	f.Add("\x00\x00   \x00")
	f.Fuzz(func(t *testing.T, s string) {
		es := ParseStatus(s)
		if len(es) > strings.Count(s, "\x00")+1 {
			t.Errorf("%d files of %q", len(es), s)
		}
		back := ""
		for _, e := range es {
			if e.Path == "" || !strings.Contains(s, e.Code+" "+e.Path) {
				t.Errorf("%+v of %q", e, s)
			}
			if e.Code[0] != 'R' && e.Code[0] != 'C' {
				back += e.Code + " " + e.Path + "\x00"
			}
		}
		if again := ParseStatus(back); !strings.ContainsAny(s, "RC") && len(again) != len(es) {
			t.Errorf("%+v became %+v", es, again)
		}
	})
}
