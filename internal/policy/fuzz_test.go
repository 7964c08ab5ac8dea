package policy

import "testing"

// FuzzParse checks the parsers of ports, networks and endpoints: whatever they accept is
// formatted and parsed again without a change.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"443", "8000-8100", "10.1.2.3:5432", "10.1.2.0/24:8000-8100", "[fd00::5]:443", "10.1.2.3:53/udp", "10.0.0.0/8", "::ffff:1.2.3.4", "fe80::1%eth0", "0-1", "1.2.3.4/33:1", "[1.2.3.4]:5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePorts("tcp", s); err == nil {
			if again, err := ParsePorts("tcp", p.String()); err != nil || again != p {
				t.Errorf("%q is %+v, then %+v: %v", s, p, again, err)
			}
		}
		if p, err := ParseNet(s); err == nil {
			if again, err := ParseNet(p.String()); err != nil || again != p || !Usable(p) {
				t.Errorf("%q is %v, then %v: %v", s, p, again, err)
			}
		}
		if e, err := ParseEndpoint(s); err == nil {
			if again, err := ParseEndpoint(e.String()); err != nil || again != e {
				t.Errorf("%q is %v, then %v: %v", s, e, again, err)
			}
		}
	})
}
