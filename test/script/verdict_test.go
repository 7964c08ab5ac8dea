package script

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdVerdict checks the state of a check in the last command's JSON, and that its detail, fixes and
// evidence match a pattern: verdict ID STATE [PATTERN].
func cmdVerdict(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: verdict ID STATE [PATTERN]")
	}
	var st struct {
		Checks []struct {
			ID, State, Detail string
			Fix, Evidence     []string
		}
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &st))
	for _, c := range st.Checks {
		if c.ID != args[0] {
			continue
		}
		text := c.Detail + "\nfix: " + strings.Join(c.Fix, "\nfix: ") + "\nseen: " + strings.Join(c.Evidence, "\nseen: ")
		if c.State != args[1] {
			ts.Fatalf("%s is %s, want %s\n%s", c.ID, c.State, args[1], text)
		}
		if len(args) > 2 && !regexp.MustCompile(args[2]).MatchString(text) {
			ts.Fatalf("%s does not match %q:\n%s", c.ID, args[2], text)
		}
		return
	}
	ts.Fatalf("stdout has no check %q", args[0])
}
