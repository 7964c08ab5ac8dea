package machine

import (
	"fmt"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/target"
)

// PlanSizes plans to give the VM's definition the CPUs and memory that the config has now. Sizes that
// this machine does not have are not applied, with a warning: the VM starts with those it has.
func (e Part) PlanSizes(w *target.Target, d *virt.Domain, m host.Facts, lv func() (domain.Libvirt, error)) plan.Plan {
	p, want := plan.Plan{Stage: plan.Host}, w.Record.VM
	if w.NewVM || d == nil {
		return p // the config has no record of it yet
	}
	as := domain.PlanSizes(d, want.CPUs, want.RAMMB, lv)
	if len(as) == 0 {
		return p
	}
	if err := m.CheckSizes(want.CPUs, want.RAMMB); err != nil {
		p.Warn(fmt.Sprintf("the config gives VM %s %v: it keeps %s; to change the config: %s",
			w.Name, err, domain.SizeText(d.StoredSizes.VCPUs, d.StoredSizes.BalloonMB), ui.Cmd("aivm config edit")))
		return p
	}
	p.Add(as...)
	return p
}
