package provision

import (
	"context"

	"aivm.dev/aivm/provision/loop"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/checks"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/walls"
)

// InstallDeps installs the packages that VMs need, and those for building a guest image if this
// machine can build one (`host install-deps`).
func (e *Env) InstallDeps(ctx context.Context) (Installed, error) {
	e.Timing = ui.NewTiming("host")
	changed, err := e.RunJob(ctx, loop.Job{
		Plan: func(context.Context) (plan.Plan, error) {
			p := plan.Plan{Stage: plan.Host}
			f := e.HostFacts()
			as, err := host.PlanPackages(f, host.Need{Image: host.BuildsImages(f)})
			p.Add(as...)
			return p, err
		},
	})
	return Installed{Schema: 1, Changed: changed}, err
}

// Installed is the result of `host install-deps`.
type Installed struct {
	Changed bool `json:"changed"`
	Schema  int  `json:"schema"`
}

// fix repairs what the doctor can repair, in the order of dependencies, and returns what it did.
func (e *Env) fix(ctx context.Context, o DoctorOptions) ([]string, error) {
	e.Timing = ui.NewTiming("host", "ssh")
	done := []string{}
	finished := false
	_, err := e.RunJob(ctx, loop.Job{
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			d, err := e.diagnoseAll(ctx, o.Sudo)
			if err != nil {
				return p, e.WithRerunHint(err)
			}
			p = e.planFix(d, editors.For(e.Loop).WithoutExtension(ctx))
			return p, e.CheckInstalled(d.Host, host.Need{})
		},
		Applied: func(p plan.Plan, stale bool) {
			for _, a := range p.Actions {
				done = append(done, a.Why)
				if stale && a.Again {
					break
				}
			}
			finished = !stale
		},
		CloseFacts: func() {
			if len(done) > 0 {
				e.DropLibvirt()
			}
		},
	})
	if finished {
		e.ForgetHost()
	}
	return done, err
}

// planFix plans the repairs that need no decision of the user; lacking is the editor to install an
// extension for, or nil.
func (e *Env) planFix(d checks.DoctorFacts, lacking *editor.Found) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	as, err := e.PlanHostTools(d.Host, host.Need{})
	if err == nil && len(as) > 0 {
		// More can be observed after packages are installed and daemons run.
		as[len(as)-1].Again = true
	}
	p.Add(as...)
	p.Add(host.PlanSSHPaths(d.Exam)...)
	planned := map[string]bool{}
	for _, v := range d.VMs {
		for _, a := range v.Plan {
			// All VMs use the same Include line: plan it once.
			if !planned[a.ID] {
				planned[a.ID] = true
				p.Add(a)
			}
		}
	}
	p.Add(walls.PlanRemoveStale(d.StaleFirewalls.Value)...)
	p.Add(editors.For(e.Loop).PlanExtension(lacking)...)
	p.Add(host.PlanKVM(d.Host)...)
	return p
}

// DoctorOptions are the flags of `host doctor`.
type DoctorOptions struct {
	Sudo bool // also read facts that only root may read
	Fix  bool
}

// Diagnosis is the result of the doctor: the status of this machine.
type Diagnosis struct {
	Status
	Fixable []string `json:"mends"` // what --fix would do
	Fixed   []string `json:"fixed"` // what --fix did
}

// Doctor checks this machine for what prevents VMs from running or from being reached; with Fix it
// first repairs what it can. Without Sudo it does nothing as root, unless the process runs as root.
func (e *Env) Doctor(ctx context.Context, o DoctorOptions) (Diagnosis, error) {
	st := Diagnosis{Status: Status{Schema: 1, Config: e.StorePath, Tally: checks.Tally{Checks: []host.Check{}}, Wall: Wall{Writable: []string{}}, OneShots: e.OneShots(ctx)}, Fixable: []string{}, Fixed: []string{}}
	if o.Fix {
		fixed, err := e.fix(ctx, o)
		if err != nil {
			return st, err
		}
		st.Fixed = fixed
	}
	d, err := e.diagnoseAll(ctx, o.Sudo)
	if err != nil {
		return st, err
	}
	st.Add(host.Doctor(d.Host, d.Exam)...)
	st.Add(checks.For(e.Loop).OneShotChecks(ctx)...)
	st.Add(checks.For(e.Loop).NetworksCheck(d), checks.For(e.Loop).SSHConfigCheck(d), editors.For(e.Loop).Check(ctx), checks.StoreCheck(d))
	if !o.Fix {
		for _, a := range e.planFix(d, editors.For(e.Loop).WithoutExtension(ctx)).Actions {
			st.Fixable = append(st.Fixable, a.Why)
		}
	}
	return st, nil
}

// diagnoseAll reads the facts for the doctor, including stale firewalls.
func (e *Env) diagnoseAll(ctx context.Context, sudo bool) (checks.DoctorFacts, error) {
	d, err := checks.For(e.Loop).Diagnose(ctx, sudo)
	if d.Net.Networks.Err == nil && d.Asked {
		d.StaleFirewalls.Value, d.StaleFirewalls.Err = walls.For(e.Loop).StaleFirewalls(d.Net.Networks.Value)
	}
	return d, err
}
