package folders

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// skipNotes returns the warnings about recorded folders that a run continues
// without, each followed by its hints.
func skipNotes(skipped loop.Skipped) []string {
	var out []string
	for _, folder := range slices.Sorted(maps.Keys(skipped)) {
		why := skipped[folder]
		if errors.Is(why, fs.ErrNotExist) {
			out = append(out, fmt.Sprintf("Skipping saved attachment %s: host path is missing", folder))
			continue
		}
		out = append(out, fmt.Sprintf("Skipping saved attachment %s: %v", folder, why))
		var ue *ui.Error
		if errors.As(why, &ue) {
			for _, h := range ue.HintLines() {
				out = append(out, "  "+h)
			}
		}
	}
	return out
}

// leaveOut removes recorded folders from the facts and warns about each; the run
// continues without them.
func (e Part) leaveOut(f *loop.Facts, skipped loop.Skipped) {
	f.Skip(skipped)
	for _, s := range skipNotes(skipped) {
		e.WarnOnce(s)
	}
}

// skip removes recorded folders from the plan and adds a warning for each.
func (p *Planned) skip(skipped loop.Skipped) {
	p.Skipped = p.Skipped.With(skipped)
	for _, s := range skipNotes(skipped) {
		p.Warn(s)
	}
}

// splitErrors splits the joined errors of a step on all folders. rest has those of
// the folder the command was given and those of all folders; the others are
// returned by folder.
func splitErrors(w *target.Target, err error) (skipped loop.Skipped, rest error) {
	each, rest := share.Split(err)
	skipped = loop.Skipped{}
	for folder, why := range each {
		if w.Folder != nil && folder == w.Folder.HostPath {
			rest = errors.Join(rest, why)
			continue
		}
		skipped[folder] = why
	}
	return skipped, session.UnwrapSingle(rest)
}

// skipUnusable skips the recorded folders whose record is invalid, and warns about
// those a symbolic link keeps unmounted.
func (p *Planned) skipUnusable(w *target.Target, f *loop.Facts) {
	for _, a := range w.Others() {
		if err := share.Check(a); err != nil && p.Skipped[a.HostPath] == nil {
			p.skip(loop.Skipped{a.HostPath: err})
		}
	}
	for _, a := range share.RecordedFor(w.Store.Config, w.Name) {
		if a.State == share.Linked && (w.Folder == nil || w.Folder.HostPath != a.HostPath) {
			p.Warn(fmt.Sprintf("Skipping saved attachment %s: its path went through a symbolic link; if it is the right folder: aivm attach %s --vm %s", a.HostPath, shellescape.Quote(a.HostPath), a.VM))
		}
	}
}

// planLinked plans to leave a recorded folder unmounted until it is attached again,
// if its path now goes through a symbolic link. The VM may have put the link there
// and could remove it just as easily, so its absence later proves nothing.
func (e Part) planLinked(w *target.Target, f *loop.Facts, skipped loop.Skipped) []plan.Action {
	var out []plan.Action
	for _, folder := range skipped.Linked() {
		r, ok := w.Store.Config.FindAttachment(folder, w.Name)
		if !ok || share.State(r.State) == share.Linked {
			continue
		}
		a, token := share.Recorded(*r), share.Token(folder)
		out = append(out, e.RecordState(a, share.Linked, "store.link:"+token, "leave folder "+folder+" unmounted until it is attached again"))
		if _, noted := f.Share.Noted[token]; noted {
			op := root.Unbind{VMKey: e.Key(w.Name), Token: token, Forget: true}
			out = append(out, plan.Action{ID: "share.forget:" + token, Why: "keep libvirt's hook from mounting folder " + folder, Shows: op.Shows(), Root: op})
		}
	}
	return out
}

// PlanShare plans the host's mounts and devices for w's folders. A folder whose
// owner the guest reports wrongly is mounted again (share.HostFacts.WithGuestOwners).
// A folder that is mounted again is first unmounted in the guest: as long as the
// guest has it mounted, the host cannot unmount the old mount.
func (e Part) PlanShare(w *target.Target, f *loop.Facts, skipped loop.Skipped) (Planned, error) {
	p := Planned{Skipped: skipped}
	p.skipUnusable(w, f)
	atts := f.AttsWithout(w, p.Skipped)
	isNew := func(a share.Attachment) bool { return w.NewFolder && a.HostPath == w.Folder.HostPath }
	observed := f.Share.WithGuestOwners(f.Guest.Share, atts).WithRunning(f.Running() || f.Conn != nil)
	as, err := share.PlanHost(observed, e.Key(w.Name), atts, isNew)
	more, err := splitErrors(w, err)
	if p.skip(more); err != nil {
		return p, err
	}
	p.noteUnmapped(w, f)
	e.noteRepository(&p, w, f)
	byID := map[string]share.Attachment{}
	for _, a := range atts {
		byID["share.bind:"+share.Token(a.HostPath)] = a
	}
	seen, err := e.planChecksums(w, f)
	if err != nil {
		return p, err
	}
	p.Add(seen...)
	for _, act := range as {
		a, bind := byID[act.ID]
		if bind && waitsForStart(w, f, a) {
			if token := share.Token(a.HostPath); w.NewProtect && a.HostPath == w.Folder.HostPath && (f.Share.Noted[token].Token != "" || f.Share.Mounted(a)) {
				op := root.Unbind{VMKey: e.Key(w.Name), Token: token, Forget: true}
				p.Add(plan.Action{ID: "share.forget:" + token, Why: "unmount folder " + a.HostPath + " until the VM starts, so that libvirt's hook does not mount it without protection", Shows: op.Shows(), Root: op})
			}
			continue
		}
		if !bind {
			p.Add(act)
			continue
		}
		if w.Folder == nil || a.HostPath != w.Folder.HostPath {
			act.Fail = func(err error) error { e.leaveOut(f, loop.Skipped{a.HostPath: err}); return nil }
		}
		if f.Conn != nil && f.Guest.ShareErr == nil && len(f.Share.Tokens[share.Token(a.HostPath)]) > 0 && !observed.Mounted(a) {
			p.Add(e.releaseAction(w, f, a, act.Fail))
		}
		if token := share.Token(a.HostPath); f.Running() && loop.HasDevice(f, token) && !observed.Mounted(a) {
			// Its virtiofsd would continue to serve the old mount.
			off := e.detachDevice(w, token, a.HostPath)
			off.Fail = act.Fail
			p.Add(off)
		}
		p.Add(act)
	}
	p.Add(e.planLinked(w, f, p.Skipped)...)
	all := append(share.RecordedFor(w.Store.Config, w.Name), atts...)
	for _, token := range f.Share.Unwanted(all) {
		op := root.Unbind{VMKey: e.Key(w.Name), Token: token}
		p.Add(plan.Action{
			ID: "share.unbind:" + token, Why: "remove the host's record of a folder that is not attached to VM " + w.Name, Shows: op.Shows(), Root: op,
			Fail: func(err error) error { e.WarnOnce(err.Error()); return nil },
		})
	}
	attach, err := e.planAttachDevices(w, f, p.Skipped)
	for _, dev := range attach {
		p.Add(dev)
		for _, act := range as {
			if b, ok := act.Root.(root.Bind); ok && len(b.Protect) > 0 && dev.ID == "share.plug:"+b.Token {
				// The folder's virtiofsd now has the read-only mounts in its own mount
				// namespace, so the host no longer needs them.
				act.ID, act.Consent = "share.settle:"+b.Token, plan.None
				act.Why = "remove the read-only mounts of " + b.Src + " on the host; the VM's virtiofsd keeps its own"
				p.Add(act)
			}
		}
	}
	return p, err
}

// releaseAction unmounts a folder in the guest before the host mounts it again.
func (e Part) releaseAction(w *target.Target, f *loop.Facts, a share.Attachment, fail func(error) error) plan.Action {
	return plan.Action{
		ID: "share.release:" + share.Token(a.HostPath), Why: fmt.Sprintf("unmount folder %s in VM %s until the host has mounted it again", a.HostPath, w.Name),
		Shows: []string{"umount " + shellescape.Quote(a.GuestDst) + " (in the guest)"}, Timing: "share", Fail: fail,
		Do: func(ctx context.Context) error {
			if err := ReleaseInGuest(ctx, f.Conn, nil, []share.Attachment{a}); err != nil {
				return err
			}
			// The guest's plan depends on what is mounted there now.
			return e.Probe(ctx, f.Conn, w, f)
		},
	}
}

// ObserveDaemons reads the open-file limit of the virtiofsd processes, which
// PlanGuest writes into the guest.
func ObserveDaemons(w *target.Target, f *loop.Facts) {
	if f.Guest.ShareErr == nil {
		f.Share.ObserveDaemons(f.Guest.Share, f.Atts(w))
	}
}

// PlanGuest plans the mounts in the guest: one script for all folders that are not
// mounted as they should be. The first action runs it; the others only describe it.
func (e Part) PlanGuest(w *target.Target, f *loop.Facts) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Guest}
	if err := f.Guest.ShareErr; err != nil {
		if w.Folder != nil && w.Folder.Mode != share.Git {
			return p, err
		}
		p.Warn(err.Error())
		return p, nil
	}
	script, steps, err := share.PlanGuest(f.Guest.Share, f.Share, f.Atts(w))
	if err != nil || script == "" {
		return p, err
	}
	steps[0].Do = func(ctx context.Context) error { return e.mountInGuest(ctx, w, f, script) }
	p.Add(steps...)
	return p, nil
}

// RecordTyped records the path, through a symbolic link, by which a recorded folder
// was given now; the guest gets a link at the same path.
func (e Part) RecordTyped(a share.Attachment) plan.Action {
	return plan.Action{
		ID: "store.typed:" + a.Tag, Why: "record that " + a.Typed + " is a link to the folder", Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			return config.Update(ctx, e.StorePath, func(c *config.Config) error {
				if r, ok := c.FindAttachment(a.HostPath, a.VM); ok && r.TypedPath == "" {
					r.TypedPath = a.Typed
				}
				return nil
			})
		},
	}
}

// RecordProtect records that a recorded folder is protected.
func (e Part) RecordProtect(a share.Attachment) plan.Action {
	return plan.Action{
		ID: "store.protect:" + a.Tag, Why: "record in the config that host-executed files of " + a.HostPath + " are protected", Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			return config.Update(ctx, e.StorePath, func(c *config.Config) error {
				if r, ok := c.FindAttachment(a.HostPath, a.VM); ok {
					r.Protect = true
				}
				return nil
			})
		},
	}
}

// Planned is a plan and the folders it leaves out.
type Planned struct {
	plan.Plan
	Skipped loop.Skipped
}

// PlanHost plans to mount the folders in the VM's export directory, except those in
// skipped. Actions that p, the plan so far, already has are not planned again.
func (e Part) PlanHost(p plan.Plan, w *target.Target, f *loop.Facts, skipped loop.Skipped) (Planned, error) {
	if len(f.AttsWithout(w, skipped)) == 0 {
		return Planned{Skipped: skipped}, nil
	}
	out, err := e.PlanShare(w, f, skipped)
	out.Actions = slices.DeleteFunc(out.Actions, func(a plan.Action) bool {
		b, isBind := a.Root.(root.Bind)
		early := isBind && p.Has("share.arm:"+b.Token) && len(b.Protect) == 0
		return p.Has(a.ID) || early
	})
	return out, err
}

// mountInGuest runs the mount script and then checks the guest's mount table: only
// a folder that is listed there as it should be counts as mounted.
func (e Part) mountInGuest(ctx context.Context, w *target.Target, f *loop.Facts, script string) error {
	atts := f.Atts(w)
	out, stderr := capture.Head{Limit: session.GuestOutputLimit}, capture.Head{Limit: session.GuestOutputLimit}
	code, err := f.Conn.Run(ctx, guest.Cmd{
		Argv: []string{"sudo", "-n", "sh", "-s"}, Stdin: strings.NewReader(script),
		Stdout: &out, Stderr: &stderr,
	})
	if err != nil {
		return fmt.Errorf("mounting the folders in the guest: %w", err)
	}
	if strings.Contains(out.String(), "aivm-share-note list\n") {
		e.WarnOnce("VM " + w.Name + " could not save its list of folders: if it reboots by itself, they are mounted again only by the next aivm command: " + session.LastLine(stderr.String()))
	}
	leave := func(err error) error {
		skipped, rest := splitErrors(w, err)
		e.leaveOut(f, skipped)
		return rest
	}
	if err := leave(share.GuestError(code, []byte(out.String()), []byte(stderr.String()), atts)); err != nil {
		return err
	}
	if err := e.Probe(ctx, f.Conn, w, f); err != nil {
		return err
	}
	var errs []error
	for _, a := range f.Atts(w) {
		if err := share.Verify(f.Guest.Share, f.Share, a); err != nil {
			errs = append(errs, &share.FolderError{Folder: a.HostPath, Err: err})
		}
	}
	return leave(errors.Join(errs...))
}
