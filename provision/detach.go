package provision

import (
	"context"
	"errors"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
)

// DetachResult is what `detach --json` prints.
type DetachResult struct {
	Schema  int    `json:"schema"`
	VM      string `json:"vm,omitempty"`
	Folder  string `json:"folder"`
	Mode    string `json:"mode,omitempty"`
	State   string `json:"state"` // "detached", "detaching", "none"
	Changed bool   `json:"changed"`
	// Special are device nodes, setuid and setgid files that appeared in it.
	Special []folders.SpecialFile `json:"special,omitempty"`
	// Clone is what is known of the clone of a folder in git mode.
	Clone *clones.Work `json:"clone,omitempty"`
}

// Detach takes a folder away from a VM. The folder may be gone, the VM stopped,
// deleted or dead: what counts is that nothing of the folder is mounted for the
// VM any more. The folder itself is not touched.
func (e *Env) Detach(ctx context.Context, o folders.DetachOptions) error {
	e.Timing = ui.NewTiming("share", "ssh")
	l, err := folders.For(e.Loop).LookForDetach(ctx, o)
	if err != nil {
		return e.saidNone(err)
	}
	if l.Rec {
		if err := config.CheckWritable(e.StorePath); err != nil {
			return err
		}
	}
	var clone *clones.Work
	if l.Rec {
		if clone, err = clones.For(e.Loop).BeforeLeaving(ctx, l.W, l.Att); err != nil {
			return err
		}
	}
	if !e.DryRun {
		release, _, err := e.Lock(ctx, l.W.Name)
		if err != nil {
			return err
		}
		defer release()
		// Another run may have changed it while this one waited.
		if l, err = folders.For(e.Loop).LookForDetach(ctx, o); err != nil {
			return e.saidNone(err)
		}
	}
	f, err := folders.For(e.Loop).ObserveLeaving(ctx, l)
	if err != nil {
		return err
	}
	defer f.Close()
	var unremote []plan.Action
	if l.Rec {
		unremote = clones.PlanRemoveRemote(l.Att, plan.None)
	}
	p := folders.For(e.Loop).PlanDetach(l, f, unremote)
	if e.DryRun {
		var work []clones.Work
		if clone != nil {
			work = append(work, *clone)
		}
		if err := e.printWork("detach", l.W.Name, p, work); err != nil {
			return err
		}
		return session.ErrDry
	}
	attached := e.State().AttachedAt(l.Att)
	if _, err = e.Run(ctx, p); err != nil {
		err = folders.For(e.Loop).UnbindAgain(ctx, l, f, p, err)
	}
	if err != nil {
		if err := folders.For(e.Loop).StaysAttached(ctx, l, f, o, err); err != nil {
			return err
		}
		return e.saidDetached(l, clone, "detaching")
	}
	if f.Asks() {
		// What lay below it in the guest, and was let go of with it, comes back.
		if err := e.GuestStage(ctx, l.W, f); err != nil {
			e.WarnOnce(err.Error())
		}
	}
	if l.Att.Exposes() {
		l.Special = folders.For(e.Loop).SearchDetached(ctx, l.Att, attached)
	}
	return e.saidDetached(l, clone, "detached")
}

// saidNone says that there was nothing to detach; any other error it returns.
func (e *Env) saidNone(err error) error {
	var none *folders.NotAttachedError
	if !errors.As(err, &none) {
		return err
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(DetachResult{Schema: 1, VM: none.Vm, Folder: none.Folder, State: "none"})
	}
	on := ""
	if none.Vm != "" {
		on = " on VM " + none.Vm
	}
	e.UI.Result("No attachment found for %s%s. Nothing to do.", ui.Clean(none.Folder), on)
	return nil
}

func (e *Env) saidDetached(l *folders.Leaving, clone *clones.Work, state string) error {
	a := l.Att
	if e.UI.JSON {
		return e.UI.PrintJSON(DetachResult{
			Schema: 1, VM: l.W.Name, Folder: a.HostPath, Mode: string(a.Mode), State: state, Changed: true, Special: l.Special, Clone: clone,
		})
	}
	if state == "detaching" {
		e.UI.Result("Detaching %s from VM %s (%s mode): it is in use, and what runs in the VM may read on until the VM stops", a.HostPath, l.W.Name, a.Mode)
		e.UI.Say("to finish it: aivm vm down %s", l.W.Name)
		return nil
	}
	e.UI.Result("Detached %s from VM %s (%s mode)", a.HostPath, l.W.Name, a.Mode)
	if a.Mode == share.Git {
		clones.For(e.Loop).SayStays(a, clone)
	}
	return nil
}
