package provision

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/sshcfg"
)

// CreateOptions are the flags of `vm create`.
type CreateOptions struct {
	Name       string // "" = the default name
	Image      string
	Size       host.Size // 0 = as configured, else chosen from the host
	SetDefault bool
}

// VMResult is what `vm create` and `vm up` print with --json.
type VMResult struct {
	Schema  int                `json:"schema"`
	VM      string             `json:"vm"`
	State   string             `json:"state"`
	Alias   string             `json:"alias"`
	Address string             `json:"address"`
	Seconds map[string]float64 `json:"seconds,omitempty"`
}

// Create makes a VM that must not exist yet and waits until it can be used.
// A run that was killed half-way is finished: its record is not there yet.
func (e *Env) Create(ctx context.Context, o CreateOptions) error {
	e.timing = ui.NewTiming("image", "define", "boot", "ssh")
	store, err := e.load()
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
	w := &want{store: store}
	if err := e.wantNew(w, name); err != nil {
		return err
	}
	if err := e.freeName(w); err != nil {
		return err
	}
	if err := w.chooseImage(o.Image); err != nil {
		return err
	}
	for _, k := range []struct{ to, from *int }{{&w.wish.CPUs, &o.Size.CPUs}, {&w.wish.RAMMB, &o.Size.RAMMB}, {&w.wish.DiskGB, &o.Size.DiskGB}} {
		if *k.from != 0 {
			*k.to = *k.from
		}
	}
	w.active = w.active || o.SetDefault
	w.setActive = o.SetDefault
	return e.bring(ctx, w)
}

// Up starts a VM and waits until it can be used.
func (e *Env) Up(ctx context.Context, name string) error {
	e.timing = ui.NewTiming("define", "boot", "ssh")
	w, err := e.wantVM(ctx, name, cwd(), false)
	if err != nil {
		return err
	}
	return e.bring(ctx, w)
}

func (e *Env) bring(ctx context.Context, w *want) error {
	w.boot, w.guest = true, true
	f, err := e.converge(ctx, w)
	if err != nil {
		return err
	}
	defer f.close()
	if err := e.checkAlias(ctx, w, f); err != nil {
		return err
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(VMResult{Schema: 1, VM: w.name, State: "running", Alias: w.name, Address: f.inst.Address, Seconds: seconds(e.timing)})
	}
	e.UI.Result("VM %s is up at %s (ssh %s)", w.name, f.inst.Address, w.name)
	e.UI.Say("%s", e.timing.Line())
	return nil
}

// cwd is the folder a VM verb without a name looks up; "" when it is gone.
func cwd() string {
	d, err := os.Getwd()
	if err != nil {
		return ""
	}
	return d
}

// Down stops a VM: politely, or at once with force.
func (e *Env) Down(ctx context.Context, name string, force bool) error {
	w, d, err := e.ours(ctx, name)
	if err != nil {
		return err
	}
	p := plan.Plan{Stage: plan.Host, Actions: domain.PlanStop(d, force, e.domains(ctx))}
	if e.DryRun {
		return e.printPlain("down", w.name, p)
	}
	if d == nil || d.State == virt.Off {
		if err := e.finishLeaving(ctx, w.name); err != nil {
			return err
		}
		return e.said(w.name, "off", "VM %s is not running", w.name)
	}
	if err := e.stop(ctx, w.name, e.stopAgain(w.name, force)); err != nil {
		return err
	}
	return e.said(w.name, "off", "VM %s is off", w.name)
}

// Restart stops a VM and starts it again.
func (e *Env) Restart(ctx context.Context, name string, force bool) error {
	w, d, err := e.ours(ctx, name)
	if err != nil {
		return err
	}
	p := plan.Plan{Stage: plan.Host, Actions: domain.PlanStop(d, force, e.domains(ctx))}
	if p.Empty() {
		return e.Up(ctx, w.name)
	}
	if e.DryRun {
		p.Add(plan.Action{ID: "domain.start", Why: "start the VM " + w.name, Shows: []string{"virsh start " + w.name}})
		return e.printPlain("restart", w.name, p)
	}
	if err := e.stop(ctx, w.name, e.stopAgain(w.name, force)); err != nil {
		return err
	}
	return e.Up(ctx, w.name)
}

// stop applies a plan that may stop a VM, alone on that VM. It is made under
// the lock: another run may have stopped the VM, or deleted it.
func (e *Env) stop(ctx context.Context, vm string, again func(context.Context) (plan.Plan, error)) error {
	release, _, err := e.lock(ctx, vm)
	if err != nil {
		return err
	}
	defer release()
	p, err := again(ctx)
	if err != nil {
		return err
	}
	if len(e.Approval.Open(p)) > 0 {
		return ui.Failed("VM %s was changed meanwhile, and what would be done now was not agreed to", vm).Hint(e.Rerun)
	}
	if err := e.apply(ctx, p); err != nil {
		return err
	}
	return e.finishLeaving(ctx, vm)
}

// stopAgain plans to stop a VM as it is by then.
func (e *Env) stopAgain(vm string, force bool) func(context.Context) (plan.Plan, error) {
	return func(ctx context.Context) (plan.Plan, error) {
		_, d, err := e.ours(ctx, vm)
		return plan.Plan{Stage: plan.Host, Actions: domain.PlanStop(d, force, e.domains(ctx))}, err
	}
}

func (e *Env) apply(ctx context.Context, p plan.Plan) error {
	if _, err := e.run(ctx, p); err != nil {
		return e.resume(err)
	}
	return nil
}

func (e *Env) said(vm, state, format string, args ...any) error {
	if e.UI.JSON {
		r := VMResult{Schema: 1, VM: vm, State: state, Alias: vm}
		if in, err := e.state().Instance(vm); err == nil && in != nil {
			r.Address = in.Address
		}
		return e.UI.PrintJSON(r)
	}
	e.UI.Result(format, args...)
	return nil
}

// ours resolves a VM and its domain, refusing one that is not this person's.
// A nil domain means that libvirt has none.
func (e *Env) ours(ctx context.Context, name string) (*want, *virt.Domain, error) {
	w, err := e.wantVM(ctx, name, cwd(), false)
	if err != nil {
		return nil, nil, err
	}
	l, err := e.libvirtWithHelp(ctx)
	if err != nil {
		return w, nil, err
	}
	d, err := l.Domain(ctx, w.name)
	if errors.Is(err, virt.ErrNotFound) {
		return w, nil, nil
	}
	if err != nil {
		return w, nil, err
	}
	return w, d, e.checkOurs(w, d)
}

// libvirtWithHelp connects to libvirt, through the root helper where this user
// may not, after starting it where it does not run.
func (e *Env) libvirtWithHelp(ctx context.Context) (*virt.Conn, error) {
	l, err := e.libvirt(ctx)
	if err == nil {
		return l, nil
	}
	p := plan.Plan{Stage: plan.Host}
	if e.DryRun && errors.Is(err, virt.ErrDenied) {
		// Even asking would need root: say so and stop.
		if perr := e.planLibvirt(&p, &facts{virt: plan.Unknown[*virt.Conn](err)}); perr != nil {
			return nil, perr
		}
		if perr := e.printPlain(e.Verb, "", p); perr != nil {
			return nil, perr
		}
		return nil, errDry
	}
	if errors.Is(err, virt.ErrNoDaemon) {
		if e.libvirtAbsent(err) {
			return nil, ui.Failed("libvirt is not installed on this machine").Hint("aivm host doctor", "aivm code .")
		}
		as, perr := host.Plan(e.hostFacts(), host.Need{})
		if perr != nil {
			return nil, perr
		}
		for _, a := range as {
			if a.Consent == plan.None || a.Consent == "" {
				p.Add(a)
			}
		}
		if e.DryRun || p.Empty() {
			return nil, ui.Failed("%w", err).Hint("aivm host doctor")
		}
		if err := e.apply(ctx, p); err != nil {
			return nil, err
		}
		e.forgetHost()
		if l, err = e.libvirt(ctx); err == nil {
			return l, nil
		}
	}
	p = plan.Plan{Stage: plan.Host}
	if perr := e.planLibvirt(&p, &facts{virt: plan.Unknown[*virt.Conn](err)}); perr != nil {
		return nil, perr
	}
	if err := e.apply(ctx, p); err != nil {
		return nil, err
	}
	return e.libvirt(ctx)
}

// WaitIP waits until the guest answers and prints its address.
func (e *Env) WaitIP(ctx context.Context, name string, limit time.Duration) error {
	w, err := e.wantVM(ctx, name, cwd(), false)
	if err != nil {
		return err
	}
	in, err := e.state().Instance(w.name)
	if err != nil {
		return err
	}
	if in == nil {
		return ui.Refused("VM %q was not made yet", w.name).Hint("aivm vm up " + w.name)
	}
	if e.DryRun {
		e.UI.Result("DRYRUN: would wait for %s at %s", w.name, in.Address)
		return nil
	}
	t, done, err := e.target(ctx, w, in)
	if err != nil {
		return err
	}
	defer done()
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	wctx, stop := e.watchDomain(wctx, w.name)
	defer stop()
	task := e.UI.Task("waiting for " + w.name)
	c, err := e.awaitGuest(wctx, t, func(phase guest.Phase, _ time.Duration) { task.Detail("%s", phase) })
	if err != nil {
		task.Fail()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if cause := context.Cause(wctx); errors.Is(cause, errNotRunning) {
			err = cause
		}
		return e.explainWait(ctx, w, in, err)
	}
	task.Done()
	_ = c.Close()
	if e.UI.JSON {
		return e.UI.PrintJSON(VMResult{Schema: 1, VM: w.name, State: "running", Alias: w.name, Address: in.Address})
	}
	e.UI.Result("%s", in.Address)
	return nil
}

// SSHConfig prints the ssh entry of a VM, for configurations aivm cannot edit.
func (e *Env) SSHConfig(ctx context.Context, name string) error {
	w, err := e.wantVM(ctx, name, cwd(), false)
	if err != nil {
		return err
	}
	in, err := e.state().Instance(w.name)
	if err != nil {
		return err
	}
	if in == nil {
		return ui.Refused("VM %q was not made yet", w.name).Hint("aivm vm up " + w.name)
	}
	st := e.stanza(w, *in)
	b, err := sshcfg.Render(st)
	if err != nil {
		return err
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(map[string]any{
			"schema": 1, "vm": w.name, "alias": st.Alias, "hostname": st.HostName, "port": st.Port, "user": st.User,
			"identities": st.Identities, "known_hosts": st.KnownHosts, "file": e.SSH.ConfPath(w.name), "text": string(b),
		})
	}
	_, err = e.UI.Out.Write(b)
	return err
}

// printPlain prints a plan that concerns no folder as a dry run.
func (e *Env) printPlain(verb, vm string, p plan.Plan) error {
	if e.UI.JSON {
		return e.UI.PrintJSON(plan.Dry{Schema: 1, Verb: verb, VM: vm, Asks: p.Asks(), Stages: plan.Describe(p)})
	}
	if p.Empty() {
		e.UI.Result("Nothing would change.")
		return nil
	}
	e.UI.Result("%s", strings.Replace(plan.Text(p, nil), "aivm will:", "aivm would:", 1))
	return nil
}
