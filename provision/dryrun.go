package provision

import (
	"slices"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

// dry returns the DryRun of a verb about a VM or folder; first is a plan to show before p.
func (e *Env) dry(w *target.Target, f *loop.Facts, first, p plan.Plan) error {
	p.Actions = append(slices.Clone(first.Actions), p.Actions...)
	g := plan.Plan{Stage: plan.Guest}
	if f.Guest.Share.Mounts != nil || f.Guest.Boot.Installed {
		if p, err := e.planGuest(w, f); err == nil {
			g = p
		}
	} else {
		for _, s := range e.laterSteps(w, f) {
			g.Add(plan.Action{ID: "guest.mount", Why: s})
		}
	}
	d := &session.DryRun{
		Dry:  plan.Dry{Schema: 1, Verb: e.Verb, VM: w.Name, NeedsConsent: len(e.Approval.Open(p)) > 0, Stages: plan.Describe(p, g)},
		Host: p, Guest: g,
	}
	if w.Folder != nil {
		d.Folder, d.GuestDst = w.Folder.HostPath, w.OpenAt
		switch e.Verb {
		case "code":
			if r, err := editor.NewRecipe(w.Name, w.OpenAt, w.Record.VM.User); err == nil {
				d.Then = r.Command
			}
			name := "VS Code"
			if w.Editor != nil && w.Editor.Editor.ID != "code" {
				name = w.Editor.Editor.Name
				to := editor.Target{Alias: w.Name, Path: w.OpenAt, User: w.Record.VM.User}
				if args, err := editor.OpenArgs(*w.Editor, to); err == nil {
					d.Then = session.ShellLine(append([]string{w.Editor.Editor.Commands[0]}, args...))
				}
			}
			d.Last = "DRYRUN: would open " + w.OpenAt + " in " + name + " via host " + w.Name
			if w.Editor == nil {
				d.Last = "DRYRUN: would print how to open " + w.OpenAt + " via host " + w.Name + "; no editor is started"
			}
		case "ssh":
			d.Then = "ssh -t " + w.Name
			d.Last = "DRYRUN: would open a shell in " + w.OpenAt + " via host " + w.Name
		}
	}
	return d
}
