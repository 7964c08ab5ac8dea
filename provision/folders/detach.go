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
	Force  bool // if the folder is in use, unmount it when the VM next stops
}

// Detachment is a folder that is to be detached from a VM.
type Detachment struct {
	W   *target.Target
	Att share.Attachment
	Rec bool // the config has a record; false: only a mount of an interrupted run exists
	// Special is what a search found after the VM had lost write access.
	Special []SpecialFile
}

// FindDetachment finds the attachment, or the unrecorded mount, that the options
// name. It returns a *NotAttachedError if there is neither.
func (e Part) FindDetachment(ctx context.Context, o DetachOptions) (*Detachment, error) {
	typed, resolved, err := pathOf(o.Folder)
	if err != nil {
		return nil, err
	}
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	c := &store.Config
	found := c.AttachedAs(typed, resolved, o.VM)
	switch len(found) {
	case 0:
		return e.findUnrecorded(store, o, typed, resolved)
	case 1:
	default:
		if found, err = e.chooseRecord(ctx, c, found); err != nil {
			return nil, err
		}
	}
	a := share.Recorded(found[0])
	return e.newDetachment(store, a, true)
}

// newDetachment builds the Detachment of a folder whose record may be missing.
func (e Part) newDetachment(store *config.Store, a share.Attachment, recorded bool) (*Detachment, error) {
	u, err := store.Config.LibvirtOf(a.VM)
	if err != nil {
		return nil, err
	}
	e.UseLibvirt(u)
	return &Detachment{W: &target.Target{Store: store, Name: a.VM, Libvirt: u, Guest: true, LoginLimit: detachPatience}, Att: a, Rec: recorded}, nil
}

// chooseRecord picks one of several records of the same folder: that of the
// active VM, else the one the user chooses. Without a terminal it refuses.
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

// findUnrecorded finds a mount that an interrupted run made for a VM and never
// recorded in the config.
func (e Part) findUnrecorded(store *config.Store, o DetachOptions, typed, resolved string) (*Detachment, error) {
	c := &store.Config
	for _, r := range c.AttachmentsOf(resolved) {
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
		for _, p := range []string{resolved, typed} {
			if len(hf.Tokens[share.Token(p)]) > 0 {
				a := share.Attachment{HostPath: p, VM: vm, Mode: share.SharedRoot, Access: "rw", GuestDst: p, Tag: share.Token(p)}
				return e.newDetachment(store, a, false)
			}
		}
	}
	none := &NotAttachedError{Folder: resolved}
	if res, err := store.Resolve(resolved, o.VM); err == nil {
		none.VM = res.VM
	}
	return nil, none
}

// NotAttachedError reports that the folder is not attached. VM is the VM the
// command would have used, "" if that is none.
type NotAttachedError struct{ Folder, VM string }

// Error names the folder.
func (e *NotAttachedError) Error() string { return "folder " + e.Folder + " is not attached" }

// pathOf returns a path as typed, made absolute, and with symbolic links resolved
// in the part of it that still exists.
func pathOf(arg string) (typed, resolved string, err error) {
	typed, err = filepath.Abs(arg)
	if err != nil {
		return "", "", ui.Refused("the working directory is gone: %w", err).Hint(ui.CmdFor("give the absolute path of the folder", "aivm detach /its/path"), ui.Cmd("aivm list"))
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

// ObserveDetach reads the host's mounts. It contacts libvirt and the guest only
// if the folder is mounted for the VM or may have a device of its own.
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

// PlanDetach plans to detach a folder. The first action marks the record as
// "detaching", so that no later run mounts the folder again if this one is killed.
// Then the guest unmounts it, libvirt detaches its device, the host unmounts it,
// and the record is removed. unremote are the actions that remove the git remote
// of a folder in git mode from its repository.
func (e Part) PlanDetach(l *Detachment, f *loop.Facts, unremote []plan.Action) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	a, token := l.Att, share.Token(l.Att.HostPath)
	bound := len(f.Share.Tokens[token]) > 0
	if bound && l.Rec && a.State != share.Detaching {
		p.Add(e.RecordState(a, share.Detaching, "store.detaching:"+token, "record that the folder is being detached"))
	}
	if bound {
		if f.CanProbeFolders() {
			p.Add(plan.Action{
				ID: "share.release:" + token, Why: fmt.Sprintf("unmount folder %s in VM %s", a.HostPath, l.W.Name), Timing: "share",
				Shows: []string{"umount " + shellescape.Quote(a.GuestDst) + " (in the guest)"},
				Do:    func(ctx context.Context) error { return e.releaseWithNested(ctx, l, f) },
			})
		}
	}
	p.Add(e.PlanDetachDevice(l.W, f, a)...)
	if bound {
		op := root.Unbind{VMKey: e.Key(l.W.Name), Token: token}
		p.Add(plan.Action{
			ID: "share.unbind:" + token, Why: fmt.Sprintf("unmount folder %s from the export directory of VM %s", a.HostPath, l.W.Name),
			Shows: op.Shows(), Root: op, Timing: "share",
		})
	}
	if l.Rec {
		p.Add(unremote...)
		p.Add(e.DropRecord(a))
	}
	return p
}

// DropRecord removes the folder's record from the config, and what the state
// directory has about it.
func (e Part) DropRecord(a share.Attachment) plan.Action {
	return plan.Action{
		ID: "store.detach:" + share.Token(a.HostPath), Why: "remove the folder from the config", Shows: []string{"write " + e.StorePath},
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

// detachPatience is how long detach waits for an SSH login. Unlike the other
// commands, detach does not wait for a guest that is still booting.
const detachPatience = 30 * time.Second

// releaseLimit is how long the guest may take to unmount a folder.
const releaseLimit = 90 * time.Second

// releaseWithNested unmounts the folder in the guest, after the folders mounted
// below it; those are mounted again with the next mounts. From then on the facts
// of the run do not include the folder.
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

// EndFailedDetach ends a run that could not unmount the folder, for the reason
// why. Without --force it restores the record and the guest's mounts, and returns
// an error. With --force it hides the folder from programs the VM starts from now
// on, leaves the mount on the host until the VM stops, and returns nil.
func (e Part) EndFailedDetach(ctx context.Context, l *Detachment, f *loop.Facts, o DetachOptions, why error) error {
	if ctx.Err() != nil {
		return e.WithRerunHint(why)
	}
	hf, err := e.Shared(l.W.Name, nil)
	if err != nil || len(hf.Tokens[share.Token(l.Att.HostPath)]) == 0 || !l.Rec && !o.Force {
		return e.WithRerunHint(why) // the folder being in use is not the cause
	}
	if o.Force && l.Rec {
		// Keep libvirt's hook from mounting it again at the next start.
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
	// Restore the record, and the mounts that the guest has unmounted.
	restore := plan.Plan{Stage: plan.Host}
	if l.Rec {
		restore.Add(e.RecordState(l.Att, l.Att.State, "store.attached:"+share.Token(l.Att.HostPath), "record that the folder stays attached"))
	}
	if _, err := e.Run(ctx, restore); err != nil {
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
		why = fmt.Errorf("%w; in the VM, %s may be watching its files (inotify)", why, strings.Join(by, ", "))
	}
	q := shellescape.Quote(l.Att.HostPath) + " --vm " + l.W.Name
	out := ui.Refused("folder %s stays attached to VM %s: %w", l.Att.HostPath, l.W.Name, why)
	if !f.CanProbeFolders() {
		out = ui.Refused("folder %s stays attached to VM %s, which does not answer (%v) and so cannot unmount it: %w", l.Att.HostPath, l.W.Name, f.ConnErr, why)
	}
	out.Hints = nil
	return out.Hint(ui.CmdFor("end the programs that use it, then", "aivm detach "+q),
		ui.CmdFor("or stop the VM, which releases everything", "aivm vm down "+l.W.Name+" && aivm detach "+q),
		ui.CmdFor("or let the VM keep the files it has open until it stops", "aivm detach "+q+" --force"))
}

// watchers returns the guest's processes that watch files of shared folders with
// inotify; nil if that cannot be found out.
func (e Part) watchers(ctx context.Context, f *loop.Facts) []string {
	if !f.CanProbeFolders() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, CleanupLimit)
	defer cancel()
	out := capture.Head{Limit: session.GuestOutputLimit}
	if err := e.RunAsRoot(ctx, f.Conn, "finding the processes that watch folders", share.WatchScript(), &out); err != nil {
		return nil
	}
	return share.UsedBy([]byte(out.String()))
}

// retryPause is the time between two attempts to unmount a folder; another run's
// probe of the guest's folders takes less.
const retryPause = 500 * time.Millisecond

// RetryUnbind unmounts a folder again, in the guest and then on the host, if the
// host's mount was in use although the guest had unmounted the folder. That
// happens when a `code` or `ssh` runs at the same time: it has read the record
// from before and probes all folders, the guest's kernel caches this one again,
// and virtiofsd keeps it open. It tries twice; after that something else holds
// the folder. p is the plan that failed with err; its remaining actions run again.
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
			return err // the error of the host's mount is the more useful one
		}
		if _, err = e.Run(ctx, rest); err == nil {
			return nil
		}
	}
	return err
}

// CleanupLimit is how long a failed run may spend on cleaning up.
const CleanupLimit = 20 * time.Second

// ExportFacts is what exists on the host for a VM's shared folders, independent
// of the config.
type ExportFacts struct {
	Tokens []string          // the mounted ones, sorted
	Paths  map[string]string // by token: the folder's path, or the mount point if that is not known
	HasDir bool              // the export directory exists, or a record of it does
}

// ObserveExports reads what exists on the host for the folders of a VM.
func ObserveExports(key string) (x ExportFacts, err error) {
	hf, err := share.ObserveHost(key, nil, nil)
	if err != nil {
		return x, err
	}
	x.Tokens, x.Paths = slices.Sorted(maps.Keys(hf.Tokens)), map[string]string{}
	for _, r := range hf.ExportedFolders() {
		x.Paths[r.Token] = r.Path
	}
	_, err = root.ReadVMManifest(key)
	noted := !errors.Is(err, fs.ErrNotExist) || root.DeviceGuardRecorded(key)
	_, err = os.Lstat(root.ExportRoot(key))
	x.HasDir = err == nil || noted || len(hf.Export) > 0
	return x, nil
}

// PlanUnexport plans to unmount every shared folder of the VM and to remove its
// export directory.
func PlanUnexport(key string, x ExportFacts) (as []plan.Action) {
	for _, t := range x.Tokens {
		op := root.Unbind{VMKey: key, Token: t}
		folder := x.Paths[t]
		if folder == "" {
			folder = t
		}
		as = append(as, plan.Action{ID: "share.unbind:" + t, Why: "unmount folder " + folder, Group: "unmount %d folders", Shows: op.Shows(), Consent: plan.Typed, Root: op})
	}
	if x.HasDir {
		op := root.Unexport{VMKey: key}
		as = append(as, plan.Action{ID: "share.unexport", Why: "remove the export directory " + root.ExportRoot(key), Shows: op.Shows(), Consent: plan.Typed, Root: op})
	}
	return as
}
