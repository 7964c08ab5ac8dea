package clones

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// TestPlanGuest checks the plan for each relation of the two repositories.
func TestPlanGuest(t *testing.T) {
	const a, b, c = "aaaa", "bbbb", "cccc"
	at := func(oid string) gitsync.Guest {
		return gitsync.Guest{State: gitsync.Clone, Head: "main", Marked: "main", Heads: map[string]string{"main": oid}}
	}
	seen := func(oid string, ahead, behind int) gitsync.Host {
		return gitsync.Host{Branch: "main", Head: b, Heads: map[string]string{"main": b}, Tracked: map[string]string{"main": oid}, Ahead: ahead, Behind: behind}
	}
	broken := errors.New("in a rebase")
	other := at(b)
	other.Head, other.Marked = "old", "old"
	for name, k := range map[string]struct {
		want    target.Clone
		is      loop.Clone
		isNew   bool
		plans   string
		refused error
	}{
		"new":                          {want: target.Clone{Push: true, Fetch: true}, is: loop.Clone{Host: plan.Yes(seen("", 0, 0)), Guest: gitsync.Guest{State: "absent"}}, isNew: true, plans: "git.init git.push"},
		"the same":                     {want: target.Clone{Push: true, Fetch: true}, is: loop.Clone{Host: plan.Yes(seen(b, 0, 0)), Guest: at(b)}},
		"commits here":                 {want: target.Clone{Push: true, Fetch: true}, is: loop.Clone{Host: plan.Yes(seen(a, 1, 0)), Guest: at(a)}, plans: "git.push"},
		"commits here, only fetched":   {want: target.Clone{Fetch: true}, is: loop.Clone{Host: plan.Yes(seen(a, 1, 0)), Guest: at(a)}},
		"commits there":                {want: target.Clone{Fetch: true}, is: loop.Clone{Host: plan.Yes(seen(a, 1, 0)), Guest: at(c)}, plans: "git.fetch"},
		"commits there, only pushed":   {want: target.Clone{Push: true}, is: loop.Clone{Host: plan.Yes(seen(a, 1, 0)), Guest: at(c)}, plans: "git.fetch git.push"},
		"another branch there":         {want: target.Clone{Push: true}, is: loop.Clone{Host: plan.Yes(seen(b, 0, 0)), Guest: other}, plans: "git.switch"},
		"uncommitted files":            {want: target.Clone{Push: true, Wip: true}, is: loop.Clone{Host: plan.Yes(seen(b, 0, 0)), Guest: at(b)}, plans: "git.wip"},
		"as it was":                    {want: target.Clone{Push: true}, is: loop.Clone{Unchanged: true, Guest: at(b)}},
		"no branch here":               {want: target.Clone{Push: true}, is: loop.Clone{Host: plan.Unknown[gitsync.Host](broken), Guest: at(b)}},
		"no branch here, but pushed":   {want: target.Clone{Push: true, Strict: true}, is: loop.Clone{Host: plan.Unknown[gitsync.Host](broken), Guest: at(b)}, refused: broken},
		"no branch here, no clone yet": {want: target.Clone{Push: true}, is: loop.Clone{Host: plan.Unknown[gitsync.Host](broken), Guest: gitsync.Guest{State: "absent"}}, refused: broken},
	} {
		t.Run(name, func(t *testing.T) {
			w := &target.Target{Name: "t", NewFolder: k.isNew, Folder: &share.Attachment{HostPath: "/r", VM: "t", Mode: share.Git, GuestDst: "/home/agent/r", Tag: "x"}}
			w = w.WithClone(k.want)
			is := k.is
			f := &loop.Facts{Progress: loop.Progress{Clone: &is}}
			as, err := For(looptest.New(t).Loop).PlanGuest(w, f)
			if !errors.Is(err, k.refused) {
				t.Fatal(err)
			}
			var ids []string
			for _, p := range as {
				ids = append(ids, strings.TrimSuffix(p.ID, ":x"))
			}
			if got := strings.Join(ids, " "); got != k.plans {
				t.Errorf("planned %q", got)
			}
			if !reflect.DeepEqual(is, k.is) {
				t.Errorf("planning changed the facts: %+v", is)
			}
		})
	}
}
