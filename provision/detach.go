package provision

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
)

// DetachOptions are the flags of `detach`.
type DetachOptions struct {
	Folder string
	VM     string
	Force  bool // leave it to the next stop of the VM where it is in use
}

// DetachResult is what `detach --json` prints.
type DetachResult struct {
	Schema  int    `json:"schema"`
	VM      string `json:"vm,omitempty"`
	Folder  string `json:"folder"`
	Mode    string `json:"mode,omitempty"`
	State   string `json:"state"` // "detached", "detaching", "none"
	Changed bool   `json:"changed"`
	// Special are device nodes, setuid and setgid files that appeared in it.
	Special []SpecialFile `json:"special,omitempty"`
	// Clone is what is known of the clone of a folder in git mode.
	Clone *CloneWork `json:"clone,omitempty"`
}

// leaving is one folder on its way out of a VM.
type leaving struct {
	w   *want
	att share.Attachment
	rec bool // there is a record; else only what a killed run left mounted
	// special is what a search found when nobody could write there any more.
	special []SpecialFile
	// clone is what was seen of the clone of a folder in git mode, before the
	// lock was taken.
	clone *CloneWork
}

// Detach takes a folder away from a VM. The folder may be gone, the VM stopped,
// deleted or dead: what counts is that nothing of the folder is mounted for the
// VM any more. The folder itself is not touched.
func (e *Env) Detach(ctx context.Context, o DetachOptions) error {
	e.timing = ui.NewTiming("share", "ssh")
	l, err := e.lookForDetach(ctx, o)
	if err != nil || l == nil {
		return err
	}
	if l.rec {
		if err := config.CheckWritable(e.StorePath); err != nil {
			return err
		}
	}
	clone, err := e.beforeLeaving(ctx, l)
	if err != nil {
		return err
	}
	if !e.DryRun {
		release, _, err := e.lock(ctx, l.w.name)
		if err != nil {
			return err
		}
		defer release()
		// Another run may have changed it while this one waited.
		if l, err = e.lookForDetach(ctx, o); err != nil || l == nil {
			return err
		}
	}
	l.clone = clone
	f, err := e.observeLeaving(ctx, l)
	if err != nil {
		return err
	}
	defer f.close()
	p := e.planDetach(l, f)
	if e.DryRun {
		if err := e.printWork("detach", l.w.name, p, l.clones()); err != nil {
			return err
		}
		return errDry
	}
	attached := e.state().AttachedAt(l.att)
	if _, err = e.run(ctx, p); err != nil {
		err = e.unbindAgain(ctx, l, f, p, err)
	}
	if err != nil {
		return e.staysAttached(ctx, l, f, o, err)
	}
	if f.asks() {
		// What lay below it in the guest, and was let go of with it, comes back.
		if err := e.guestStage(ctx, l.w, f); err != nil {
			e.warnOnce(err.Error())
		}
	}
	if exposes(l.att) {
		l.special = e.searchDetached(ctx, l.att, attached)
	}
	return e.saidDetached(l, "detached")
}

// lookForDetach finds what is meant. nil: there is nothing, and it was said.
func (e *Env) lookForDetach(ctx context.Context, o DetachOptions) (*leaving, error) {
	typed, real, err := pathOf(o.Folder)
	if err != nil {
		return nil, err
	}
	store, err := e.load()
	if err != nil {
		return nil, err
	}
	c := &store.Config
	found := c.AttachedAs(typed, real, o.VM)
	switch len(found) {
	case 0:
		return e.lookForStray(store, o, typed, real)
	case 1:
	default:
		if found, err = e.chooseRecord(ctx, c, found); err != nil {
			return nil, err
		}
	}
	a := attachment(found[0])
	return &leaving{w: &want{store: store, name: a.VM, guest: true, patience: detachPatience}, att: a, rec: true}, nil
}

// chooseRecord decides between the VMs a folder is attached to as Resolve does.
func (e *Env) chooseRecord(ctx context.Context, c *config.Config, found []config.Attachment) ([]config.Attachment, error) {
	var names []string
	for _, r := range found {
		if r.VMName == c.ActiveVM {
			return []config.Attachment{r}, nil
		}
		names = append(names, r.VMName)
	}
	if !e.UI.InTTY {
		return nil, ui.Refused("%w", &config.AmbiguousError{Candidates: names, Folder: true}).Hint("re-run with --vm NAME")
	}
	i, err := e.UI.Choose(ctx, "Detach it from which VM?", names)
	if err != nil {
		return nil, err
	}
	return found[i : i+1], nil
}

// lookForStray looks for what a killed run mounted for a VM and never recorded.
func (e *Env) lookForStray(store *config.Store, o DetachOptions, typed, real string) (*leaving, error) {
	c := &store.Config
	for _, r := range c.AttachmentsOf(real) {
		if o.VM == "" || o.VM == r.VMName {
			return nil, ui.Refused("%s belongs to the attached folder %s", ui.Clean(typed), ui.Clean(r.HostPath)).
				Hint("to detach all of it: aivm detach " + shellQuote(r.HostPath) + " --vm " + r.VMName)
		}
	}
	vms := c.VMNames()
	if o.VM != "" {
		if _, err := store.Resolve("", o.VM); err != nil {
			return nil, err
		}
		vms = []string{o.VM}
	}
	for _, vm := range vms {
		hf, err := e.shared(vm, nil)
		if err != nil {
			return nil, err
		}
		for _, p := range []string{real, typed} {
			if len(hf.Tokens[share.Token(p)]) > 0 {
				a := share.Attachment{HostPath: p, VM: vm, Mode: share.SharedRoot, Access: "rw", GuestDst: p, Tag: share.Token(p)}
				return &leaving{w: &want{store: store, name: vm, guest: true, patience: detachPatience}, att: a}, nil
			}
		}
	}
	on := ""
	if res, err := store.Resolve(real, o.VM); err == nil {
		on = " on VM " + res.VM
	}
	if e.UI.JSON {
		return nil, e.UI.PrintJSON(DetachResult{Schema: 1, VM: strings.TrimPrefix(on, " on VM "), Folder: real, State: "none"})
	}
	e.UI.Result("No attachment found for %s%s. Nothing to do.", ui.Clean(real), on)
	return nil, nil
}

// pathOf is a path as typed and as it really is, as far as it still exists.
func pathOf(arg string) (typed, real string, err error) {
	typed, err = filepath.Abs(arg)
	if err != nil {
		return "", "", ui.Refused("the working directory is gone: %w", err).Hint("name the folder: aivm detach /its/path", "aivm list")
	}
	rest := ""
	for dir := typed; ; dir = filepath.Dir(dir) {
		if r, err := filepath.EvalSymlinks(dir); err == nil {
			return typed, filepath.Join(r, rest), nil
		}
		if dir == filepath.Dir(dir) {
			return typed, typed, nil
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}

// observeLeaving looks at this machine's mounts, and at VM and guest only if
// the folder is mounted for the VM: else nobody has to be asked.
func (e *Env) observeLeaving(ctx context.Context, l *leaving) (*facts, error) {
	f := &facts{connErr: errNotTried}
	var err error
	if f.share, err = e.shared(l.w.name, nil); err != nil {
		return nil, err
	}
	if len(f.share.Tokens[share.Token(l.att.HostPath)]) == 0 && l.att.Mode != share.Shared {
		return f, nil
	}
	f, _, err = e.look(ctx, l.w)
	if err != nil {
		return nil, err
	}
	if f.share.Tokens == nil {
		f.share, err = e.shared(l.w.name, l.w.atts())
	}
	return f, err
}

// planDetach: the record says first that the folder is leaving, so that a run
// that is killed in between never brings it back; then the guest lets go, this
// machine takes the mount away, and the record goes.
func (e *Env) planDetach(l *leaving, f *facts) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	a, token := l.att, share.Token(l.att.HostPath)
	bound := len(f.share.Tokens[token]) > 0
	if bound && l.rec && a.State != share.Detaching {
		p.Add(e.recordState(a, share.Detaching, "store.detaching:"+token, "record that the folder is leaving"))
	}
	if bound {
		if f.asks() {
			p.Add(plan.Action{
				ID: "share.release:" + token, Why: fmt.Sprintf("have VM %s let go of folder %s", l.w.name, a.HostPath), Timing: "share",
				Shows: []string{"umount " + shellQuote(a.GuestDst) + " (in the guest)"},
				Do:    func(ctx context.Context) error { return e.releaseAll(ctx, l, f) },
			})
		}
	}
	p.Add(e.planUnplug(l.w, f, a)...)
	if bound {
		op := root.Unbind{VMKey: e.key(l.w.name), Token: token}
		p.Add(plan.Action{
			ID: "share.unbind:" + token, Why: fmt.Sprintf("take folder %s out of VM %s's reach", a.HostPath, l.w.name),
			Shows: op.Shows(), Root: op, Timing: "share",
		})
	}
	if l.rec {
		p.Add(planUngit(a, plan.None)...)
		p.Add(e.dropRecord(a))
	}
	return p
}

func (e *Env) recordState(a share.Attachment, s share.State, id, why string) plan.Action {
	return plan.Action{
		ID: id, Why: why, Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			return config.Update(ctx, e.StorePath, func(c *config.Config) error {
				if r, ok := c.FindAttachment(a.HostPath, a.VM); ok {
					r.State = string(s)
				}
				return nil
			})
		},
	}
}

func (e *Env) dropRecord(a share.Attachment) plan.Action {
	return plan.Action{
		ID: "store.detach:" + share.Token(a.HostPath), Why: "take the folder out of the config", Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			if a.Mode == share.Git {
				if err := stateErr(e.state().VM(a.VM), e.state().NoteClone(a)); err != nil {
					return err
				}
			}
			err := config.Update(ctx, e.StorePath, func(c *config.Config) error { c.RemoveAttachment(a.HostPath, a.VM); return nil })
			if err == nil {
				e.state().ForgetSeen(a)
				e.state().ForgetGitStamp(a.VM, a.Tag)
			}
			return err
		},
	}
}

// detachPatience is how long a busy guest may take to let us in: unlike the
// other verbs, detach does not wait for one that boots.
const detachPatience = 30 * time.Second

// releaseLimit bounds how long a guest may take to let go of a folder.
const releaseLimit = 90 * time.Second

// releaseAll has the guest unmount the folder, and first what is mounted below
// it there; that comes back with the next mounts. From here on the run's facts
// are without the folder.
func (e *Env) releaseAll(ctx context.Context, l *leaving, f *facts) error {
	ctx, cancel := context.WithTimeout(ctx, releaseLimit)
	defer cancel()
	var below []share.Attachment
	for _, a := range attachments(l.w.store.Config, l.w.name) {
		if a.Mode.Mounts() && within(a.GuestDst, l.att.GuestDst) && a.GuestDst != l.att.GuestDst {
			below = append(below, a)
		}
	}
	if err := releaseInGuest(ctx, f.conn, []share.Attachment{l.att}, below); err != nil {
		return err
	}
	if l.w.left == nil {
		l.w.left = map[string]error{}
	}
	l.w.left[l.att.HostPath] = errLeaving
	g, err := e.probe(ctx, f.conn, l.w)
	if err == nil {
		f.guest = g
	}
	return err
}

var errLeaving = errors.New("it is being detached")

// staysAttached ends a run in which the folder could not be taken away. Without
// --force all is as before; with it the folder is gone for what starts in the
// VM from now on, and the rest is left to the VM's next stop.
func (e *Env) staysAttached(ctx context.Context, l *leaving, f *facts, o DetachOptions, why error) error {
	if ctx.Err() != nil {
		return e.resume(why)
	}
	hf, err := e.shared(l.w.name, nil)
	if err != nil || len(hf.Tokens[share.Token(l.att.HostPath)]) == 0 || !l.rec && !o.Force {
		return e.resume(why) // it is not that it is in use
	}
	if o.Force && l.rec {
		// Not put back by libvirt's hook either.
		op := root.Unbind{VMKey: e.key(l.w.name), Token: share.Token(l.att.HostPath), Forget: true}
		if _, err := e.Root.Do(ctx, op, nil); err != nil {
			e.warnOnce(err.Error())
		}
		if f.asks() {
			lctx, cancel := context.WithTimeout(ctx, undoLimit)
			err := e.asRoot(lctx, f.conn, "hiding the folder in the VM", share.HideScript(l.att), nil)
			cancel()
			if err != nil {
				e.warnOnce(err.Error())
			}
		}
		e.UI.Say("%v", why)
		return e.saidDetached(l, "detaching")
	}
	// Back to what it was: the record, and what the guest let go of.
	undo := plan.Plan{Stage: plan.Host}
	if l.rec {
		undo.Add(e.recordState(l.att, l.att.State, "store.attached:"+share.Token(l.att.HostPath), "record that the folder stays attached"))
	}
	if _, err := e.run(ctx, undo); err != nil {
		e.warnOnce(err.Error())
	}
	if f.asks() {
		delete(l.w.left, l.att.HostPath)
		if f.share, err = e.shared(l.w.name, l.w.atts()); err == nil {
			var g guestFacts
			if g, err = e.probe(ctx, f.conn, l.w); err == nil {
				f.guest = g
				err = e.guestStage(ctx, l.w, f)
			}
		}
		if err != nil {
			e.warnOnce(err.Error())
		}
	}
	if by := e.watchers(ctx, f); len(by) > 0 {
		why = fmt.Errorf("%w; in the VM its files may be watched by %s", why, strings.Join(by, ", "))
	}
	q := shellQuote(l.att.HostPath) + " --vm " + l.w.name
	out := ui.Refused("folder %s stays attached to VM %s: %w", l.att.HostPath, l.w.name, why)
	if !f.asks() {
		out = ui.Refused("folder %s stays attached to VM %s, which does not answer (%v) and so cannot be asked to let go of it: %w", l.att.HostPath, l.w.name, f.connErr, why)
	}
	out.Hints = nil
	return out.Hint("end what uses it, then: aivm detach "+q,
		"or stop the VM, which lets go of everything: aivm vm down "+l.w.name+", then: aivm detach "+q,
		"or let the VM read on what it has open until it stops: aivm detach "+q+" --force")
}

// watchers are the guest's processes that watch files of shared folders.
func (e *Env) watchers(ctx context.Context, f *facts) []string {
	if !f.asks() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	out := capture.Head{Limit: guestWords}
	if err := e.asRoot(ctx, f.conn, "looking at what watches folders", share.WatchScript(), &out); err != nil {
		return nil
	}
	return share.Held([]byte(out.String()))
}

func (e *Env) saidDetached(l *leaving, state string) error {
	a := l.att
	if e.UI.JSON {
		return e.UI.PrintJSON(DetachResult{
			Schema: 1, VM: l.w.name, Folder: a.HostPath, Mode: string(a.Mode), State: state, Changed: true, Special: l.special, Clone: l.clone,
		})
	}
	if state == "detaching" {
		e.UI.Result("Detaching %s from VM %s (%s mode): it is in use, and what runs in the VM may read on until the VM stops", a.HostPath, l.w.name, a.Mode)
		e.UI.Say("to finish it: aivm vm down %s", l.w.name)
		return nil
	}
	e.UI.Result("Detached %s from VM %s (%s mode)", a.HostPath, l.w.name, a.Mode)
	if a.Mode == share.Git {
		e.sayCloneStays(a, l.clone)
	}
	return nil
}
