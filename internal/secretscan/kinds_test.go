package secretscan

import "testing"

// TestRules: each rule of gitleaks has a kind, keywords of two bytes or more, and an expression that
// compiles; kinds.go names no rule that does not exist.
func TestRules(t *testing.T) {
	rules := append(shapeRules(), gitleaksRules()...)
	named := 0
	for _, r := range rules {
		if r.kind == "" || len(r.keywords) == 0 {
			t.Errorf("%+v has no kind or no keyword", r)
		}
		for _, k := range r.keywords {
			if len(k) < 2 || k != lowerASCII(k) {
				t.Errorf("%s: keyword %q", r.kind, k)
			}
		}
		r.re.MatchString("")
		if r.named != nil {
			named++
			r.named.MatchString("")
			if n := r.reach(); n < 40 || n > reachAfter {
				t.Errorf("%s: a match of %d bytes", r.kind, n)
			}
		}
		for _, a := range r.allow {
			for _, re := range a.res {
				re.MatchString("")
			}
		}
	}
	if len(rules) < 280 || named < 100 || len(kinds()) != 222 {
		t.Errorf("%d rules, %d about what is assigned to a name, %d kinds", len(rules), named, len(kinds()))
	}
}
