package wall

import (
	"encoding/json"
	"net/netip"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// FuzzWall checks that the rules of every policy that passes Check touch only the tables
// of its network and contain no injected statements, and that a policy survives JSON
// encoding. One in sixteen scripts is checked by nft itself.
func FuzzWall(f *testing.F) {
	good := Wall{Network: "aivm-net", Prefix: "aivm", Bridge: "virbr-aivm", Subnet: netip.MustParsePrefix("10.77.0.0/24"), Gateway: netip.MustParseAddr("10.77.0.1")}
	good = good.With("52:54:00:01:02:03", netip.MustParseAddr("10.77.0.50"))
	good, _ = good.OnPort("52:54:00:01:02:03", "vnet7")
	good.Block = []netip.Prefix{netip.MustParsePrefix("8.8.8.0/24"), netip.MustParsePrefix("fd00::/8")}
	good.Ports = []Ports{{Proto: "udp", First: 53, Last: 54}}
	good.LAN = []Endpoint{{Net: netip.MustParsePrefix("10.1.2.3/32"), Ports: Ports{Proto: "tcp", First: 5432, Last: 5432}}, {Net: netip.MustParsePrefix("fd00::5/128"), Ports: Ports{Proto: "udp", First: 1, Last: 2}}}
	b, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, 1)
	f.Add([]byte(strings.ReplaceAll(string(b), "virbr-aivm", `x\"; flush ruleset; \"`)), 1)
	f.Add([]byte(strings.ReplaceAll(string(b), "aivm-net", "a.b-c")), 16)
	nft, nftErr := exec.LookPath("nft")
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		var w Wall
		if json.Unmarshal(b, &w) != nil || w.Check() != nil {
			return
		}
		script := Script(w, nil)
		for line := range strings.Lines(script) {
			l := strings.TrimSpace(line)
			if f := strings.Fields(l); len(f) > 1 && (f[0] == "table" || f[1] == "table") && !strings.Contains(l, w.Table()) {
				t.Errorf("another table: %q", l)
			}
			if strings.HasPrefix(l, "flush ruleset") || strings.HasPrefix(l, "include") || strings.HasPrefix(l, "delete ") && !strings.HasPrefix(l, "delete table ") {
				t.Errorf("%q", l)
			}
		}
		out, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		var back Wall
		if err := json.Unmarshal(out, &back); err != nil || !back.Same(w) || back.Check() != nil {
			t.Errorf("%+v became %+v: %v", w, back, err)
		}
		if w.Without("52:54:00:01:02:03").Check() != nil {
			t.Error("the policy is invalid after a guest is removed")
		}
		if reflect.DeepEqual(w, good) || n&15 == 0 {
			if nftErr != nil {
				t.Fatal(nftErr)
			}
			c := exec.Command(nft, "-c", "-f", "-")
			c.Stdin = strings.NewReader(script)
			if out, err := c.CombinedOutput(); err != nil && !strings.Contains(string(out), "Operation not permitted") {
				t.Errorf("nft refuses the script: %v\n%s\n%s", err, out, script)
			}
		}
	})
}
