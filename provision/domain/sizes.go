package domain

import (
	"context"
	"fmt"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// SizeText is "2 CPUs, 2048 MB of memory".
func SizeText(vcpus, ramMB int) string {
	cpus := "CPUs"
	if vcpus == 1 {
		cpus = "CPU"
	}
	return fmt.Sprintf("%d %s, %d MB of memory", vcpus, cpus, ramMB)
}

// PlanSizes plans to give a VM's definition the CPUs and the memory that the config has, which may
// have been changed since it was created; 0 keeps what the VM has. A running VM has them after its
// next start.
func PlanSizes(d *virt.Domain, vcpus, ramMB int, lv func() (Libvirt, error)) []plan.Action {
	if d == nil {
		return nil
	}
	if vcpus <= 0 {
		vcpus = d.StoredSizes.VCPUs
	}
	if ramMB <= 0 {
		ramMB = d.StoredSizes.RAMMB
	}
	has := d.StoredSizes
	if has.Are(vcpus, ramMB) || has == (virt.Sizes{}) {
		return nil
	}
	return []plan.Action{{
		ID: "domain.resize", Why: fmt.Sprintf("give VM %s %s, as the config has, instead of %s", d.Name, SizeText(vcpus, ramMB), SizeText(has.VCPUs, has.BalloonMB)),
		Shows: []string{
			fmt.Sprintf("virsh setvcpus %s %d --config --maximum", d.Name, vcpus), fmt.Sprintf("virsh setvcpus %s %d --config", d.Name, vcpus),
			fmt.Sprintf("virsh setmaxmem %s %dM --config", d.Name, ramMB), fmt.Sprintf("virsh setmem %s %dM --config", d.Name, ramMB),
		},
		Consent: plan.Ask, Timing: "define",
		Do: with(lv, func(ctx context.Context, l Libvirt) error {
			if err := l.Resize(ctx, d.Name, vcpus, ramMB); err != nil {
				return ui.Failed("giving VM %q %s: %w", d.Name, SizeText(vcpus, ramMB), err).
					Hint(ui.CmdFor("change cpus and ram_mb of the VM in the config", "aivm config edit"))
			}
			return nil
		}),
	}}
}
