package snapshots

import (
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop/looptest"
)

// A running VM is stopped first, with its own consent, but only if there is something to do.
func TestPlanOnDisk(t *testing.T) {
	e := For(looptest.New(t).Loop)
	what := []plan.Action{{ID: "snapshot.create"}}
	for _, tc := range []struct {
		state virt.State
		as    []plan.Action
		want  string
	}{
		{virt.Off, nil, ""},
		{virt.Running, nil, ""},
		{virt.Off, what, "snapshot.create"},
		{virt.Running, what, "domain.shutdown snapshot.create"},
	} {
		p := e.PlanOnDisk(t.Context(), &virt.Domain{Name: "t", State: tc.state}, nil, tc.as)
		var got []string
		for _, a := range p.Actions {
			got = append(got, a.ID)
			if a.ID == "domain.shutdown" && (a.Consent != plan.Ask || !strings.Contains(a.Why, "not in use")) {
				t.Errorf("%+v", a)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v, not %s", tc.state, got, tc.want)
		}
	}
}

func TestPlanForgetBrowser(t *testing.T) {
	e := For(looptest.New(t).Loop)
	if e.hasBrowserAddress("t") {
		t.Error("there is an address although no browser was opened")
	}
	as := e.planForgetBrowserAddress("t")
	if len(as) != 1 || as[0].ID != "browser.forget" || as[0].Shows[0] != "rm "+e.State().BrowserPath("t") {
		t.Fatalf("%+v", as)
	}
	if err := as[0].Do(t.Context()); err != nil {
		t.Errorf("already removed: %v", err)
	}
}
