package provision

import (
	"context"

	"aivm.dev/aivm/internal/plan"
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
