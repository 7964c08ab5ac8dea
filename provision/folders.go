package provision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
)

// All folders of a VM are one matter: each look asks for all of them, and each
// run that brings the VM to a state brings them all back. The folder a verb was
// given has to work; another one that does not is named and left out.

// atts are the folders this run is concerned with: the one the verb was given,
// and what else is attached to the VM and can be mounted.
func (w *want) atts() []share.Attachment {
	if w.unmoved {
		return nil
	}
	var out []share.Attachment
	taken := map[string]bool{}
	if w.folder != nil && w.folder.Mode.Mounts() {
		out = append(out, *w.folder)
		taken[w.folder.GuestDst] = true
	}
	for _, a := range w.others() {
		if w.left[a.HostPath] == nil && share.Check(a) == nil && !taken[a.GuestDst] {
			out = append(out, a)
			taken[a.GuestDst] = true
		}
	}
	return out
}

// others are the saved folders of the VM that are mounted in it, without the
// one the verb was given.
func (w *want) others() []share.Attachment {
	if w.store == nil {
		return nil
	}
	var out []share.Attachment
	for _, r := range w.store.Config.VMAttachments(w.name) {
		a := attachment(r)
		if a.Mode.Mounts() && a.State == share.Attached && (w.folder == nil || a.HostPath != w.folder.HostPath) {
			out = append(out, a)
		}
	}
	return out
}

// leaveOut names a saved folder that this run goes on without.
func (e *Env) leaveOut(w *want, folder string, why error) {
	if w.left == nil {
		w.left = map[string]error{}
	}
	w.left[folder] = why
	if errors.Is(why, share.ErrLink) {
		w.linked = append(w.linked, folder)
	}
	if errors.Is(why, fs.ErrNotExist) {
		e.warnOnce(fmt.Sprintf("Skipping saved attachment %s: host path is missing", folder))
		return
	}
	e.warnOnce(fmt.Sprintf("Skipping saved attachment %s: %v", folder, why))
	var ue *ui.Error
	if errors.As(why, &ue) {
		for _, h := range ue.Hints {
			e.warnOnce("  " + h)
		}
	}
}

// leaveOutAll sorts the errors of a step on all folders: what concerns the
// folder the verb was given, or all of them, is returned.
func (e *Env) leaveOutAll(w *want, err error) error {
	each, rest := share.Split(err)
	for _, folder := range slices.Sorted(maps.Keys(each)) {
		if w.folder != nil && folder == w.folder.HostPath {
			rest = errors.Join(rest, each[folder])
			continue
		}
		e.leaveOut(w, folder, each[folder])
	}
	return alone(rest)
}

// alone is an error without the join around it, if it is the only one, so that
// it is printed with its hints.
func alone(err error) error {
	if l, ok := err.(interface{ Unwrap() []error }); ok && len(l.Unwrap()) == 1 {
		return l.Unwrap()[0]
	}
	return err
}

// leaveOutUnusable leaves out what the store says and nothing could be done
// with.
func (e *Env) leaveOutUnusable(w *want) {
	for _, a := range w.others() {
		if err := share.Check(a); err != nil && w.left[a.HostPath] == nil {
			e.leaveOut(w, a.HostPath, err)
		}
	}
	for _, a := range attachments(w.store.Config, w.name) {
		if a.State == share.Linked && (w.folder == nil || w.folder.HostPath != a.HostPath) {
			e.warnOnce(fmt.Sprintf("Skipping saved attachment %s: a symbolic link was on its way; if it is the folder you mean: aivm attach %s --vm %s", a.HostPath, shellQuote(a.HostPath), a.VM))
		}
	}
}

// planLinked has a saved folder with a link on its way stay away until it is
// attached again: a link the VM put there could be taken away as easily.
func (e *Env) planLinked(w *want, f *facts) []plan.Action {
	var out []plan.Action
	for _, folder := range w.linked {
		r, ok := w.store.Config.FindAttachment(folder, w.name)
		if !ok || share.State(r.State) == share.Linked {
			continue
		}
		a, token := attachment(*r), share.Token(folder)
		out = append(out, e.recordState(a, share.Linked, "store.link:"+token, "keep folder "+folder+" away until it is attached again"))
		if _, noted := f.share.Noted[token]; noted {
			op := root.Unbind{VMKey: e.key(w.name), Token: token, Forget: true}
			out = append(out, plan.Action{ID: "share.forget:" + token, Why: "have libvirt not bring it back either", Shows: op.Shows(), Root: op})
		}
	}
	return out
}

// planShare is the host's part of w's folders. What the guest said of their
// owners counts (share.HostFacts.Heard), and one that has to be shared anew is
// let go of by the guest first: as long as it has it mounted, this machine
// cannot take the old mount away.
func (e *Env) planShare(w *want, f *facts) ([]plan.Action, error) {
	e.leaveOutUnusable(w)
	atts := w.atts()
	isNew := func(a share.Attachment) bool { return w.newFolder && a.HostPath == w.folder.HostPath }
	heard := f.share.Heard(f.guest.share, atts)
	as, err := share.PlanHost(heard, e.key(w.name), atts, isNew)
	if err := e.leaveOutAll(w, err); err != nil {
		return nil, err
	}
	byID := map[string]share.Attachment{}
	for _, a := range atts {
		byID["share.bind:"+share.Token(a.HostPath)] = a
	}
	out, err := e.planSeen(w, f)
	if err != nil {
		return nil, err
	}
	for _, act := range as {
		a, bind := byID[act.ID]
		if bind && w.waitsForStart(f, a) {
			continue
		}
		if !bind {
			out = append(out, act)
			continue
		}
		if w.folder == nil || a.HostPath != w.folder.HostPath {
			act.Fail = func(err error) error { e.leaveOut(w, a.HostPath, err); return nil }
		}
		if f.conn != nil && f.guest.shareErr == nil && len(f.share.Tokens[share.Token(a.HostPath)]) > 0 && !heard.Mounted(a) {
			out = append(out, e.releaseAction(w, f, a, act.Fail))
		}
		if token := share.Token(a.HostPath); f.running() && plugged(f, token) && !heard.Mounted(a) {
			// Its daemon would go on serving what was mounted there before.
			off := e.unplugAction(w, token, a.HostPath)
			off.Fail = act.Fail
			out = append(out, off)
		}
		out = append(out, act)
	}
	out = append(out, e.planLinked(w, f)...)
	all := append(attachments(w.store.Config, w.name), atts...)
	for _, token := range f.share.Unwanted(all) {
		op := root.Unbind{VMKey: e.key(w.name), Token: token}
		out = append(out, plan.Action{
			ID: "share.unbind:" + token, Why: "forget a folder that is not attached to VM " + w.name, Shows: op.Shows(), Root: op,
			Fail: func(err error) error { e.warnOnce(err.Error()); return nil },
		})
	}
	plugs, err := e.planPlug(w, f)
	for _, plug := range plugs {
		out = append(out, plug)
		for _, act := range as {
			if b, ok := act.Root.(root.Bind); ok && len(b.Protect) > 0 && plug.ID == "share.plug:"+b.Token {
				// Now its daemon has the protecting mounts, and they can leave here.
				act.ID, act.Consent = "share.settle:"+b.Token, plan.None
				act.Why = "leave the protection of " + b.Src + " to the VM's daemon alone"
				out = append(out, act)
			}
		}
	}
	return out, err
}

// releaseAction has the guest let go of a folder that is going to be shared
// anew.
func (e *Env) releaseAction(w *want, f *facts, a share.Attachment, fail func(error) error) plan.Action {
	return plan.Action{
		ID: "share.release:" + share.Token(a.HostPath), Why: fmt.Sprintf("have VM %s let go of folder %s for a moment", w.name, a.HostPath),
		Shows: []string{"umount " + shellQuote(a.GuestDst) + " (in the guest)"}, Timing: "share", Fail: fail,
		Do: func(ctx context.Context) error {
			if err := releaseInGuest(ctx, f.conn, nil, []share.Attachment{a}); err != nil {
				return err
			}
			// What is planned for the guest next hangs on what it has now.
			g, err := e.probe(ctx, f.conn, w)
			if err == nil {
				f.guest = g
			}
			return err
		},
	}
}

// planMounts is the guest's part: one script for all folders that are not
// right there, done in the first of its steps.
func (e *Env) planMounts(w *want, f *facts) ([]plan.Action, error) {
	atts := w.atts()
	if err := f.guest.shareErr; err != nil {
		if w.folder != nil && w.folder.Mode != share.Git {
			return nil, err
		}
		e.warnOnce(err.Error())
		return nil, nil
	}
	script, steps, err := share.PlanGuest(f.guest.share, f.share, atts)
	if err != nil || script == "" {
		return nil, err
	}
	steps[0].Do = func(ctx context.Context) error { return e.mountInGuest(ctx, w, f, script) }
	return steps, nil
}

// recordTyped keeps the path a saved folder was now reached by, through a link:
// the guest has one there too.
func (e *Env) recordTyped(a share.Attachment) plan.Action {
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

// errDetached: a run that was waited for took the folder away.
var errDetached = errors.New("detached")

// refresh reads the store anew, once this run has the VM's lock: another run
// may have attached or detached folders meanwhile, and nothing that was taken
// away is brought back.
func (e *Env) refresh(w *want) error {
	e.store = nil
	store, err := e.load()
	if err != nil {
		return err
	}
	w.store = store
	if _, ok := store.Config.FindVM(w.name); !ok && !w.newVM {
		// Nothing recreates a VM by itself, a run that waited least of all.
		return ui.Failed("VM %s was deleted meanwhile", w.name).Hint("to make it anew: aivm vm create " + w.name)
	}
	if w.folder == nil {
		return nil
	}
	r, ok := store.Config.FindAttachment(w.folder.HostPath, w.name)
	switch {
	case !ok && !w.newFolder:
		return ui.Failed("folder %s was %w from VM %s meanwhile", w.folder.HostPath, errDetached, w.name).Hint(e.Rerun)
	case ok && w.newFolder:
		return e.takeRecorded(w, *r)
	}
	return nil
}

// takeRecorded goes on with a folder that another run recorded while this one
// waited, if it is the same wish.
func (e *Env) takeRecorded(w *want, r config.Attachment) error {
	a := attachment(r)
	switch {
	case a.Mode != w.folder.Mode:
		return changeRefused("mode", r, string(a.Mode), string(w.folder.Mode))
	case a.Access != w.folder.Access:
		return changeRefused("access", r, a.Access, w.folder.Access)
	case a.GuestDst != w.folder.GuestDst:
		return changeRefused("guest_dst", r, a.GuestDst, w.folder.GuestDst)
	case a.Protect != w.folder.Protect:
		return changeRefused("protect", r, yesNo(a.Protect), yesNo(w.folder.Protect))
	}
	w.newFolder = a.State != share.Attached
	return nil
}
