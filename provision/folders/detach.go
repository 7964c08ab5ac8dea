package folders

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/internal/pause"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// DetachOptions are the flags of `detach`.
type DetachOptions struct {
	Folder string
	VM     string
	Force  bool // leave it to the next stop of the VM where it is in use
}

// Detachment is one folder on its way out of a VM.
type Detachment struct {
	W   *target.Target
	Att share.Attachment
	Rec bool // there is a record; else only what a killed run left mounted
	// special is what a search found when nobody could write there any more.
	Special []SpecialFile
}

// FindDetachment finds what is meant; a *NotAttachedError if there is nothing.
func (e Part) FindDetachment(ctx context.Context, o DetachOptions) (*Detachment, error) {
	typed, real, err := pathOf(o.Folder)
	if err != nil {
		return nil, err
	}
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	c := &store.Config
	found := c.AttachedAs(typed, real, o.VM)
	switch len(found) {
	case 0:
		return e.findUnrecorded(store, o, typed, real)
	case 1:
	default:
		if found, err = e.chooseRecord(ctx, c, found); err != nil {
			return nil, err
		}
	}
	a := share.Recorded(found[0])
	return e.newDetachment(store, a, true)
}

// leaving is a folder of a VM whose record may be gone.
func (e Part) newDetachment(store *config.Store, a share.Attachment, recorded bool) (*Detachment, error) {
	u, err := store.Config.LibvirtOf(a.VM)
	if err != nil {
		return nil, err
	}
	e.UseLibvirt(u)
	return &Detachment{W: &target.Target{Store: store, Name: a.VM, Libvirt: u, Guest: true, LoginLimit: detachPatience}, Att: a, Rec: recorded}, nil
}

// chooseRecord decides between the VMs a folder is attached to as Resolve does.
func (e Part) chooseRecord(ctx context.Context, c *config.Config, found []config.Attachment) ([]config.Attachment, error) {
	var names []string
	for _, r := range found {
		if r.VMName == c.ActiveVM {
			return []config.Attachment{r}, nil
		}
		names = append(names, r.VMName)
	}
	if !e.InTTY {
		return nil, ui.Refused("%w", &config.AmbiguousError{Candidates: names, Folder: true}).Hint(ui.Remark("re-run with --vm NAME"))
	}
	i, err := e.UI.Choose(ctx, "Detach it from which VM?", names)
	if err != nil {
		return nil, err
	}
	return found[i : i+1], nil
}

// findUnrecorded looks for what a killed run mounted for a VM and never recorded.
func (e Part) findUnrecorded(store *config.Store, o DetachOptions, typed, real string) (*Detachment, error) {
	c := &store.Config
	for _, r := range c.AttachmentsOf(real) {
		if o.VM == "" || o.VM == r.VMName {
			return nil, ui.Refused("%s belongs to the attached folder %s", ui.Clean(typed), ui.Clean(r.HostPath)).
				Hint(ui.CmdFor("to detach all of it", "aivm detach "+shellescape.Quote(r.HostPath)+" --vm "+r.VMName))
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
		hf, err := e.Shared(vm, nil)
		if err != nil {
			return nil, err
		}
		for _, p := range []string{real, typed} {
			if len(hf.Tokens[share.Token(p)]) > 0 {
				a := share.Attachment{HostPath: p, VM: vm, Mode: share.SharedRoot, Access: "rw", GuestDst: p, Tag: share.Token(p)}
				return e.newDetachment(store, a, false)
			}
		}
	}
	none := &NotAttachedError{Folder: real}
	if res, err := store.Resolve(real, o.VM); err == nil {
		none.VM = res.VM
	}
	return nil, none
}

// NotAttachedError: the folder is attached to no VM, nor to the one that would be
// meant, if there is one.
type NotAttachedError struct{ Folder, VM string }

// Error says which folder.
func (e *NotAttachedError) Error() string { return "folder " + e.Folder + " is not attached" }

// pathOf is a path as typed and as it really is, as far as it still exists.
func pathOf(arg string) (typed, real string, err error) {
	typed, err = filepath.Abs(arg)
	if err != nil {
		return "", "", ui.Refused("the working directory is gone: %w", err).Hint(ui.CmdFor("name the folder", "aivm detach /its/path"), ui.Cmd("aivm list"))
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

// ObserveDetach looks at this machine's mounts, and at VM and guest only if
// the folder is mounted for the VM: else nobody has to be asked.
func (e Part) ObserveDetach(ctx context.Context, l *Detachment) (*loop.Facts, error) {
	f := &loop.Facts{ConnErr: loop.ErrNotTried}
	var err error
	if f.Share, err = e.Shared(l.W.Name, nil); err != nil {
		return nil, err
	}
	if len(f.Share.Tokens[share.Token(l.Att.HostPath)]) == 0 && l.Att.Mode != share.Shared {
		return f, nil
	}
	f, _, err = e.Inspect(ctx, l.W)
	if err != nil {
		return nil, err
	}
	if f.Share.Tokens == nil {
		f.Share, err = e.Shared(l.W.Name, f.Atts(l.W))
	}
	return f, err
}

// PlanDetach takes a folder away: the record says first that the folder is leaving, so that a run
// that is killed in between never brings it back; then the guest lets go, this
// machine takes the mount away, and the record goes. unremote takes the remote of
// a folder in git mode out of its repository.
func (e Part) PlanDetach(l *Detachment, f *loop.Facts, unremote []plan.Action) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	a, token := l.Att, share.Token(l.Att.HostPath)
	bound := len(f.Share.Tokens[token]) > 0
	if bound && l.Rec && a.State != share.Detaching {
		p.Add(e.RecordState(a, share.Detaching, "store.detaching:"+token, "record that the folder is leaving"))
	}
	if bound {
		if f.CanProbeFolders() {
			p.Add(plan.Action{
				ID: "share.release:" + token, Why: fmt.Sprintf("have VM %s let go of folder %s", l.W.Name, a.HostPath), Timing: "share",
				Shows: []string{"umount " + shellescape.Quote(a.GuestDst) + " (in the guest)"},
				Do:    func(ctx context.Context) error { return e.releaseWithNested(ctx, l, f) },
			})
		}
	}
	p.Add(e.PlanDetachDevice(l.W, f, a)...)
	if bound {
		op := root.Unbind{VMKey: e.Key(l.W.Name), Token: token}
		p.Add(plan.Action{
			ID: "share.unbind:" + token, Why: fmt.Sprintf("take folder %s out of VM %s's reach", a.HostPath, l.W.Name),
			Shows: op.Shows(), Root: op, Timing: "share",
		})
	}
	if l.Rec {
		p.Add(unremote...)
		p.Add(e.DropRecord(a))
	}
	return p
}

// DropRecord takes the folder out of the store, with what was noted about it.
func (e Part) DropRecord(a share.Attachment) plan.Action {
	return plan.Action{
		ID: "store.detach:" + share.Token(a.HostPath), Why: "take the folder out of the config", Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			if a.Mode == share.Git {
				if err := session.StateErr(e.State().VM(a.VM), e.State().NoteClone(a)); err != nil {
					return err
				}
			}
			err := config.Update(ctx, e.StorePath, func(c *config.Config) error { c.RemoveAttachment(a.HostPath, a.VM); return nil })
			if err == nil {
				e.State().ForgetChecksums(a)
				e.State().ForgetGitStamp(a.VM, a.Tag)
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

// releaseWithNested has the guest unmount the folder, and first what is mounted below
// it there; that comes back with the next mounts. From here on the run's facts
// are without the folder.
func (e Part) releaseWithNested(ctx context.Context, l *Detachment, f *loop.Facts) error {
	ctx, cancel := context.WithTimeout(ctx, releaseLimit)
	defer cancel()
	var below []share.Attachment
	for _, a := range share.RecordedFor(l.W.Store.Config, l.W.Name) {
		if a.Mode.Mounts() && target.Within(a.GuestDst, l.Att.GuestDst) && a.GuestDst != l.Att.GuestDst {
			below = append(below, a)
		}
	}
	if err := ReleaseInGuest(ctx, f.Conn, []share.Attachment{l.Att}, below); err != nil {
		return err
	}
	f.Skip(loop.Skipped{l.Att.HostPath: errDetaching})
	return e.Probe(ctx, f.Conn, l.W, f)
}

var errDetaching = errors.New("it is being detached")

// EndFailedDetach ends a run in which the folder could not be taken away. Without
// --force all is as before, and why is returned; with it the folder is gone for
// what starts in the VM from now on, the rest is left to the VM's next stop, and
// nil is returned.
func (e Part) EndFailedDetach(ctx context.Context, l *Detachment, f *loop.Facts, o DetachOptions, why error) error {
	if ctx.Err() != nil {
		return e.WithRerunHint(why)
	}
	hf, err := e.Shared(l.W.Name, nil)
	if err != nil || len(hf.Tokens[share.Token(l.Att.HostPath)]) == 0 || !l.Rec && !o.Force {
		return e.WithRerunHint(why) // it is not that it is in use
	}
	if o.Force && l.Rec {
		// Not put back by libvirt's hook either.
		op := root.Unbind{VMKey: e.Key(l.W.Name), Token: share.Token(l.Att.HostPath), Forget: true}
		if _, err := e.Root.Do(ctx, op, nil); err != nil {
			e.WarnOnce(err.Error())
		}
		if f.CanProbeFolders() {
			lctx, cancel := context.WithTimeout(ctx, CleanupLimit)
			err := e.RunAsRoot(lctx, f.Conn, "hiding the folder in the VM", share.HideScript(l.Att), nil)
			cancel()
			if err != nil {
				e.WarnOnce(err.Error())
			}
		}
		e.UI.Say("%v", why)
		return nil
	}
	// Back to what it was: the record, and what the guest let go of.
	undo := plan.Plan{Stage: plan.Host}
	if l.Rec {
		undo.Add(e.RecordState(l.Att, l.Att.State, "store.attached:"+share.Token(l.Att.HostPath), "record that the folder stays attached"))
	}
	if _, err := e.Run(ctx, undo); err != nil {
		e.WarnOnce(err.Error())
	}
	if f.CanProbeFolders() {
		f.Skipped = f.Skipped.Without(l.Att.HostPath)
		if f.Share, err = e.Shared(l.W.Name, f.Atts(l.W)); err == nil {
			if err = e.Probe(ctx, f.Conn, l.W, f); err == nil {
				err = e.GuestStage(ctx, l.W, f)
			}
		}
		if err != nil {
			e.WarnOnce(err.Error())
		}
	}
	if by := e.watchers(ctx, f); len(by) > 0 {
		why = fmt.Errorf("%w; in the VM its files may be watched by %s", why, strings.Join(by, ", "))
	}
	q := shellescape.Quote(l.Att.HostPath) + " --vm " + l.W.Name
	out := ui.Refused("folder %s stays attached to VM %s: %w", l.Att.HostPath, l.W.Name, why)
	if !f.CanProbeFolders() {
		out = ui.Refused("folder %s stays attached to VM %s, which does not answer (%v) and so cannot be asked to let go of it: %w", l.Att.HostPath, l.W.Name, f.ConnErr, why)
	}
	out.Hints = nil
	return out.Hint(ui.CmdFor("end what uses it, then", "aivm detach "+q),
		ui.CmdFor("or stop the VM, which lets go of everything", "aivm vm down "+l.W.Name+", then: aivm detach "+q),
		ui.CmdFor("or let the VM read on what it has open until it stops", "aivm detach "+q+" --force"))
}

// watchers are the guest's processes that watch files of shared folders.
func (e Part) watchers(ctx context.Context, f *loop.Facts) []string {
	if !f.CanProbeFolders() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, CleanupLimit)
	defer cancel()
	out := capture.Head{Limit: session.GuestOutputLimit}
	if err := e.RunAsRoot(ctx, f.Conn, "looking at what watches folders", share.WatchScript(), &out); err != nil {
		return nil
	}
	return share.UsedBy([]byte(out.String()))
}

// retryPause is how long another run's look at the guest's folders may take
// until the guest is asked again.
const retryPause = 500 * time.Millisecond

// RetryUnbind has the guest forget a folder once more that it had let go of and
// whose mount was in use all the same. A `code` or `ssh` beside this run, which
// has seen the record from before, looks at all folders in one probe; the guest
// then remembers this one again, and virtiofsd holds it. The third time it is
// no accident. p is the plan that failed with err; its rest is run again.
func (e Part) RetryUnbind(ctx context.Context, l *Detachment, f *loop.Facts, p plan.Plan, err error) error {
	token := share.Token(l.Att.HostPath)
	from := -1
	for i, a := range p.Actions {
		if a.ID == "share.unbind:"+token {
			from = i
		}
	}
	if from < 0 || !f.CanProbeFolders() {
		return err
	}
	rest := plan.Plan{Stage: p.Stage, Actions: p.Actions[from:]}
	for range 2 {
		if ctx.Err() != nil || !errors.Is(err, root.ErrInUse) {
			return err
		}
		if pause.For(ctx, retryPause) != nil {
			return err
		}
		if rerr := e.releaseWithNested(ctx, l, f); rerr != nil {
			return err // what the mount said says more
		}
		if _, err = e.Run(ctx, rest); err == nil {
			return nil
		}
	}
	return err
}

// CleanupLimit bounds how long a run that failed goes on with tidying up.
const CleanupLimit = 20 * time.Second

// Exported is what this machine has of a VM's shared folders, whatever the store
// says.
type ExportFacts struct {
	Tokens []string // that are bound, in order
	HasDir bool     // there is a place for them, or a note of one
}

// ObserveExports looks for what this machine has of the folders of a VM.
func ObserveExports(key string) (x ExportFacts, err error) {
	hf, err := share.ObserveHost(key, nil, nil)
	if err != nil {
		return x, err
	}
	x.Tokens = slices.Sorted(maps.Keys(hf.Tokens))
	_, err = root.ReadVMManifest(key)
	noted := !errors.Is(err, fs.ErrNotExist) || root.DeviceGuardNoted(key)
	_, err = os.Lstat(root.ExportRoot(key))
	x.HasDir = err == nil || noted || len(hf.Export) > 0
	return x, nil
}

// PlanUnexport takes every token of the VM away, and the place for them.
func PlanUnexport(key string, x ExportFacts) (as []plan.Action) {
	for _, t := range x.Tokens {
		op := root.Unbind{VMKey: key, Token: t}
		as = append(as, plan.Action{ID: "share.unbind:" + t, Why: "take the shared folder away", Shows: op.Shows(), Consent: plan.Typed, Root: op})
	}
	if x.HasDir {
		op := root.Unexport{VMKey: key}
		as = append(as, plan.Action{ID: "share.unexport", Why: "remove " + filepath.Base(root.ExportRoot(key)) + "'s place for shared folders", Shows: op.Shows(), Consent: plan.Typed, Root: op})
	}
	return as
}
