package legacy03

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"aivm.dev/aivm/provision/session"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// PlanMove gives a VM that was taken over, and is off, aivm's device for folders
// instead of those 0.3 gave it. One that runs keeps what it has until it stops.
func (e Part) PlanMove(w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	d := f.Domain.Domain.Value
	switch {
	case !f.LacksFolderDevice() || d == nil || d.SharedRAM && d.State != virt.Off && w.Folder == nil:
		return nil, nil
	case !d.SharedRAM && w.Folder == nil:
		return nil, nil
	case !d.SharedRAM:
		return nil, ui.Refused("VM %q was made without shared memory, so folders of this machine cannot be shared with it", w.Name).
			Hint(ui.CmdFor("use a clone of the repository instead", "aivm attach FOLDER --mode git --vm "+w.Name))
	case d.State != virt.Off:
		return nil, ui.Refused("the folders of VM %q, which was taken over, can be shared by aivm once it was stopped", w.Name).
			Hint(ui.Cmd("aivm vm restart "+w.Name), ui.CmdFor("until then", "ssh "+w.Name))
	}
	device, err := domain.ShareDevice(root.ExportRoot(e.Key(w.Name)), share.FSTag)
	if err != nil {
		return nil, err
	}
	in := *f.Inst
	in.HasFolderDevice = true
	old := root.OldShares{BaseDir: e.BaseDir(w.Record.Paths), VM: w.Name}
	return []plan.Action{{
		ID: "adopt.unbind", Why: "take the folders away that aivm 0.3 bound for " + w.Name, Shows: old.Shows(), Root: old, Timing: "define",
	}, {
		ID: "adopt.move", Why: "share the folders of " + w.Name + " through aivm's one device from now on", Again: true, Timing: "define",
		Shows: []string{"virsh attach-device " + w.Name + " (virtiofs " + share.FSTag + ") --config", "virsh detach-device " + w.Name + " (what 0.3 shared folders with) --config"},
		Do: func(ctx context.Context) error {
			l, err := e.Libvirt(ctx)
			if err != nil {
				return err
			}
			if err := l.SwapFilesystems(ctx, w.Name, device); err != nil {
				return err
			}
			return e.State().SaveInstance(w.Name, in)
		},
	}}, nil
}

// Shell gets into a VM nobody has taken over yet the way 0.3 did: by the
// entry it left in the user's ssh configuration. It reports false for any other.
func (e Part) Shell(ctx context.Context, w *target.Target, command []string) (bool, error) {
	if inst, err := e.State().Instance(w.Name); w.NewVM || err != nil || inst != nil {
		return false, nil
	}
	l, err := e.Libvirt(ctx)
	if err != nil {
		return false, nil
	}
	d, err := l.Domain(ctx, w.Name)
	if err != nil || d.Mark.Ours {
		return false, nil
	}
	if d.State != virt.Running {
		return true, target.NotAdopted(w.Name)
	}
	if err := e.SSH.Guarded(); err != nil {
		return true, err
	}
	args := append(e.SSH.SSHArgs(), "-o", "StrictHostKeyChecking=yes", "-o", "ForwardAgent=no")
	if e.InTTY && len(command) == 0 {
		args = append(args, "-t")
	}
	args = append(args, "--", w.Name)
	for _, c := range command {
		args = append(args, shellescape.Quote(c))
	}
	if e.DryRun {
		return true, &session.DryRun{Last: "DRYRUN: would open a shell in VM " + w.Name + ", as it is"}
	}
	endSuspend := e.UI.Suspend()
	defer endSuspend()
	cmd := exec.CommandContext(ctx, "ssh", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.Stdin, e.Stdout, e.Stderr
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

// Unadopted is the state of a VM of the store that is there without aivm's mark.
func (e Part) Unadopted(ctx context.Context, vm config.VM) (virt.State, bool) {
	u, err := vm.VM.Libvirt()
	if err != nil {
		return "", false
	}
	l, err := e.LibvirtAt(ctx, u)
	if err != nil {
		return "", false
	}
	d, err := l.Domain(ctx, vm.Name)
	if err != nil || d.Mark.Ours {
		return "", false
	}
	return d.State, true
}

// Remains is what aivm 0.3 left of a VM that is to go.
type Remains struct {
	Adopted bool   // the VM was taken over
	Address string // the file in which 0.3 kept the VM's address; empty if it is not there
}

// ObserveRemains looks for what aivm 0.3 left of a VM, d, that was taken over.
func (e Part) ObserveRemains(w *target.Target, d *virt.Domain) (r Remains) {
	in, err := e.State().Instance(w.Name)
	if err != nil || in == nil || !in.Adopted || d == nil {
		return r
	}
	r.Adopted = true
	cached := filepath.Join(e.Expand(cmp.Or(w.Record.Paths.StateDir, "~/.cache/aivm")), w.Name, w.Name+".ip")
	if _, err := os.Lstat(cached); err == nil {
		r.Address = cached
	}
	return r
}

// PlanDeleteAdopted removes the files of a VM that was taken over.
func (e Part) PlanDeleteAdopted(w *target.Target, conn *virt.Conn, d *virt.Domain, r Remains) (out []plan.Action) {
	if !r.Adopted {
		return nil
	}
	base := e.BaseDir(w.Record.Paths)
	defer func() {
		old := root.OldShares{BaseDir: base, VM: w.Name}
		out = append(out, plan.Action{ID: "adopt.unbind", Why: "take the folders away that aivm 0.3 bound for it", Shows: old.Shows(), Root: old, Consent: plan.Typed})
	}()
	if cached := r.Address; cached != "" {
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
	for _, a := range adoptedFiles(d, base, w.Name, w.Record.Image.CacheName) {
		dir, files := a.dir, a.files
		pool := domain.PoolFor(nil, dir, base)
		shows := make([]string, len(files))
		for i, f := range files {
			shows[i] = "rm " + dir + "/" + f
		}
		out = append(out, plan.Action{
			ID: "adopt.delete:" + dir, Why: "delete what aivm 0.3 kept of it in " + dir, Shows: shows, Consent: plan.Typed,
			Do: func(ctx context.Context) error { return conn.RemoveFiles(ctx, pool, dir, files) },
		})
	}
	return out
}
