package host

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// shellValue quotes a value for os-release(5), with a backslash before characters that are special
// to a shell.
func shellValue(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}

// FuzzOSRelease checks that a distribution's values are read as a shell would read them, and that
// any content gives a family of packages or none.
func FuzzOSRelease(f *testing.F) {
	f.Add([]byte("ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='Debian GNU/Linux 12'\n#ID=x\n"), "Debian \"12\" $x")
	f.Add([]byte("ID=\"ubuntu\"\r\nID_LIKE=debian\r\n"), "`x` \\")
	f.Add([]byte("ID=fedora\nVERSION_ID=NaN\n"), "'")
	f.Add([]byte("HOME_URL="+strings.Repeat("x", 70_000)+"\nID=arch\n"), "")
	f.Fuzz(func(t *testing.T, text []byte, value string) {
		o := parseOSRelease(text)
		if _, v := lineage(o); math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			t.Errorf("version %v of %+v", v, o)
		}
		for _, v := range []string{o.ID, o.Version, o.Codename, o.Name} {
			if strings.ContainsAny(v, "\n") {
				t.Errorf("%q contains a line break", v)
			}
		}
		if strings.ContainsAny(value, "\n\r\x00") {
			return
		}
		got := parseOSRelease([]byte("ANSI_COLOR=" + strings.Repeat("1", len(text)) + "\nPRETTY_NAME=" + shellValue(value) + "\nID=x"))
		if got.Name != value || got.ID != "x" {
			t.Errorf("%q is read as %q, %q", value, got.Name, got.ID)
		}
	})
}

// FuzzNftRules checks that parsing terminates on any rules, also on circular jumps, and that
// blocked returns only existing chains with the policy drop.
func FuzzNftRules(f *testing.F) {
	f.Add([]byte(`{"nftables":[{"metainfo":{}},{"table":{"family":"ip","name":"filter"}},{"chain":{"family":"ip","table":"filter","name":"FORWARD","hook":"forward","policy":"drop"}},`+
		`{"chain":{"family":"ip","table":"filter","name":"DOCKER-USER"}},{"rule":{"family":"ip","table":"filter","chain":"FORWARD","expr":[{"jump":{"target":"DOCKER-USER"}}]}},`+
		`{"rule":{"family":"ip","table":"filter","chain":"DOCKER-USER","expr":[{"jump":{"target":"FORWARD"}},{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"virbr*"}}]}}]}`), "virbr-aivm")
	f.Add([]byte(`{"nftables":[{"rule":{"expr":null}},{"chain":{"hook":"input","policy":"drop","family":"inet"}}]}`), "b")
	f.Fuzz(func(t *testing.T, b []byte, bridge string) {
		r, err := parseRuleset(b)
		if err != nil {
			if json.Valid(b) && strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q", err)
			}
			return
		}
		for _, c := range r.blocked(bridge) {
			if c.Policy != "drop" || c.Hook != "forward" && c.Hook != "input" {
				t.Errorf("%+v does not drop packets", c)
			}
			if r.owner(c) == "" {
				t.Errorf("%+v has no owner", c)
			}
		}
	})
}
