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

// discard is the flag that gives up what only a VM's clones have.
const discard = "--discard-work"

// work is LookAt for a VM that is to be deleted. One without a disk has
// no clones.
func (e *Env) clonesWork(ctx context.Context, dd *deletion, o DeleteOptions, fetch bool) ([]gitsync.CloneWork, error) {
	if _, disk := domain.Disk(dd.pool, e.Key(dd.w.Name)); o.DiscardWork || !disk && dd.domain == nil {
		return nil, nil
	}
	if _, err := os.Lstat(e.State().DeletingPath(dd.w.Name)); err == nil && dd.domain == nil {
		return nil, nil
	}
	return clones.For(e.Loop).Inspect(ctx, dd.w, clones.For(e.Loop).List(dd.w), clones.WhyUnreachable(dd.domain), fetch)
}

// askForDeletion says what will be lost and has the VM's name typed. A VM that
// is off is started first, if the person wants its commits.
func (e *Env) askForDeletion(ctx context.Context, dd *deletion, o DeleteOptions) ([]gitsync.CloneWork, error) {
	name := dd.w.Name
	seen, err := e.clonesWork(ctx, dd, o, true)
	if err != nil {
		return nil, err
	}
	if off := dd.domain != nil && dd.domain.State == virt.Off; off && clones.UnknownIn(seen) && e.InTTY && !e.JSON && !dd.w.NewVM {
		yes, err := e.UI.Confirm(ctx, fmt.Sprintf("VM %s is off, so what only its clones have cannot be known. Start it to see, and to fetch what was committed?", name), true)
		if err != nil {
			return nil, err
		}
		if yes {
			if dd, seen, err = e.startAndRecheck(ctx, dd, o); err != nil {
				return nil, err
			}
		}
	}
	e.printDeletion(ctx, dd, o, seen)
	if !e.InTTY {
		flags := " --yes"
		if len(clones.Missed(seen)) > 0 {
			flags += " " + discard
		}
		return nil, ui.NeedsApproval("deleting VM %q needs its name typed and there is no terminal", name).Hint(ui.Cmd("aivm vm delete " + name + flags))
	}
	got, err := e.UI.AskLine(ctx, fmt.Sprintf("Type the VM's name to delete it for good (%s):", name))
	if err != nil {
		return nil, err
	}
	if got != name {
		return nil, ui.NeedsApproval("%q is not the name; nothing was deleted", got)
	}
	return seen, nil
}

// beginDeletion notes that what follows was agreed to.
func (e *Env) beginDeletion(dd *deletion) {
	if len(clones.For(e.Loop).List(dd.w)) > 0 {
		_ = renameio.WriteFile(e.State().DeletingPath(dd.w.Name), nil, 0o600)
	}
}

// startToSee starts a VM that is to be deleted and looks again. One that does
// not start stays unknown.
func (e *Env) startAndRecheck(ctx context.Context, dd *deletion, o DeleteOptions) (*deletion, []gitsync.CloneWork, error) {
	w, err := target.Recorded(dd.w.Store, dd.w.Name)
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
	if dd, err = e.findDeletion(ctx, dd.w.Name); err != nil {
		return nil, nil, err
	}
	seen, err := e.clonesWork(ctx, dd, o, true)
	return dd, seen, err
}

// lastLook asks again under the VM's lock: what the guest committed meanwhile is
// fetched too, and what nobody agreed to lose keeps the VM.
func (e *Env) recheckWork(ctx context.Context, dd *deletion, o DeleteOptions, seen []gitsync.CloneWork) error {
	name := dd.w.Name
	if dd.domain != nil {
		_ = os.Remove(e.State().DeletingPath(name)) // of a deletion the VM has outlived
	}
	now, err := e.clonesWork(ctx, dd, o, true)
	if err != nil {
		return err
	}
	if o.Typed {
		e.printDeletion(ctx, dd, o, now)
	}
	lost := clones.Missed(now)
	all := ui.CmdFor("or delete it with all of that", "aivm vm delete "+name+" --yes "+discard)
	switch {
	case len(lost) == 0 || !o.Typed && clones.SameWork(seen, now):
		return nil
	case !o.Typed:
		return ui.NeedsApproval("what only VM %s has changed after it was named, and nothing was deleted: %s", name, clones.MissedText(lost)).
			Hint(ui.CmdFor("see it again", "aivm vm delete "+name), all)
	case clones.UnknownIn(lost) && dd.domain != nil && dd.domain.State == virt.Running:
		return ui.NeedsApproval("what only VM %s has cannot be known, and nothing was deleted: %s", name, clones.MissedText(lost)).
			Hint(ui.CmdFor("look at it", "aivm vm status "+name), all)
	case clones.UnknownIn(lost):
		return ui.NeedsApproval("what only VM %s has cannot be known, and nothing was deleted: %s", name, clones.MissedText(lost)).
			Hint(ui.CmdFor("start it, and what it committed is fetched", "aivm vm up "+name), ui.CmdFor("then", "aivm vm delete "+name+" --yes"), all)
	}
	return ui.NeedsApproval("VM %s has work that is nowhere else, and nothing was deleted: %s", name, clones.MissedText(lost)).
		Hint(lost[0].KeepHints(name)...).Hint(ui.CmdFor("what is in a branch is fetched first", "aivm vm delete "+name+" --yes"), all)
}

// sayDeletion names what will be lost and what will not.
func (e *Env) printDeletion(ctx context.Context, dd *deletion, o DeleteOptions, seen []gitsync.CloneWork) {
	w := dd.w
	if v, ok := domain.Disk(dd.pool, e.Key(w.Name)); ok {
		e.UI.Say("VM %s: its disk %s (%d MB used of %d GB) will be deleted for good.", w.Name, v.Path, v.Allocation>>20, v.Capacity>>30)
		e.UI.Say("  with it goes what is nowhere else: files in its home that are in no shared folder, what was installed, databases")
	}
	if dd.domain != nil {
		if f, err := domain.ObserveSnapshots(ctx, dd.conn, dd.domain, false); err == nil && len(f.Snapshots) > 0 {
			var names []string
			for _, s := range f.Snapshots {
				names = append(names, s.Name)
			}
			e.UI.Say("  its snapshots go too, with the commits and files only they have: %s", ui.Some(names, 10))
		}
	}
	for _, a := range w.Store.Config.VMAttachments(w.Name) {
		if at := share.Recorded(a); at.Mode != share.Git {
			e.UI.Say("  the folder %s stays as it is", a.HostPath)
		}
	}
	for _, a := range clones.For(e.Loop).List(w) {
		e.UI.Say("  the repository %s stays as it is; its clone %s in the VM goes", a.HostPath, a.GuestDst)
		for _, c := range seen {
			if c.Folder == a.HostPath && c.GuestDst == a.GuestDst {
				for _, l := range c.Lines() {
					e.UI.Say("    %s", l)
				}
			}
		}
	}
	if o.DiscardWork && len(clones.For(e.Loop).List(w)) > 0 {
		e.UI.Say("    what only the clones have is given up unseen (%s)", discard)
	}
}

// dryDelete is what would be deleted and lost; nothing is fetched.
func (e *Env) dryDelete(ctx context.Context, dd *deletion, o DeleteOptions) error {
	p, err := e.planDelete(ctx, dd, e.observeRemains(ctx, dd))
	if err != nil {
		return err
	}
	d := e.Dry("delete", dd.w.Name, p)
	if d.Clones, err = e.clonesWork(ctx, dd, o, false); err != nil {
		return err
	}
	return d
}
