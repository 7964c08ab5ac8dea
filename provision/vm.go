package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// CreateOptions are the flags of `vm create`.
type CreateOptions struct {
	Name       string // "": the default name
	Image      string
	Size       host.Size // 0: as configured, else chosen from the host's resources
	SetDefault bool
}

// Create creates a VM, which must not be in the config yet, and waits until it can be used. It
// finishes the creation of a run that was interrupted: that VM is not recorded yet.
func (e *Env) Create(ctx context.Context, o CreateOptions) (VMResult, error) {
	e.Timing = ui.NewTiming("image", "define", "boot", "ssh")
	store, err := e.Load()
	if err != nil {
		return VMResult{}, err
	}
	name := o.Name
	if name == "" {
		name = store.Config.Defaults.VM.Name
	}
	if _, ok := store.Config.FindVM(name); ok {
		return VMResult{}, ui.Refused("VM %q already exists in config store", name).
			Hint(ui.CmdFor("to start it", "aivm vm up "+name), ui.CmdFor("to create it again, delete it", "aivm vm delete "+name), ui.CmdFor("then", "aivm vm create "+name))
	}
	w, err := target.NewVM(store, name)
	if err != nil {
		return VMResult{}, err
	}
	e.UseLibvirt(w.Libvirt)
	if w, err = e.FreeName(w); err != nil {
		return VMResult{}, err
	}
	if w, err = w.WithImage(o.Image); err != nil {
		return VMResult{}, err
	}
	if o.SetDefault {
		w = w.AsActive()
	}
	return e.start(ctx, w.Sized(o.Size))
}

// Up starts a VM and waits until it can be used.
func (e *Env) Up(ctx context.Context, name string) (VMResult, error) {
	e.Timing = ui.NewTiming("define", "boot", "ssh")
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return VMResult{}, e.ExplainUnknown(ctx, e.Store, err)
	}
	return e.start(ctx, w)
}

func (e *Env) start(ctx context.Context, w *target.Target) (VMResult, error) {
	w, f, err := e.Converge(ctx, w.Started())
	if err != nil {
		return VMResult{}, err
	}
	defer f.Close()
	if err := machine.For(e.Loop).CheckAlias(ctx, w, f, nil); err != nil {
		return VMResult{}, err
	}
	return VMResult{
		Schema: 1, VM: w.Name, State: "running", Alias: w.Name, Address: f.Inst.Address, Seconds: session.Seconds(e.Timing),
		Outcome: session.Started, Timing: e.Timing,
	}, nil
}

// Down stops a VM: by a shutdown of the guest, or at once with force.
func (e *Env) Down(ctx context.Context, name string, force bool) (VMResult, error) {
	vm, stopped, err := e.stop(ctx, name, force, false)
	if err == nil && !stopped {
		err = e.Stopped(ctx, vm)
	}
	if err != nil {
		return VMResult{}, err
	}
	if stopped {
		return e.VMResult(vm, "off", session.Stopped), nil
	}
	return e.VMResult(vm, "off", session.WasOff), nil
}

// Restart stops a VM and starts it again.
func (e *Env) Restart(ctx context.Context, name string, force bool) (VMResult, error) {
	vm, _, err := e.stop(ctx, name, force, true)
	if err != nil {
		return VMResult{}, err
	}
	return e.Up(ctx, vm)
}

// stop stops a VM, if it runs. If restart is set, the caller starts it again: the plan says so, and
// gives the VM the sizes of the config before it stops, so that nothing is left to ask once it is off.
func (e *Env) stop(ctx context.Context, name string, force, restart bool) (vm string, stopped bool, err error) {
	var w *target.Target
	j := loop.Job{
		VM: func() string { return vm },
		Plan: func(ctx context.Context) (plan.Plan, error) {
			var d *virt.Domain
			var err error
			if w, d, err = e.OwnVM(ctx, name); err != nil {
				return plan.Plan{}, err
			}
			vm = w.Name
			p := plan.Plan{Stage: plan.Host}
			stop := domain.EndsSessions(domain.PlanStop(d, force, e.Domains(ctx)), e.OpenSessions(vm))
			if restart && len(stop) > 0 {
				p = machine.For(e.Loop).PlanSizes(w, d, e.HostFacts(), e.Domains(ctx))
			}
			p.Add(stop...)
			return p, nil
		},
		Then: func(ctx context.Context, changed, _ bool) error {
			if !changed {
				return nil
			}
			return e.Stopped(ctx, vm)
		},
	}
	if restart {
		j.Follow = func() []plan.Action { return loop.StartAgain(w) }
		j.Dry = func(p plan.Plan) error {
			if p.Empty() {
				_, err := e.Up(ctx, vm)
				return err
			}
			return e.Dry("restart", vm, p)
		}
	}
	stopped, err = e.RunJob(ctx, j)
	return vm, stopped, err
}

// Stopped finishes what had to wait until the VM was off: folders still being detached.
func (e *Env) Stopped(ctx context.Context, vm string) error {
	return folders.For(e.Loop).FinishPendingDetach(ctx, vm)
}

// WaitIP waits up to limit until the guest answers.
func (e *Env) WaitIP(ctx context.Context, name string, limit time.Duration) (r VMResult, err error) {
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return r, err
	}
	inst, err := e.State().Instance(w.Name)
	if err != nil {
		return r, err
	}
	if inst == nil {
		return r, e.notCreated(ctx, w)
	}
	if e.DryRun {
		return r, &session.DryRun{Last: fmt.Sprintf("DRYRUN: would wait for %s at %s", w.Name, inst.Address)}
	}
	t, done, err := e.GuestTarget(ctx, w, inst)
	if err != nil {
		return r, err
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
			return r, ctx.Err()
		}
		if cause := context.Cause(wctx); errors.Is(cause, loop.ErrNotRunning) {
			err = cause
		}
		return r, e.explainWait(ctx, w, inst, err)
	}
	task.Done()
	_ = c.Close()
	return VMResult{Schema: 1, VM: w.Name, State: "running", Alias: w.Name, Address: inst.Address, Outcome: session.Answers}, nil
}

// notCreated returns the refusal of a VM without a state file: it was not created yet, or made by aivm
// 0.3 and not adopted.
func (e *Env) notCreated(ctx context.Context, w *target.Target) error {
	if _, foreign := legacy03.For(e.Loop).Unadopted(ctx, w.Record); foreign {
		return target.NotAdopted(w.Name)
	}
	return ui.Refused("VM %q was not created yet", w.Name).Hint(ui.Cmd("aivm vm up " + w.Name))
}

// SSHEntry is the JSON of a VM's ssh entry.
type SSHEntry struct {
	Alias      string   `json:"alias"`
	File       string   `json:"file"`
	HostName   string   `json:"hostname"`
	Identities []string `json:"identities"`
	KnownHosts string   `json:"known_hosts"`
	Port       int      `json:"port"`
	Schema     int      `json:"schema"`
	Text       string   `json:"text"`
	User       string   `json:"user"`
	VM         string   `json:"vm"`
}

// SSHConfig returns the ssh entry of a VM, for users whose configuration aivm cannot edit.
func (e *Env) SSHConfig(ctx context.Context, name string) (SSHEntry, error) {
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return SSHEntry{}, err
	}
	inst, err := e.State().Instance(w.Name)
	if err != nil {
		return SSHEntry{}, err
	}
	if inst == nil {
		return SSHEntry{}, e.notCreated(ctx, w)
	}
	st := e.Stanza(w.Name, *inst)
	b, err := sshcfg.Render(st)
	if err != nil {
		return SSHEntry{}, err
	}
	return SSHEntry{
		Schema: 1, VM: w.Name, Alias: st.Alias, HostName: st.HostName, Port: int(st.Port), User: st.User,
		Identities: st.Identities, KnownHosts: st.KnownHosts, File: e.SSH.ConfPath(w.Name), Text: string(b),
	}, nil
}
