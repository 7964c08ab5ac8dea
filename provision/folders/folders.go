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

// leaveOut names a saved folder that this run goes on without.
func (e Part) leaveOut(w *target.Target, folder string, why error) {
	if w.Left == nil {
		w.Left = map[string]error{}
	}
	w.Left[folder] = why
	if errors.Is(why, share.ErrLink) {
		w.Linked = append(w.Linked, folder)
	}
	if errors.Is(why, fs.ErrNotExist) {
		e.WarnOnce(fmt.Sprintf("Skipping saved attachment %s: host path is missing", folder))
		return
	}
	e.WarnOnce(fmt.Sprintf("Skipping saved attachment %s: %v", folder, why))
	var ue *ui.Error
	if errors.As(why, &ue) {
		for _, h := range ue.HintLines() {
			e.WarnOnce("  " + h)
		}
	}
}

// leaveOutAll sorts the errors of a step on all folders: what concerns the
// folder the verb was given, or all of them, is returned.
func (e Part) leaveOutAll(w *target.Target, err error) error {
	each, rest := share.Split(err)
	for _, folder := range slices.Sorted(maps.Keys(each)) {
		if w.Folder != nil && folder == w.Folder.HostPath {
			rest = errors.Join(rest, each[folder])
			continue
		}
		e.leaveOut(w, folder, each[folder])
	}
	return session.Alone(rest)
}

// leaveOutUnusable leaves out what the store says and nothing could be done
// with.
func (e Part) leaveOutUnusable(w *target.Target) {
	for _, a := range w.Others() {
		if err := share.Check(a); err != nil && w.Left[a.HostPath] == nil {
			e.leaveOut(w, a.HostPath, err)
		}
	}
	for _, a := range share.RecordedFor(w.Store.Config, w.Name) {
		if a.State == share.Linked && (w.Folder == nil || w.Folder.HostPath != a.HostPath) {
			e.WarnOnce(fmt.Sprintf("Skipping saved attachment %s: a symbolic link was on its way; if it is the folder you mean: aivm attach %s --vm %s", a.HostPath, shellescape.Quote(a.HostPath), a.VM))
		}
	}
}

// planLinked has a saved folder with a link on its way stay away until it is
// attached again: a link the VM put there could be taken away as easily.
func (e Part) planLinked(w *target.Target, f *loop.Facts) []plan.Action {
	var out []plan.Action
	for _, folder := range w.Linked {
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
// owners counts (share.HostFacts.Heard), and one that has to be shared anew is
// let go of by the guest first: as long as it has it mounted, this machine
// cannot take the old mount away.
func (e Part) PlanShare(w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	e.leaveOutUnusable(w)
	atts := w.Atts()
	isNew := func(a share.Attachment) bool { return w.NewFolder && a.HostPath == w.Folder.HostPath }
	heard := f.Share.Heard(f.Guest.Share, atts)
	as, err := share.PlanHost(heard, e.Key(w.Name), atts, isNew)
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
		if bind && waitsForStart(w, f, a) {
			continue
		}
		if !bind {
			out = append(out, act)
			continue
		}
		if w.Folder == nil || a.HostPath != w.Folder.HostPath {
			act.Fail = func(err error) error { e.leaveOut(w, a.HostPath, err); return nil }
		}
		if f.Conn != nil && f.Guest.ShareErr == nil && len(f.Share.Tokens[share.Token(a.HostPath)]) > 0 && !heard.Mounted(a) {
			out = append(out, e.releaseAction(w, f, a, act.Fail))
		}
		if token := share.Token(a.HostPath); f.Running() && loop.Plugged(f, token) && !heard.Mounted(a) {
			// Its daemon would go on serving what was mounted there before.
			off := e.unplugAction(w, token, a.HostPath)
			off.Fail = act.Fail
			out = append(out, off)
		}
		out = append(out, act)
	}
	out = append(out, e.planLinked(w, f)...)
	all := append(share.RecordedFor(w.Store.Config, w.Name), atts...)
	for _, token := range f.Share.Unwanted(all) {
		op := root.Unbind{VMKey: e.Key(w.Name), Token: token}
		out = append(out, plan.Action{
			ID: "share.unbind:" + token, Why: "forget a folder that is not attached to VM " + w.Name, Shows: op.Shows(), Root: op,
			Fail: func(err error) error { e.WarnOnce(err.Error()); return nil },
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
func (e Part) releaseAction(w *target.Target, f *loop.Facts, a share.Attachment, fail func(error) error) plan.Action {
	return plan.Action{
		ID: "share.release:" + share.Token(a.HostPath), Why: fmt.Sprintf("have VM %s let go of folder %s for a moment", w.Name, a.HostPath),
		Shows: []string{"umount " + shellescape.Quote(a.GuestDst) + " (in the guest)"}, Timing: "share", Fail: fail,
		Do: func(ctx context.Context) error {
			if err := ReleaseInGuest(ctx, f.Conn, nil, []share.Attachment{a}); err != nil {
				return err
			}
			// What is planned for the guest next hangs on what it has now.
			g, err := e.Probe(ctx, f.Conn, w)
			if err == nil {
				f.Guest = g
			}
			return err
		},
	}
}

// PlanGuest is the guest's part: one script for all folders that are not
// right there, done in the first of its steps.
func (e Part) PlanGuest(w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	atts := w.Atts()
	if err := f.Guest.ShareErr; err != nil {
		if w.Folder != nil && w.Folder.Mode != share.Git {
			return nil, err
		}
		e.WarnOnce(err.Error())
		return nil, nil
	}
	script, steps, err := share.PlanGuest(f.Guest.Share, f.Share, atts)
	if err != nil || script == "" {
		return nil, err
	}
	steps[0].Do = func(ctx context.Context) error { return e.mountInGuest(ctx, w, f, script) }
	return steps, nil
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

// PlanHost binds the folders below the VM's export root.
func (e Part) PlanHost(p *plan.Plan, w *target.Target, f *loop.Facts) error {
	if len(w.Atts()) == 0 {
		return nil
	}
	as, err := e.PlanShare(w, f)
	if err != nil {
		return err
	}
	for _, a := range as {
		b, bind := a.Root.(root.Bind)
		armed := bind && p.Has("share.arm:"+b.Token) && len(b.Protect) == 0
		if !p.Has(a.ID) && !armed {
			p.Add(a)
		}
	}
	return nil
}

// mountInGuest runs the mount script and believes only what the guest's mount
// table says afterwards.
func (e Part) mountInGuest(ctx context.Context, w *target.Target, f *loop.Facts, script string) error {
	atts := w.Atts()
	out, stderr := capture.Head{Limit: session.GuestWords}, capture.Head{Limit: session.GuestWords}
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
	if err := e.leaveOutAll(w, share.GuestError(code, []byte(out.String()), []byte(stderr.String()), atts)); err != nil {
		return err
	}
	g, err := e.Probe(ctx, f.Conn, w)
	if err != nil {
		return err
	}
	f.Guest = g
	var errs []error
	for _, a := range w.Atts() {
		if err := share.Verify(g.Share, f.Share, a); err != nil {
			errs = append(errs, &share.FolderError{Folder: a.HostPath, Err: err})
		}
	}
	return e.leaveOutAll(w, errors.Join(errs...))
}
