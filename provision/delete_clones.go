package provision

import (
	"context"
	"fmt"
	"os"

	"aivm.dev/aivm/gitsync"

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// discardFlag is the flag that discards work that only a VM's clones have.
const discardFlag = "--discard-work"

// clonesWork lists the work in the clones of a VM that is to be deleted; none for a VM without a
// disk. fetch: fetch what the guest committed.
func (e *Env) clonesWork(ctx context.Context, dd *deletion, o DeleteOptions, fetch bool) ([]gitsync.CloneWork, error) {
	if _, disk := domain.Disk(dd.pool, e.Key(dd.target.Name)); o.DiscardWork || !disk && dd.domain == nil {
		return nil, nil
	}
	if _, err := os.Lstat(e.State().DeletingPath(dd.target.Name)); err == nil && dd.domain == nil {
		return nil, nil
	}
	return clones.For(e.Loop).Inspect(ctx, dd.target, clones.For(e.Loop).List(dd.target), clones.WhyUnreachable(dd.domain), fetch)
}

// confirmDeletion prints what will be lost and asks the user to type the VM's name. A VM that is
// off is started first, if the user wants its commits. It returns the work that was printed.
func (e *Env) confirmDeletion(ctx context.Context, dd *deletion, o DeleteOptions) ([]gitsync.CloneWork, error) {
	name := dd.target.Name
	work, err := e.clonesWork(ctx, dd, o, true)
	if err != nil {
		return nil, err
	}
	if off := dd.domain != nil && dd.domain.State == virt.Off; off && clones.UnknownIn(work) && e.InTTY && !e.JSON && !dd.target.NewVM {
		yes, err := e.UI.Confirm(ctx, fmt.Sprintf("VM %s is off, so work that only its clones have cannot be listed. Start it to list that, and to fetch its commits?", name), true)
		if err != nil {
			return nil, err
		}
		if yes {
			if dd, work, err = e.startAndRecheck(ctx, dd, o); err != nil {
				return nil, err
			}
		}
	}
	e.printDeletion(ctx, dd, o, work)
	if !e.InTTY {
		flags := " --yes"
		if len(clones.Missed(work)) > 0 {
			flags += " " + discardFlag
		}
		return nil, ui.NeedsApproval("deleting VM %q needs its name typed and there is no terminal", name).Hint(ui.Cmd("aivm vm delete " + name + flags))
	}
	got, err := e.UI.AskLine(ctx, fmt.Sprintf("Type the VM's name to delete it permanently (%s):", name))
	if err != nil {
		return nil, err
	}
	if got != name {
		return nil, ui.NeedsApproval("%q is not the name; nothing was deleted", got)
	}
	return work, nil
}

// beginDeletion marks the deletion as confirmed, for a later run if this one is interrupted.
func (e *Env) beginDeletion(dd *deletion) {
	if len(clones.For(e.Loop).List(dd.target)) > 0 {
		_ = renameio.WriteFile(e.State().DeletingPath(dd.target.Name), nil, 0o600)
	}
}

// startAndRecheck starts a VM that is to be deleted and reads its clones again. If it does not
// start, their work stays unknown.
func (e *Env) startAndRecheck(ctx context.Context, dd *deletion, o DeleteOptions) (*deletion, []gitsync.CloneWork, error) {
	w, err := target.Recorded(dd.target.Store, dd.target.Name)
	if err == nil {
		e.Timing = ui.NewTiming("define", "boot", "ssh")
		var f *loop.Facts
		if _, f, err = e.Converge(ctx, w.Started()); err == nil {
			f.Close()
		}
	}
	if ctx.Err() != nil {
		return nil, nil, e.WithRerunHint(ctx.Err())
	}
	if err != nil {
		e.UI.Warn("%v", err)
	}
	e.Reload()
	if dd, err = e.findDeletion(ctx, dd.target.Name); err != nil {
		return nil, nil, err
	}
	work, err := e.clonesWork(ctx, dd, o, true)
	return dd, work, err
}

// recheckWork reads the clones again under the VM's lock and fetches new commits too. It refuses
// the deletion if more would be lost than the user confirmed.
func (e *Env) recheckWork(ctx context.Context, dd *deletion, o DeleteOptions, work []gitsync.CloneWork) error {
	name := dd.target.Name
	if dd.domain != nil {
		_ = os.Remove(e.State().DeletingPath(name)) // of an earlier deletion that did not finish
	}
	now, err := e.clonesWork(ctx, dd, o, true)
	if err != nil {
		return err
	}
	if o.Typed {
		e.printDeletion(ctx, dd, o, now)
	}
	lost := clones.Missed(now)
	all := ui.CmdFor("or delete it with all of this work", "aivm vm delete "+name+" --yes "+discardFlag)
	switch {
	case len(lost) == 0 || !o.Typed && clones.SameWork(work, now):
		return nil
	case !o.Typed:
		return ui.NeedsApproval("the work that only VM %s has changed after it was listed; nothing was deleted: %s", name, clones.MissedText(lost)).
			Hint(ui.CmdFor("to list it again", "aivm vm delete "+name), all)
	case clones.UnknownIn(lost) && dd.domain != nil && dd.domain.State == virt.Running:
		return ui.NeedsApproval("the work that only VM %s has cannot be listed; nothing was deleted: %s", name, clones.MissedText(lost)).
			Hint(ui.CmdFor("to check the VM", "aivm vm status "+name), all)
	case clones.UnknownIn(lost):
		return ui.NeedsApproval("the work that only VM %s has cannot be listed; nothing was deleted: %s", name, clones.MissedText(lost)).
			Hint(ui.CmdFor("start it, so that its commits can be fetched", "aivm vm up "+name), ui.CmdFor("then", "aivm vm delete "+name+" --yes"), all)
	}
	return ui.NeedsApproval("VM %s has work that exists nowhere else; nothing was deleted: %s", name, clones.MissedText(lost)).
		Hint(lost[0].KeepHints(name)...).Hint(ui.CmdFor("after committing it to a branch, delete the VM; the branch is fetched first", "aivm vm delete "+name+" --yes"), all)
}

// printDeletion prints what will be lost and what will not.
func (e *Env) printDeletion(ctx context.Context, dd *deletion, o DeleteOptions, work []gitsync.CloneWork) {
	w := dd.target
	if v, ok := domain.Disk(dd.pool, e.Key(w.Name)); ok {
		e.UI.Say("VM %s: its disk %s (%d MB used of %d GB) will be deleted permanently.", w.Name, v.Path, v.Allocation>>20, v.Capacity>>30)
		e.UI.Say("  this loses what exists only there: files in its home outside shared folders, installed programs, databases")
	}
	if dd.domain != nil {
		if f, err := domain.ObserveSnapshots(ctx, dd.conn, dd.domain, false); err == nil && len(f.Snapshots) > 0 {
			var names []string
			for _, s := range f.Snapshots {
				names = append(names, s.Name)
			}
			e.UI.Say("  its snapshots are deleted too, with commits and files that only they have: %s", ui.Some(names, 10))
		}
	}
	if open := e.OpenSessions(w.Name); len(open) > 0 {
		e.UI.Say("  this ends what is open in it: %s", ui.Some(open, 5))
	}
	for _, a := range w.Store.Config.VMAttachments(w.Name) {
		if at := share.Recorded(a); at.Mode != share.Git {
			e.UI.Say("  folder %s is not changed", a.HostPath)
		}
	}
	for _, a := range clones.For(e.Loop).List(w) {
		e.UI.Say("  repository %s is not changed; its clone %s in the VM is deleted", a.HostPath, a.GuestDst)
		for _, c := range work {
			if c.Folder == a.HostPath && c.GuestDst == a.GuestDst {
				for _, l := range c.Lines() {
					e.UI.Say("    %s", l)
				}
			}
		}
	}
	if o.DiscardWork && len(clones.For(e.Loop).List(w)) > 0 {
		e.UI.Say("    work that only the clones have is discarded without listing it (%s)", discardFlag)
	}
}

// dryDelete returns the DryRun with what would be deleted and lost; it fetches nothing.
func (e *Env) dryDelete(ctx context.Context, dd *deletion, o DeleteOptions) error {
	p, err := e.planDelete(ctx, dd, e.observeRemains(ctx, dd))
	if err != nil {
		return err
	}
	d := e.Dry("delete", dd.target.Name, p)
	if d.Clones, err = e.clonesWork(ctx, dd, o, false); err != nil {
		return err
	}
	return d
}
