package firewall

import (
	"net/netip"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/wall"
)

// FuzzCutOffs checks that following a guest's packets terminates on any rules, also on circular
// jumps, and that each reported chain has a rule that drops, or a policy that does.
func FuzzCutOffs(f *testing.F) {
	chain := func(name, rest string) string {
		return `{"chain":{"family":"ip","table":"filter","name":"` + name + `"` + rest + `}}`
	}
	rule := func(in, expr string) string {
		return `{"rule":{"family":"ip","table":"filter","chain":"` + in + `","expr":[` + expr + `]}}`
	}
	all := func(parts ...string) []byte { return []byte(`{"nftables":[` + strings.Join(parts, ",") + `]}`) }
	f.Add(all(chain("FORWARD", `,"hook":"forward","policy":"drop"`), chain("DOCKER-USER", ""), rule("FORWARD", `{"jump":{"target":"DOCKER-USER"}}`), rule("DOCKER-USER", `{"return":null}`)))
	f.Add(all(chain("INPUT", `,"hook":"input","policy":"accept"`), rule("INPUT", `{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":{"set":[53,{"range":[60,70]}]}}},{"reject":null}`)))
	f.Add(all(chain("a", `,"hook":"forward","policy":"accept"`), rule("a", `{"goto":{"target":"b"}}`), rule("b", `{"jump":{"target":"a"}}`), rule("b", `{"jump":{"target":"b"}}`), rule("b", `{"jump":{"target":"a"}},{"jump":{"target":"b"}}`)))
	f.Add(all(chain("a", `,"hook":"forward"`), rule("a", `{"match":{"op":"!=","left":{"ct":{"key":"state"}},"right":["new","established"]}},{"drop":null}`), rule("a", `{"vmap":{"key":1}},{"xt":{"type":"target","name":"X"}}`)))
	w := wall.Wall{Network: "net", Prefix: "aivm", Bridge: "virbr-aivm", Subnet: netip.MustParsePrefix("10.77.0.0/24"), Gateway: netip.MustParseAddr("10.77.0.1")}
	f.Fuzz(func(t *testing.T, b []byte) {
		cuts, err := CutOffs(b, w, "eth0")
		if err != nil {
			return
		}
		rs, err := readRuleset(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cuts {
			if !strings.Contains(string(b), `drop`) && !strings.Contains(string(b), `reject`) && !strings.Contains(string(b), `\u`) {
				t.Errorf("%+v: nothing drops in these rules", c)
			}
			if c.Fix == "" || len(rs.base) == 0 {
				t.Errorf("%+v", c)
			}
		}
		if len(cuts) > 4*len(rs.base) {
			t.Errorf("%d cut-offs by %d chains", len(cuts), len(rs.base))
		}
	})
}
