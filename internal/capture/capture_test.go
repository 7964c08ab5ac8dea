package capture

import (
	"slices"
	"testing"
)

func TestHead(t *testing.T) {
	h := Head{Limit: 5}
	for _, c := range []struct {
		write, want string
		over        bool
	}{{"abc", "abc", false}, {"de", "abcde", false}, {"", "abcde", false}, {"f", "abcde", true}} {
		if n, err := h.Write([]byte(c.write)); n != len(c.write) || err != nil {
			t.Errorf("%q: %d %v", c.write, n, err)
		}
		if h.String() != c.want || string(h.Bytes()) != c.want || h.Over() != c.over {
			t.Errorf("%q: %q, over %v", c.write, h.String(), h.Over())
		}
	}
}

func TestTail(t *testing.T) {
	l := Tail{Limit: 5}
	for _, c := range []struct{ write, want string }{{"abc", "abc"}, {"def", "bcdef"}, {"0123456789", "56789"}, {"", "56789"}} {
		if n, err := l.Write([]byte(c.write)); n != len(c.write) || err != nil {
			t.Errorf("%q: %d %v", c.write, n, err)
		}
		if l.String() != c.want {
			t.Errorf("%q: %q", c.write, l.String())
		}
	}
}

func TestLastLines(t *testing.T) {
	for text, want := range map[string]string{"": "", "\n \n": "", "a": "a", "a\n\nb \r\n c\n": "b / c", "x\ny\n": "x / y"} {
		if got := LastLines(text, 2, " / "); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// Each gets complete lines, however they are split over writes, and lines longer
// than Limit in pieces.
func TestLines(t *testing.T) {
	const text = "a\n\nbcd\nefghijk\nlmno\nz"
	want := []string{"a", "", "bcd", "efgh", "ijk", "lmno", "z"}
	for step := 1; step <= len(text); step++ {
		var got []string
		l := Lines{Limit: 4, Each: func(s string) { got = append(got, s) }}
		for rest := text; rest != ""; {
			n := min(step, len(rest))
			if k, err := l.Write([]byte(rest[:n])); k != n || err != nil {
				t.Fatal(k, err)
			}
			rest = rest[n:]
		}
		l.Flush()
		l.Flush()
		if !slices.Equal(got, want) {
			t.Errorf("in steps of %d: %q", step, got)
		}
	}
}
