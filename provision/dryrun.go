package provision

import (
	"errors"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
)

// errDry ends a verb after a dry run; cmd takes it for success.
var errDry = errors.New("dry run")

// IsDry reports whether a verb ended because it was only a dry run.
func IsDry(err error) bool { return errors.Is(err, errDry) }

// printDry shows what would be done and changes nothing.
func (e *Env) printDry(w *want, f *facts, p plan.Plan) error {
	p.Actions = append(slices.Clone(w.first.Actions), p.Actions...)
	g := plan.Plan{Stage: plan.Guest}
	if f.guest.share.Mounts != nil || f.guest.boot.Installed {
		if seen, err := e.planGuest(w, f); err == nil {
			g = seen
		}
	} else {
		for _, s := range e.later(w) {
			g.Add(plan.Action{ID: "guest.mount", Why: s})
		}
	}
	d := plan.Dry{Schema: 1, Verb: e.Verb, VM: w.name, Asks: len(e.Approval.Open(p)) > 0, Stages: plan.Describe(p, g)}
	then := ""
	if w.folder != nil {
		d.Folder, d.GuestDst = w.folder.HostPath, w.openAt
		switch e.Verb {
		case "code":
			if r, err := editor.NewRecipe(w.name, w.openAt, w.record.VM.User); err == nil {
				d.Then = r.Command
			}
			name := "VS Code"
			if w.editor != nil && w.editor.Editor.ID != "code" {
				name = w.editor.Editor.Name
				to := editor.Target{Alias: w.name, Path: w.openAt, User: w.record.VM.User}
				if args, err := editor.OpenArgs(*w.editor, to); err == nil {
					d.Then = shellLine(append([]string{w.editor.Editor.Commands[0]}, args...))
				}
			}
			then = "DRYRUN: would open " + w.openAt + " in " + name + " via host " + w.name
		case "ssh":
			d.Then = "ssh -t " + w.name
			then = "DRYRUN: would open a shell in " + w.openAt + " via host " + w.name
		}
	}
	if e.UI.JSON {
		if err := e.UI.PrintJSON(d); err != nil {
			return err
		}
		return errDry
	}
	if p.Empty() && g.Empty() {
		e.UI.Result("Nothing would change.")
	}
	if p.Empty() && !g.Empty() {
		e.UI.Result("%s", strings.Replace(plan.Text(g, nil), "aivm will:", "aivm would:", 1))
	}
	if !p.Empty() {
		var later []string
		for _, a := range g.Actions {
			later = append(later, a.Why)
		}
		e.UI.Result("%s", strings.Replace(plan.Text(p, later), "aivm will:", "aivm would:", 1))
	}
	if then != "" {
		e.UI.Result("%s", then)
	}
	return errDry
}
