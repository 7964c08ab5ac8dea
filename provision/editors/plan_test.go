package editors

import (
	"strings"
	"testing"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/codeserver"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/target"
)

func TestPlans(t *testing.T) {
	e := For(looptest.New(t).Loop)
	if as := PlanServer(nil); as != nil {
		t.Errorf("%+v", as)
	}
	as := PlanServer(&codeserver.Source{Dir: "/cache", Release: "https://r"})
	if len(as) != 1 || as[0].ID != "code-server.fetch" || as[0].Consent != plan.Ask || as[0].Shows[0] != "fetch https://r" || !strings.HasPrefix(as[0].Shows[2], "write /cache/") {
		t.Errorf("%+v", as)
	}
	if as := e.PlanExtension(nil); as != nil {
		t.Errorf("%+v", as)
	}
	as = e.PlanExtension(&editor.Found{Editor: editor.Editor{Name: "E", Extension: "x.y"}, Argv: []string{"/bin/e"}})
	if len(as) != 1 || as[0].ID != "editor.extension" || as[0].Consent != plan.Ask || as[0].Shows[0] != "/bin/e --install-extension x.y" {
		t.Errorf("%+v", as)
	}
}

// MissingServer checks the cache only if the target needs code-server.
func TestMissingServer(t *testing.T) {
	e := For(looptest.New(t).Loop)
	if src := e.MissingServer(&target.Target{}); src != nil {
		t.Errorf("missing although not needed: %+v", src)
	}
	w := (&target.Target{}).OpenedIn(nil, true)
	if src := e.MissingServer(w); src == nil || src.Cached() {
		t.Errorf("%+v", src)
	}
}
