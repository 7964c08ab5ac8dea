package provision

import (
	"context"
	"errors"
	"time"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// CreateOptions are the flags of `vm create`.
type CreateOptions struct {
	Name       string // "" = the default name
	Image      string
	Size       host.Size // 0 = as configured, else chosen from the host
	SetDefault bool
}

// Create makes a VM that must not exist yet and waits until it can be used.
// A run that was killed half-way is finished: its record is not there yet.
func (e *Env) Create(ctx context.Context, o CreateOptions) error {
	e.Timing = ui.NewTiming("image", "define", "boot", "ssh")
	store, err := e.Load()
	if err != nil {
		return err
	}
	name := o.Name
	if name == "" {
		name = store.Config.Defaults.VM.Name
	}
	if _, ok := store.Config.FindVM(name); ok {
		return ui.Refused("VM %q already exists in config store", name).
			Hint("start it: aivm vm up "+name, "to make it anew: aivm vm delete "+name+", then aivm vm create "+name)
	}
	w := &target.Target{Store: store}
	if err := e.NewVM(w, name); err != nil {
		return err
	}
	if err := e.FreeName(w); err != nil {
		return err
	}
	if err := w.ChooseImage(o.Image); err != nil {
		return err
	}
	for _, k := range []struct{ to, from *int }{{&w.Wish.CPUs, &o.Size.CPUs}, {&w.Wish.RAMMB, &o.Size.RAMMB}, {&w.Wish.DiskGB, &o.Size.DiskGB}} {
		if *k.from != 0 {
			*k.to = *k.from
		}
	}
	w.Active = w.Active || o.SetDefault
	w.SetActive = o.SetDefault
	return e.bring(ctx, w)
}

// Up starts a VM and waits until it can be used.
func (e *Env) Up(ctx context.Context, name string) error {
	e.Timing = ui.NewTiming("define", "boot", "ssh")
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return err
	}
	return e.bring(ctx, w)
}

func (e *Env) bring(ctx context.Context, w *target.Target) error {
	w.Boot, w.Guest = true, true
	f, err := e.Converge(ctx, w)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := machine.For(e.Loop).CheckAlias(ctx, w, f); err != nil {
		return err
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(session.VMResult{Schema: 1, VM: w.Name, State: "running", Alias: w.Name, Address: f.Inst.Address, Seconds: session.Seconds(e.Timing)})
	}
	e.UI.Result("VM %s is up at %s (ssh %s)", w.Name, f.Inst.Address, w.Name)
	e.UI.Say("%s", e.Timing.Line())
	return nil
}

// Down stops a VM: politely, or at once with force.
func (e *Env) Down(ctx context.Context, name string, force bool) error {
	w, d, err := e.Ours(ctx, name)
	if err != nil {
		return err
	}
	p := plan.Plan{Stage: plan.Host, Actions: domain.PlanStop(d, force, e.Domains(ctx))}
	if e.DryRun {
		return e.PrintPlain("down", w.Name, p)
	}
	if d == nil || d.State == virt.Off {
		if err := folders.For(e.Loop).FinishLeaving(ctx, w.Name); err != nil {
			return err
		}
		return e.Said(w.Name, "off", "VM %s is not running", w.Name)
	}
	if err := e.Stop(ctx, w.Name, e.stopAgain(w.Name, force)); err != nil {
		return err
	}
	return e.Said(w.Name, "off", "VM %s is off", w.Name)
}

// Restart stops a VM and starts it again.
func (e *Env) Restart(ctx context.Context, name string, force bool) error {
	w, d, err := e.Ours(ctx, name)
	if err != nil {
		return err
	}
	p := plan.Plan{Stage: plan.Host, Actions: domain.PlanStop(d, force, e.Domains(ctx))}
	if p.Empty() {
		return e.Up(ctx, w.Name)
	}
	if e.DryRun {
		p.Add(plan.Action{ID: "domain.start", Why: "start the VM " + w.Name, Shows: []string{"virsh start " + w.Name}})
		return e.PrintPlain("restart", w.Name, p)
	}
	if err := e.Stop(ctx, w.Name, e.stopAgain(w.Name, force)); err != nil {
		return err
	}
	return e.Up(ctx, w.Name)
}

// Stopped is what is left to do once a VM is off.
func (e *Env) Stopped(ctx context.Context, vm string) error {
	return folders.For(e.Loop).FinishLeaving(ctx, vm)
}

// stopAgain plans to stop a VM as it is by then.
func (e *Env) stopAgain(vm string, force bool) func(context.Context) (plan.Plan, error) {
	return func(ctx context.Context) (plan.Plan, error) {
		_, d, err := e.Ours(ctx, vm)
		return plan.Plan{Stage: plan.Host, Actions: domain.PlanStop(d, force, e.Domains(ctx))}, err
	}
}

// WaitIP waits until the guest answers and prints its address.
func (e *Env) WaitIP(ctx context.Context, name string, limit time.Duration) error {
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return err
	}
	in, err := e.State().Instance(w.Name)
	if err != nil {
		return err
	}
	if in == nil {
		return ui.Refused("VM %q was not made yet", w.Name).Hint("aivm vm up " + w.Name)
	}
	if e.DryRun {
		e.UI.Result("DRYRUN: would wait for %s at %s", w.Name, in.Address)
		return nil
	}
	t, done, err := e.GuestTarget(ctx, w, in)
	if err != nil {
		return err
	}
	defer done()
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	wctx, stop := e.WatchDomain(wctx, w.Name)
	defer stop()
	task := e.UI.Task("waiting for " + w.Name)
	c, err := e.AwaitGuest(wctx, t, func(phase guest.Phase, _ time.Duration) { task.Detail("%s", phase) })
	if err != nil {
		task.Fail()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if cause := context.Cause(wctx); errors.Is(cause, loop.ErrNotRunning) {
			err = cause
		}
		return e.explainWait(ctx, w, in, err)
	}
	task.Done()
	_ = c.Close()
	if e.UI.JSON {
		return e.UI.PrintJSON(session.VMResult{Schema: 1, VM: w.Name, State: "running", Alias: w.Name, Address: in.Address})
	}
	e.UI.Result("%s", in.Address)
	return nil
}

// SSHConfig prints the ssh entry of a VM, for configurations aivm cannot edit.
func (e *Env) SSHConfig(ctx context.Context, name string) error {
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return err
	}
	in, err := e.State().Instance(w.Name)
	if err != nil {
		return err
	}
	if in == nil {
		return ui.Refused("VM %q was not made yet", w.Name).Hint("aivm vm up " + w.Name)
	}
	st := e.Stanza(w.Name, *in)
	b, err := sshcfg.Render(st)
	if err != nil {
		return err
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(map[string]any{
			"schema": 1, "vm": w.Name, "alias": st.Alias, "hostname": st.HostName, "port": st.Port, "user": st.User,
			"identities": st.Identities, "known_hosts": st.KnownHosts, "file": e.SSH.ConfPath(w.Name), "text": string(b),
		})
	}
	_, err = e.UI.Out.Write(b)
	return err
}
