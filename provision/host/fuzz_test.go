package host

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// shellValue writes a value as os-release(5) has it: quoted, with a backslash
// before what a shell would take for more than itself.
func shellValue(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}

// FuzzOSRelease: what a distribution says of itself is read as a shell would,
// and whatever stands there gives a family of packages, or none.
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
				t.Errorf("%q goes over a line", v)
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

// FuzzNftRules: rules of anybody's are read to their end, circles of jumps too,
// and a chain is accused only if it is there and drops by its policy.
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
				t.Errorf("%+v is accused", c)
			}
			if r.owner(c) == "" {
				t.Errorf("%+v is nobody's", c)
			}
		}
	})
}
