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

// InstallDeps installs what VMs need, and what building a guest image needs
// where one can be built (`host install-deps`).
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

// Installed is what `host install-deps` did.
type Installed struct {
	Changed bool `json:"changed"`
	Schema  int  `json:"schema"`
}

// mend does what the doctor can do about what it sees, in the order in which
// one thing needs another, and returns what was done.
func (e *Env) mend(ctx context.Context, o DoctorOptions) ([]string, error) {
	e.Timing = ui.NewTiming("host", "ssh")
	done := []string{}
	finished := false
	_, err := e.RunJob(ctx, loop.Job{
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			d, err := e.diagnoseAll(ctx, o.Sudo)
			if err != nil {
				return p, e.WithRerunHint(err)
			}
			p = e.planMend(d, editors.For(e.Loop).Lacking())
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

// planMend is what can be done about a diagnosis without a person's judgement;
// lacking is the editor that can be given its extension, nil if there is none.
func (e *Env) planMend(d checks.DoctorFacts, lacking *editor.Found) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	as, err := e.PlanHostTools(d.Host, host.Need{})
	if err == nil && len(as) > 0 {
		// More is seen when packages and daemons are there.
		as[len(as)-1].Again = true
	}
	p.Add(as...)
	p.Add(host.PlanSSHPaths(d.Exam)...)
	seen := map[string]bool{}
	for _, v := range d.VMs {
		for _, a := range v.Plan {
			// The Include line is one for all VMs.
			if !seen[a.ID] {
				seen[a.ID] = true
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
	Sudo bool // look where only root can
	Fix  bool
}

// Diagnosis is what the doctor found: the status of this machine.
type Diagnosis struct {
	Status
	Mends []string `json:"mends"` // what --fix would do
	Fixed []string `json:"fixed"` // what it has done
}

// Doctor looks at this machine and says what keeps VMs from running or from
// being reached; with Fix it mends what it can first. Without Sudo it does
// nothing as root, except in a process that is root's.
func (e *Env) Doctor(ctx context.Context, o DoctorOptions) (Diagnosis, error) {
	st := Diagnosis{Status: Status{Schema: 1, Config: e.StorePath, Tally: checks.Tally{Checks: []host.Check{}}, Wall: Wall{Writable: []string{}}}, Mends: []string{}, Fixed: []string{}}
	if o.Fix {
		fixed, err := e.mend(ctx, o)
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
	st.Add(checks.For(e.Loop).NetworksCheck(d), checks.For(e.Loop).SSHConfigCheck(d), editors.For(e.Loop).Check(), checks.StoreCheck(d))
	if !o.Fix {
		for _, a := range e.planMend(d, editors.For(e.Loop).Lacking()).Actions {
			st.Mends = append(st.Mends, a.Why)
		}
	}
	return st, nil
}

// diagnoseAll is the look with the walls that are left over.
func (e *Env) diagnoseAll(ctx context.Context, sudo bool) (checks.DoctorFacts, error) {
	d, err := checks.For(e.Loop).Diagnose(ctx, sudo)
	if d.Net.Networks.Err == nil && d.Asked {
		d.StaleFirewalls.Value, d.StaleFirewalls.Err = walls.For(e.Loop).StaleFirewalls(d.Net.Networks.Value)
	}
	return d, err
}
