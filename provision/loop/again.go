package loop

import (
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// StartAgain describes what a verb that stopped w's VM does at its end, for the plan that is shown
// (Job.Follow). Converge does it.
func StartAgain(w *target.Target) []plan.Action {
	as := []plan.Action{
		{ID: "domain.start", Why: "start VM " + w.Name + " again", Shows: []string{"virsh start " + w.Name}},
		{ID: "guest.wait", Why: "wait until VM " + w.Name + " answers"},
	}
	if paths := GuestPaths(w.Others()); len(paths) > 0 {
		as = append(as, plan.Action{ID: "guest.mount", Why: "mount its folders in the guest again: " + ui.Some(paths, 5)})
	}
	return as
}

// GuestPaths returns where folders are in the guest.
func GuestPaths(atts []share.Attachment) []string {
	out := make([]string, 0, len(atts))
	for _, a := range atts {
		out = append(out, a.GuestDst)
	}
	return out
}
