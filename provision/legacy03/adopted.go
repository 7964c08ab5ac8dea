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

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// PlanMove plans to give an adopted VM that is off aivm's virtiofs device instead of the folder
// devices of 0.3. A running VM keeps its devices until it stops.
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
		return nil, ui.Refused("adopted VM %q must be stopped once before aivm can share folders with it", w.Name).
			Hint(ui.Cmd("aivm vm restart "+w.Name), ui.CmdFor("until then, only ssh works", "ssh "+w.Name))
	}
	device, err := domain.ShareDevice(root.ExportRoot(e.Key(w.Name)), share.FSTag)
	if err != nil {
		return nil, err
	}
	in := *f.Inst
	in.HasFolderDevice = true
	old := root.OldShares{BaseDir: e.BaseDir(w.Record.Paths), VM: w.Name}
	return []plan.Action{{
		ID: "adopt.unbind", Why: "unmount the folders that aivm 0.3 mounted for VM " + w.Name, Shows: old.Shows(), Root: old, Timing: "define",
	}, {
		ID: "adopt.move", Why: "replace the folder devices of aivm 0.3 in VM " + w.Name + " by aivm's one virtiofs device", Again: true, Timing: "define",
		Shows: []string{"virsh attach-device " + w.Name + " (virtiofs " + share.FSTag + ") --config", "virsh detach-device " + w.Name + " (the folder devices of 0.3) --config"},
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

// Shell opens a shell in a VM of 0.3 that is not adopted, as 0.3 did: by the entry it wrote
// to the user's ssh configuration. flags are ssh's options for a terminal. It reports false for any
// other VM.
func (e Part) Shell(ctx context.Context, w *target.Target, command, flags []string) (bool, error) {
	if inst, err := e.State().Instance(w.Name); w.NewVM || err != nil || inst != nil {
		return false, nil
	}
	l, err := e.Libvirt(ctx)
	if err != nil {
		return false, nil
	}
	d, err := l.Domain(ctx, w.Name)
	if err != nil || d.Mark.Exists {
		return false, nil
	}
	if d.State != virt.Running {
		return true, target.NotAdopted(w.Name)
	}
	if err := e.SSH.Guarded(); err != nil {
		return true, err
	}
	args := append(e.SSH.SSHArgs(), "-o", "StrictHostKeyChecking=yes", "-o", "ForwardAgent=no")
	args = append(append(args, flags...), "--", w.Name)
	if len(command) > 0 {
		line, err := guest.CommandLine(command)
		if err != nil {
			return true, err
		}
		args = append(args, line)
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

// Unadopted returns the state of a VM of the config whose domain has no mark of aivm, and
// whether it is such a VM.
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
	if err != nil || d.Mark.Exists {
		return "", false
	}
	return d.State, true
}

// Remains is what aivm 0.3 left on disk for a VM that is to be deleted.
type Remains struct {
	Adopted bool   // the VM is an adopted one
	Address string // the file in which 0.3 cached the VM's address; empty if it does not exist
}

// ObserveRemains finds what aivm 0.3 left on disk for the adopted VM with the domain d.
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

// PlanDeleteAdopted plans to remove the files of an adopted VM.
func (e Part) PlanDeleteAdopted(w *target.Target, conn *virt.Conn, d *virt.Domain, r Remains) (out []plan.Action) {
	if !r.Adopted {
		return nil
	}
	base := e.BaseDir(w.Record.Paths)
	defer func() {
		old := root.OldShares{BaseDir: base, VM: w.Name}
		out = append(out, plan.Action{ID: "adopt.unbind", Why: "unmount the folders that aivm 0.3 mounted for it", Shows: old.Shows(), Root: old, Consent: plan.Typed})
	}()
	if cached := r.Address; cached != "" {
		out = append(out, plan.Action{
			ID: "adopt.forget", Why: "delete the address that aivm 0.3 cached", Shows: []string{"rm " + cached}, Consent: plan.Typed,
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
			ID: "adopt.delete:" + dir, Why: "delete the files of aivm 0.3 in " + dir, Shows: shows, Consent: plan.Typed,
			Do: func(ctx context.Context) error { return conn.RemoveFiles(ctx, pool, dir, files) },
		})
	}
	return out
}
