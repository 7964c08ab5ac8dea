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

// skipped are the sentences on saved folders that a run goes on without.
func skipNotes(left loop.Skipped) []string {
	var out []string
	for _, folder := range slices.Sorted(maps.Keys(left)) {
		why := left[folder]
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

// leaveOut has the run go on without saved folders, and names them.
func (e Part) leaveOut(f *loop.Facts, left loop.Skipped) {
	f.Skip(left)
	for _, s := range skipNotes(left) {
		e.WarnOnce(s)
	}
}

// without has the plan go on without saved folders, and name them.
func (p *Planned) skip(left loop.Skipped) {
	p.Left = p.Left.With(left)
	for _, s := range skipNotes(left) {
		p.Warn(s)
	}
}

// sorted sorts the errors of a step on all folders: what concerns the folder the
// verb was given, or all of them, is returned as rest.
func splitErrors(w *target.Target, err error) (left loop.Skipped, rest error) {
	each, rest := share.Split(err)
	left = loop.Skipped{}
	for folder, why := range each {
		if w.Folder != nil && folder == w.Folder.HostPath {
			rest = errors.Join(rest, why)
			continue
		}
		left[folder] = why
	}
	return left, session.UnwrapSingle(rest)
}

// unusable leaves out what the store says and nothing could be done with.
func (p *Planned) skipUnusable(w *target.Target, f *loop.Facts) {
	for _, a := range w.Others() {
		if err := share.Check(a); err != nil && p.Left[a.HostPath] == nil {
			p.skip(loop.Skipped{a.HostPath: err})
		}
	}
	for _, a := range share.RecordedFor(w.Store.Config, w.Name) {
		if a.State == share.Linked && (w.Folder == nil || w.Folder.HostPath != a.HostPath) {
			p.Warn(fmt.Sprintf("Skipping saved attachment %s: a symbolic link was on its way; if it is the folder you mean: aivm attach %s --vm %s", a.HostPath, shellescape.Quote(a.HostPath), a.VM))
		}
	}
}

// planLinked has a saved folder with a link on its way stay away until it is
// attached again: a link the VM put there could be taken away as easily.
func (e Part) planLinked(w *target.Target, f *loop.Facts, left loop.Skipped) []plan.Action {
	var out []plan.Action
	for _, folder := range left.Linked() {
		r, ok := w.Store.Config.FindAttachment(folder, w.Name)
		if !ok || share.State(r.State) == share.Linked {
			continue
		}
		a, token := share.Recorded(*r), share.Token(folder)
		out = append(out, e.RecordState(a, share.Linked, "store.link:"+token, "keep folder "+folder+" away until it is attached again"))
		if _, noted := f.Share.Noted[token]; noted {
			op := root.Unbind{VMKey: e.Key(w.Name), Token: token, Forget: true}
			out = append(out, plan.Action{ID: "share.forget:" + token, Why: "have libvirt not bring it back either", Shows: op.Shows(), Root: op})
		}
	}
	return out
}

// PlanShare is the host's part of w's folders. What the guest said of their
// owners counts (share.HostFacts.WithGuestOwners), and one that has to be shared anew is
// let go of by the guest first: as long as it has it mounted, this machine
// cannot take the old mount away.
func (e Part) PlanShare(w *target.Target, f *loop.Facts, left loop.Skipped) (Planned, error) {
	p := Planned{Left: left}
	p.skipUnusable(w, f)
	atts := f.AttsWithout(w, p.Left)
	isNew := func(a share.Attachment) bool { return w.NewFolder && a.HostPath == w.Folder.HostPath }
	heard := f.Share.WithGuestOwners(f.Guest.Share, atts)
	as, err := share.PlanHost(heard, e.Key(w.Name), atts, isNew)
	more, err := splitErrors(w, err)
	if p.skip(more); err != nil {
		return p, err
	}
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
			continue
		}
		if !bind {
			p.Add(act)
			continue
		}
		if w.Folder == nil || a.HostPath != w.Folder.HostPath {
			act.Fail = func(err error) error { e.leaveOut(f, loop.Skipped{a.HostPath: err}); return nil }
		}
		if f.Conn != nil && f.Guest.ShareErr == nil && len(f.Share.Tokens[share.Token(a.HostPath)]) > 0 && !heard.Mounted(a) {
			p.Add(e.releaseAction(w, f, a, act.Fail))
		}
		if token := share.Token(a.HostPath); f.Running() && loop.HasDevice(f, token) && !heard.Mounted(a) {
			// Its daemon would go on serving what was mounted there before.
			off := e.detachDevice(w, token, a.HostPath)
			off.Fail = act.Fail
			p.Add(off)
		}
		p.Add(act)
	}
	p.Add(e.planLinked(w, f, p.Left)...)
	all := append(share.RecordedFor(w.Store.Config, w.Name), atts...)
	for _, token := range f.Share.Unwanted(all) {
		op := root.Unbind{VMKey: e.Key(w.Name), Token: token}
		p.Add(plan.Action{
			ID: "share.unbind:" + token, Why: "forget a folder that is not attached to VM " + w.Name, Shows: op.Shows(), Root: op,
			Fail: func(err error) error { e.WarnOnce(err.Error()); return nil },
		})
	}
	plugs, err := e.planAttachDevices(w, f, p.Left)
	for _, plug := range plugs {
		p.Add(plug)
		for _, act := range as {
			if b, ok := act.Root.(root.Bind); ok && len(b.Protect) > 0 && plug.ID == "share.plug:"+b.Token {
				// Now its daemon has the protecting mounts, and they can leave here.
				act.ID, act.Consent = "share.settle:"+b.Token, plan.None
				act.Why = "leave the protection of " + b.Src + " to the VM's daemon alone"
				p.Add(act)
			}
		}
	}
	return p, err
}

// releaseAction has the guest let go of a folder that is going to be shared
// anew.
func (e Part) releaseAction(w *target.Target, f *loop.Facts, a share.Attachment, fail func(error) error) plan.Action {
	return plan.Action{
		ID: "share.release:" + share.Token(a.HostPath), Why: fmt.Sprintf("have VM %s let go of folder %s for a moment", w.Name, a.HostPath),
		Shows: []string{"umount " + shellescape.Quote(a.GuestDst) + " (in the guest)"}, Timing: "share", Fail: fail,
		Do: func(ctx context.Context) error {
			if err := ReleaseInGuest(ctx, f.Conn, nil, []share.Attachment{a}); err != nil {
				return err
			}
			// What is planned for the guest next hangs on what it has now.
			return e.Probe(ctx, f.Conn, w, f)
		},
	}
}

// ObserveDaemons reads what PlanGuest says of the daemons behind the folders.
func ObserveDaemons(w *target.Target, f *loop.Facts) {
	if f.Guest.ShareErr == nil {
		f.Share.ObserveDaemons(f.Guest.Share, f.Atts(w))
	}
}

// PlanGuest is the guest's part: one script for all folders that are not
// right there, done in the first of its steps.
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

// RecordTyped keeps the path a saved folder was now reached by, through a link:
// the guest has one there too.
func (e Part) RecordTyped(a share.Attachment) plan.Action {
	return plan.Action{
		ID: "store.typed:" + a.Tag, Why: "record that " + a.Typed + " leads to the folder", Shows: []string{"write " + e.StorePath},
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

// Planned is a plan and the folders it goes on without.
type Planned struct {
	plan.Plan
	Left loop.Skipped
}

// PlanHost binds the folders below the VM's export root, but those of left. p is
// what is planned before: what is in it is not planned again.
func (e Part) PlanHost(p plan.Plan, w *target.Target, f *loop.Facts, left loop.Skipped) (Planned, error) {
	if len(f.AttsWithout(w, left)) == 0 {
		return Planned{Left: left}, nil
	}
	out, err := e.PlanShare(w, f, left)
	out.Actions = slices.DeleteFunc(out.Actions, func(a plan.Action) bool {
		b, bind := a.Root.(root.Bind)
		armed := bind && p.Has("share.arm:"+b.Token) && len(b.Protect) == 0
		return p.Has(a.ID) || armed
	})
	return out, err
}

// mountInGuest runs the mount script and believes only what the guest's mount
// table says afterwards.
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
		e.WarnOnce("VM " + w.Name + " could not note its folders: after a restart of its own they come back with the next aivm command only: " + session.LastLine(stderr.String()))
	}
	leave := func(err error) error {
		left, rest := splitErrors(w, err)
		e.leaveOut(f, left)
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
