package provision

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/share"
)

// notAdopted refuses a VM of the store that aivm 0.3 made and nobody has taken
// over: it is listed and can be reached by ssh, and nothing else.
func notAdopted(vm string) error {
	return ui.Refused("VM name %q is taken by a domain aivm did not make, nor has taken over", vm).
		Hint("made by aivm 0.3? see what taking it over means: aivm vm adopt "+vm+" --dry-run",
			"to get into it as it is: ssh "+vm, "not yours? give your VM another name: aivm config edit")
}

// planMove gives a VM that was taken over, and is off, aivm's device for folders
// instead of those 0.3 gave it. One that runs keeps what it has until it stops.
func (e *Env) planMove(w *want, f *facts) ([]plan.Action, error) {
	d := f.domain.Domain.Value
	switch {
	case !w.unmoved || d == nil || d.SharedRAM && d.State != virt.Off && w.folder == nil:
		return nil, nil
	case !d.SharedRAM && w.folder == nil:
		return nil, nil
	case !d.SharedRAM:
		return nil, ui.Refused("VM %q was made without shared memory, so folders of this machine cannot be shared with it", w.name).
			Hint("use a clone of the repository instead: aivm attach FOLDER --mode git --vm " + w.name)
	case d.State != virt.Off:
		return nil, ui.Refused("the folders of VM %q, which was taken over, can be shared by aivm once it was stopped", w.name).
			Hint("aivm vm restart "+w.name, "until then: ssh "+w.name)
	}
	device, err := domain.ShareDevice(root.ExportRoot(e.key(w.name)), share.FSTag)
	if err != nil {
		return nil, err
	}
	in := *f.inst
	in.Moved = true
	old := root.OldShares{BaseDir: e.baseDir(w.record.Paths), VM: w.name}
	return []plan.Action{{
		ID: "adopt.unbind", Why: "take the folders away that aivm 0.3 bound for " + w.name, Shows: old.Shows(), Root: old, Timing: "define",
	}, {
		ID: "adopt.move", Why: "share the folders of " + w.name + " through aivm's one device from now on", Again: true, Timing: "define",
		Shows: []string{"virsh attach-device " + w.name + " (virtiofs " + share.FSTag + ") --config", "virsh detach-device " + w.name + " (what 0.3 shared folders with) --config"},
		Do: func(ctx context.Context) error {
			l, err := e.libvirt(ctx)
			if err != nil {
				return err
			}
			if err := l.SwapFilesystems(ctx, w.name, device); err != nil {
				return err
			}
			return e.state().SaveInstance(w.name, in)
		},
	}}, nil
}

// oldShell gets into a VM nobody has taken over yet the way 0.3 did: by the
// entry it left in the user's ssh configuration. It reports false for any other.
func (e *Env) oldShell(ctx context.Context, w *want, command []string) (bool, error) {
	if inst, err := e.state().Instance(w.name); w.newVM || err != nil || inst != nil {
		return false, nil
	}
	l, err := e.libvirt(ctx)
	if err != nil {
		return false, nil
	}
	d, err := l.Domain(ctx, w.name)
	if err != nil || d.Mark.Ours {
		return false, nil
	}
	if d.State != virt.Running {
		return true, notAdopted(w.name)
	}
	if err := e.SSH.Guarded(); err != nil {
		return true, err
	}
	args := append(e.SSH.SSHArgs(), "-o", "StrictHostKeyChecking=yes", "-o", "ForwardAgent=no")
	if e.UI.InTTY && len(command) == 0 {
		args = append(args, "-t")
	}
	args = append(args, "--", w.name)
	for _, c := range command {
		args = append(args, shellQuote(c))
	}
	if e.DryRun {
		e.UI.Result("DRYRUN: would open a shell in VM %s, as it is", w.name)
		return true, nil
	}
	resume := e.UI.Suspend()
	defer resume()
	cmd := exec.CommandContext(ctx, "ssh", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.UI.In, e.UI.Out, e.UI.Err
	err = cmd.Run()
	var ee *exec.ExitError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &ee) && ee.ExitCode() >= 0:
		return true, ui.Status(ee.ExitCode())
	}
	return true, fmt.Errorf("starting ssh: %w", err)
}

// unadopted is the state of a VM of the store that is there without aivm's mark.
func (e *Env) unadopted(ctx context.Context, vm string) (virt.State, bool) {
	l, err := e.libvirt(ctx)
	if err != nil {
		return "", false
	}
	d, err := l.Domain(ctx, vm)
	if err != nil || d.Mark.Ours {
		return "", false
	}
	return d.State, true
}

// planDeleteAdopted removes the files of a VM that was taken over.
func (e *Env) planDeleteAdopted(dd *deletion) (out []plan.Action) {
	in, err := e.state().Instance(dd.w.name)
	if err != nil || in == nil || !in.Adopted || dd.domain == nil {
		return nil
	}
	base := e.baseDir(dd.w.record.Paths)
	defer func() {
		old := root.OldShares{BaseDir: base, VM: dd.w.name}
		out = append(out, plan.Action{ID: "adopt.unbind", Why: "take the folders away that aivm 0.3 bound for it", Shows: old.Shows(), Root: old, Consent: plan.Typed})
	}()
	cached := filepath.Join(e.expand(cmp.Or(dd.w.record.Paths.StateDir, "~/.cache/aivm")), dd.w.name, dd.w.name+".ip")
	if _, err := os.Lstat(cached); err == nil {
		out = append(out, plan.Action{
			ID: "adopt.forget", Why: "forget the address aivm 0.3 remembered", Shows: []string{"rm " + cached}, Consent: plan.Typed,
			Do: func(context.Context) error {
				if err := os.Remove(cached); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
				_ = os.Remove(filepath.Dir(cached)) // if nothing else is in it
				return nil
			},
		})
	}
	for dir, files := range adoptedFiles(dd.domain, base, dd.w.name, dd.w.record.Image.CacheName) {
		pool := domain.PoolFor(nil, dir, base)
		shows := make([]string, len(files))
		for i, f := range files {
			shows[i] = "rm " + dir + "/" + f
		}
		out = append(out, plan.Action{
			ID: "adopt.delete:" + dir, Why: "delete what aivm 0.3 kept of it in " + dir, Shows: shows, Consent: plan.Typed,
			Do: func(ctx context.Context) error { return dd.conn.RemoveFiles(ctx, pool, dir, files) },
		})
	}
	return out
}

// checkOurs refuses a VM of the store that is somebody else's, or nobody's yet.
func (e *Env) checkOurs(w *want, d *virt.Domain) error {
	if !d.Mark.Ours {
		return notAdopted(w.name)
	}
	return domain.CheckOurs(d, e.UID)
}
