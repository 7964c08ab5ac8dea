package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// waitForGuest waits until the guest accepts the login, with progress. It gives up early if the
// domain stops running.
func (e *Env) waitForGuest(ctx context.Context, w *target.Target, f *loop.Facts) error {
	inst, err := e.State().Instance(w.Name)
	if err != nil {
		return err
	}
	if inst == nil {
		return ui.Failed("the state directory of VM %q, with its host key, is missing: %s", w.Name, e.SSH.VMDir(w.Name)).
			Hint(ui.Remark("restore that directory from a backup"), ui.CmdFor("check the VM on its console", w.Libvirt.Virsh("console ")+w.Name),
				ui.CmdFor("or delete the VM and its disk", "aivm vm delete "+w.Name))
	}
	f.Inst = inst
	t, done, err := e.GuestTarget(ctx, w, inst)
	if err != nil {
		return err
	}
	defer done()
	stop := e.Timing.Start("boot")
	defer stop()
	task := e.UI.Task("waiting for " + w.Name)
	wctx, cancel := context.WithTimeout(ctx, e.BootLimit())
	defer cancel()
	wctx, stopWatch := e.WatchDomain(wctx, w.Name)
	defer stopWatch()
	c, err := e.AwaitGuest(wctx, t, func(phase guest.Phase, _ time.Duration) { task.Detail("%s", phase) })
	if err != nil {
		task.Fail()
		if ctx.Err() != nil {
			return &ui.Error{
				Exit: ui.ExitInterrupted, Kind: "interrupted", Message: "interrupted; the VM continues to boot",
				Hints: []ui.Hint{ui.CmdFor("to continue", e.Rerun), ui.CmdFor("to stop the VM", "aivm vm down "+w.Name)}, Err: ctx.Err(),
			}
		}
		var hk *guest.HostKeyError
		if errors.As(err, &hk) {
			return e.HostKeyRefusal(w.Name, err)
		}
		if cause := context.Cause(wctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
			err = cause
		}
		return e.explainWait(ctx, w, inst, err)
	}
	task.Done()
	f.Conn = c
	if err = e.Probe(ctx, c, w, f); err == nil {
		clones.Settle(ctx, w, f)
	}
	return err
}

// planGuest plans what is missing in the guest.
func (e *Env) planGuest(w *target.Target, f *loop.Facts) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Guest}
	if b := f.Guest.Boot; !f.Inst.Adopted && b.Installed && b.Finished && !b.Disabled {
		p.Add(plan.Action{
			ID: "cloudinit.off", Why: "disable cloud-init, since first boot is complete", Timing: "ssh",
			Shows: []string{"touch /etc/cloud/cloud-init.disabled"},
			Do: func(ctx context.Context) error {
				return e.RunAsRoot(ctx, f.Conn, "disabling cloud-init", cloudinit.DisableScript(), nil)
			},
		})
	}
	p.Add(machine.For(e.Loop).PlanClock(w, f)...)
	shared, err := folders.For(e.Loop).PlanGuest(w, f)
	if p.Join(shared); err != nil {
		return p, err
	}
	as, err := clones.For(e.Loop).PlanGuest(w, f)
	if p.Add(as...); err != nil {
		return p, err
	}
	p.Add(settings.For(e.Loop).Plan(w, f)...)
	return p, nil
}

// planFinish plans what is recorded and cleaned up on the host after the guest's plan was applied.
func (e *Env) planFinish(ctx context.Context, w *target.Target, f *loop.Facts) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	// cloud-init reads the seed only in its first stages. They are over when sshd has started with
	// aivm's keys; the guest is asked all the same, since an image may do this differently.
	b := f.Guest.Boot
	if f.Conn != nil && (!b.Installed || b.Disabled || b.Finished || b.SeedRead) {
		pool := domain.PoolFor(f.Domain.Pool.Value, e.BaseDir(w.Record.Paths), session.DefaultBaseDir)
		if as := domain.PlanRemoveSeed(f.Domain, w.Name, e.Key(w.Name), pool, e.Domains(ctx)); len(as) > 0 {
			p.Add(machine.SyncFirstBoot(f))
			p.Add(as...)
		}
		if f.Domain.Domain.Err == nil && f.Domain.Pool.Err == nil && f.Inst != nil && f.Inst.SeedLeft {
			inst := *f.Inst
			inst.SeedLeft = false
			p.Add(plan.Action{
				ID: "seed.forget", Why: "record that the seed was removed", Shows: []string{"write " + e.State().InstancePath(w.Name)},
				Do: func(context.Context) error { return e.State().SaveInstance(w.Name, inst) },
			})
		}
	}
	if w.NewFolder && w.Folder != nil {
		a := *w.Folder
		p.Add(plan.Action{
			ID: "store.attach:" + a.Tag, Why: "record folder " + a.HostPath + " in the config", Shows: []string{"write " + e.StorePath},
			Do: func(ctx context.Context) error {
				if a.Mode == share.Git {
					if err := session.StateErr(e.State().VM(a.VM), e.State().NoteClone(a)); err != nil {
						return err
					}
				}
				return config.Update(ctx, e.StorePath, func(c *config.Config) error {
					rec := config.Attachment{HostPath: a.HostPath, VMName: a.VM, Mode: string(a.Mode), Access: a.Access, GuestDst: a.GuestDst, Tag: a.Tag, TypedPath: a.Typed, Protect: a.Protect}
					c.UpsertAttachment(rec)
					return nil
				})
			},
		})
		return p
	}
	if w.NewTyped {
		p.Add(folders.For(e.Loop).RecordTyped(*w.Folder))
	}
	if w.NewProtect {
		p.Add(folders.For(e.Loop).RecordProtect(*w.Folder))
	}
	return p
}

// explainWait adds to the error of a failed wait what the host knows: the state of the domain, the
// address, the last lines of the serial console.
func (e *Env) explainWait(ctx context.Context, w *target.Target, inst *state.Instance, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	msg := fmt.Sprintf("VM %q did not become reachable at %s", w.Name, inst.Address)
	domainState := "unknown"
	var serial, why []string
	if l, lerr := e.Libvirt(ctx); lerr == nil {
		if d, derr := l.Domain(ctx, w.Name); derr == nil {
			domainState = string(d.State)
			if d.Crashed {
				domainState += ", QEMU crashed or was killed"
				why = []string{"to see QEMU's last messages: sudo tail -n 5 /var/log/libvirt/qemu/" + w.Name + ".log"}
			}
		} else if errors.Is(derr, virt.ErrNotFound) {
			domainState = "gone"
		}
		serial = e.SerialTail(ctx, l, w, 12)
	}
	out := ui.Failed("%s: %w (domain state: %s)", msg, err, domainState)
	if errors.Is(err, loop.ErrNoBridge) {
		return out.Hint(ui.Cmd("aivm vm restart " + w.Name))
	}
	for _, s := range serial {
		out.Hint(ui.Remark("serial: " + s))
	}
	for _, s := range append(why, walls.For(e.Loop).WhyCutOff(ctx, w)...) {
		out.Hint(ui.Remark(s))
	}
	return out.Hint(ui.CmdFor("watch the console", w.Libvirt.Virsh("console ")+w.Name), ui.Cmd("aivm vm status "+w.Name), ui.CmdFor("try again", e.Rerun))
}
