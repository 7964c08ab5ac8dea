package lazyre

import "testing"

func TestRegexp(t *testing.T) {
	bad := New("(")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a broken expression compiled")
			}
		}()
		bad.MatchString("x")
	}()
	r := New("^a(b+)$")
	if !r.MatchString("abb") || r.MatchString("a") {
		t.Error("matching differs from regexp's")
	}
	if m := r.FindStringSubmatch("abb"); len(m) != 2 || m[1] != "bb" {
		t.Errorf("%q", m)
	}
	if s := New("b+").ReplaceAllString("abbc", "-"); s != "a-c" {
		t.Error(s)
	}
}
