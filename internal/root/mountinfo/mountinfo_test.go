package mountinfo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const table = `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:12 - ext3 /dev/root rw,errors=continue
41 36 0:40 /a\040b\011\134c /x/y\012z ro,nosuid,nodev,idmapped - tmpfs none rw
42 36 0:40 /gone//deleted /t rw - tmpfs no\q\0 rw
`
	got, err := Parse([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{36, 35, "98:0", "/mnt1", "/mnt2", []string{"rw", "noatime"}, []string{"master:1", "shared:12"}, "ext3", "/dev/root", []string{"rw", "errors=continue"}},
		{41, 36, "0:40", "/a b\t\\c", "/x/y\nz", []string{"ro", "nosuid", "nodev", "idmapped"}, []string{}, "tmpfs", "none", []string{"rw"}},
		{42, 36, "0:40", "/gone//deleted", "/t", []string{"rw"}, []string{}, "tmpfs", `no\q\0`, []string{"rw"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n, ok := got[0].Shared(); n != 12 || !ok {
		t.Error("shared", n, ok)
	}
	if n, ok := got[0].Master(); n != 1 || !ok {
		t.Error("master", n, ok)
	}
	if _, ok := got[1].Shared(); ok || !got[1].Has("idmapped") || got[1].Has("rw") {
		t.Error("options")
	}
}

func TestParseRefusesWhatItCannotRead(t *testing.T) {
	for _, line := range []string{
		"x", "1 2 0:1 / / rw - a b", "1 2 0:1 / / rw shared:1 a b c", "q 2 0:1 / / rw - a b c", "1 q 0:1 / / rw - a b c",
	} {
		if got, err := Parse([]byte(line + "\n")); err == nil {
			t.Errorf("%q: got %v, want an error", line, got)
		}
	}
}

func TestBelow(t *testing.T) {
	ms := []Mount{{Point: "/"}, {Point: "/a"}, {Point: "/a/b"}, {Point: "/ab"}}
	if got := Below(ms, "/a"); len(got) != 1 || got[0].Point != "/a/b" {
		t.Errorf("below /a: %v", got)
	}
	if got := Below(ms, "/"); len(got) != 3 {
		t.Errorf("below /: %v", got)
	}
}

func TestRealTable(t *testing.T) {
	ms, err := Read(Self)
	if err != nil {
		t.Fatal(err)
	}
	if len(At(ms, "/")) == 0 || len(At(ms, "/proc")) == 0 {
		t.Errorf("no / or /proc among %d mounts", len(ms))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw")
	f.Add(`1 1 0:1 \040 \777 a - \1 \ -`)
	f.Fuzz(func(t *testing.T, line string) {
		ms, err := Parse([]byte(line))
		if err != nil {
			return
		}
		if n := strings.Count(line, "\n") + 1; len(ms) > n {
			t.Errorf("%d mounts from %d lines", len(ms), n)
		}
		for _, m := range ms {
			if got := Unescape(Escape(m.Point)); got != m.Point {
				t.Errorf("escape: %q became %q", m.Point, got)
			}
		}
	})
}
