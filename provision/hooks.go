package provision

import (
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// planHooks puts libvirt's hooks in place: with them the rules of a network and
// the folders of a VM come back whenever libvirt starts it, and it does not
// start without. An old copy of this program is renewed without a question.
func (e *Env) planHooks() ([]plan.Action, error) {
	current, known, err := e.keeper().Hooks()
	if err != nil {
		return nil, ui.Failed("libvirt's hooks cannot be looked at: %w", err).Hint("ls -l /etc/libvirt/hooks/network.d " + root.HookProgram)
	}
	if current {
		return nil, nil
	}
	op := root.Hooks{}
	a := plan.Action{
		ID: "host.hooks", Why: "have libvirt put rules and folders back in place when it starts a network or VM",
		Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: "host",
	}
	if known {
		a.Why, a.Consent = "renew the copy of aivm that libvirt's hooks run", plan.None
	}
	return []plan.Action{a}, nil
}
