package provision

import (
	"context"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
)

// InstallDeps installs what VMs need, and what building a guest image needs
// where one can be built (`host install-deps`).
func (e *Env) InstallDeps(ctx context.Context) error {
	e.timing = ui.NewTiming("host")
	f := e.hostFacts()
	as, err := host.PlanPackages(f, host.Need{Image: host.BuildsImages(f)})
	if err != nil {
		return err
	}
	p := plan.Plan{Stage: plan.Host, Actions: as}
	if e.DryRun {
		return e.printPlain("install-deps", "", p)
	}
	if err := e.Approval.Consent(ctx, e.UI, p, nil, e.Rerun); err != nil {
		return err
	}
	if _, err := e.run(ctx, p); err != nil {
		return e.resume(err)
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(map[string]any{"schema": 1, "changed": !p.Empty()})
	}
	if p.Empty() {
		e.UI.Result("Everything is installed.")
		return nil
	}
	e.UI.Result("Installed. To see whether this machine can run VMs now: aivm host doctor")
	return nil
}

// mend does what the doctor can do about what it sees, in the order in which
// one thing needs another, and returns what was done.
func (e *Env) mend(ctx context.Context, o DoctorOptions) ([]string, error) {
	e.timing = ui.NewTiming("host", "ssh")
	done := []string{}
	for round := 0; ; round++ {
		if round == maxRounds {
			return done, ui.Failed("this machine keeps changing under aivm, %d looks were not enough", maxRounds).Hint("try again: " + e.Rerun)
		}
		d, err := e.diagnose(ctx, o.Sudo)
		if err != nil {
			return done, e.resume(err)
		}
		p := e.planMend(d)
		if err := e.foundNothing(d.host, host.Need{}); err != nil {
			return done, err
		}
		if e.DryRun {
			if err := e.printPlain("doctor", "", p); err != nil {
				return nil, err
			}
			return nil, errDry
		}
		if p.Empty() {
			return done, nil
		}
		if err := e.Approval.Consent(ctx, e.UI, p, nil, e.Rerun); err != nil {
			return done, err
		}
		again, err := e.run(ctx, p)
		if err != nil {
			return done, e.resume(err)
		}
		for _, a := range p.Actions {
			done = append(done, a.Why)
			if again && a.Again {
				break
			}
		}
		if !again {
			e.forgetHost()
			return done, nil
		}
		e.dropLibvirt()
		e.forgetHost()
	}
}

// planMachine is what this machine lacks, once: packages that were installed in
// this run and whose programs are still not found are not installed for ever.
func (e *Env) planMachine(f host.Facts, need host.Need) ([]plan.Action, error) {
	if err := e.foundNothing(f, need); err != nil {
		return nil, err
	}
	as, err := host.Plan(f, need)
	for i := range as {
		if op, ok := as[i].Root.(root.Packages); ok {
			as[i].Got = func(context.Context, root.Result) error {
				e.installed = op.Names
				return nil
			}
		}
	}
	return as, err
}

// foundNothing is the error for packages that are there and programs that are
// not.
func (e *Env) foundNothing(f host.Facts, need host.Need) error {
	tools, packages := host.Missing(f, need)
	if len(packages) == 0 || !slices.Equal(packages, e.installed) {
		return nil
	}
	return ui.Failed("installed is %s, and still not found: %s", strings.Join(packages, " "), strings.Join(tools, ", ")).
		Hint("look where the files went, or install it anew by hand: "+strings.Join(packages, " "), "aivm host doctor -v")
}

// planMend is what can be done about a diagnosis without a person's judgement.
func (e *Env) planMend(d diagnosis) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	as, err := e.planMachine(d.host, host.Need{})
	if err == nil && len(as) > 0 {
		// More is seen when packages and daemons are there.
		as[len(as)-1].Again = true
	}
	p.Add(as...)
	p.Add(host.PlanSSHPaths(d.exam)...)
	seen := map[string]bool{}
	for _, v := range d.vms {
		for _, a := range v.plan {
			// The Include line is one for all VMs.
			if !seen[a.ID] {
				seen[a.ID] = true
				p.Add(a)
			}
		}
	}
	p.Add(planLeftWalls(d.left.Value)...)
	p.Add(e.planExtension()...)
	p.Add(host.PlanKVM(d.host)...)
	return p
}

// planExtension gives the first editor that would be used the extension it
// needs, unless another one has it.
func (e *Env) planExtension() []plan.Action {
	if _, remote := editor.RemoteSession(e.Editor); remote {
		return nil
	}
	f, err := editor.Lookup(e.Editor, editor.Auto)
	if err != nil {
		return nil
	}
	for _, k := range e.editors() {
		if has, err := editor.ExtensionOnDisk(e.Editor, k); has || err != nil {
			return nil
		}
	}
	return []plan.Action{{
		ID: "editor.extension", Why: "install the extension with which " + f.Editor.Name + " opens VMs",
		Shows: []string{extensionCommand(f)}, Consent: plan.Ask,
		Do: func(ctx context.Context) error {
			return editor.Open(ctx, f, []string{"--install-extension", f.Editor.Extension}, e.UI.Err, e.UI.Err)
		},
	}}
}
