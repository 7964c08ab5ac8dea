package machine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// TakenError is the refusal of a domain that is not this user's VM, or cannot be used as such, if the
// name is the default one: the caller tries the next name.
type TakenError struct{ Err error }

// Error returns the text of Err.
func (e *TakenError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *TakenError) Unwrap() error { return e.Err }

// CheckIdentity refuses a domain that is not this user's, or that aivm cannot log in to. The error
// is a *TakenError if the name is the default one.
func (e Part) CheckIdentity(w *target.Target, f *loop.Facts) error {
	d := f.Domain.Domain
	if d.Err != nil || d.Value == nil {
		return nil
	}
	if !w.NewVM && !d.Value.Mark.Exists {
		return target.NotAdopted(w.Name)
	}
	err := domain.CheckOwner(d.Value, e.UID)
	if err == nil {
		keyErr := f.Keys.Pinned
		switch {
		case errors.Is(keyErr, os.ErrNotExist):
			err = e.StateLost(w)
		case keyErr != nil:
			return ui.Failed("the pinned host key of VM %q cannot be read: %w", w.Name, keyErr).Hint(ui.Cmd("ls -l " + shellescape.Quote(e.SSH.VMDir(w.Name))))
		case f.Inst == nil && f.Running():
			return ui.Refused("the state file of VM %q with its address, %s, is missing", w.Name, e.State().InstancePath(w.Name)).
				Hint(ui.CmdFor("to write it again", "aivm vm restart "+w.Name))
		}
	}
	if err != nil && w.AutoName {
		return &TakenError{err}
	}
	return err
}

// PlanAlias plans to write the ssh entry and the Include line. If ~/.ssh/config cannot be edited, the
// plan has a warning with the line to add instead: the VM can be used all the same.
func (e Part) PlanAlias(w *target.Target, f *loop.Facts, c Chosen) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	if c.Instance == nil {
		return p, nil
	}
	as, err := sshcfg.Plan(f.SSH, e.Stanza(w.Name, *c.Instance))
	p.Add(as...)
	if !errors.Is(err, sshcfg.ErrReadOnly) {
		return p, err
	}
	p.Warn(err.Error())
	var ue *ui.Error
	if errors.As(err, &ue) {
		for _, h := range ue.HintLines() {
			p.Warn(h)
		}
	}
	return p, nil
}

// StoreVM is the ID of the action that records a new VM.
const StoreVM = "store.vm"

// PlanStoreVM plans to record a new VM in the config, after the VM is created.
func (e Part) PlanStoreVM(w *target.Target, c Chosen) []plan.Action {
	if !w.NewVM {
		return nil
	}
	record, net := c.Record, c.Network
	record.NetworkName = net.Name
	if c.Instance != nil && c.Instance.CreatedWith != nil {
		m := c.Instance.CreatedWith
		record.Image.Name, record.VM.CPUs, record.VM.RAMMB, record.VM.DiskGB = m.Image, m.CPUs, m.RAMMB, m.DiskGB
	}
	return []plan.Action{{
		ID: StoreVM, Why: fmt.Sprintf("record VM %s in the config", w.Name), Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			return config.Update(ctx, e.StorePath, func(c *config.Config) error {
				if _, ok := c.FindVM(w.Name); ok {
					return nil
				}
				if _, ok := c.FindNetwork(net.Name); !ok {
					c.UpsertNetwork(net)
				}
				c.UpsertVM(record)
				if w.SetActive || w.Active && c.ActiveVM == "" {
					c.ActiveVM = w.Name
				}
				return nil
			})
		},
	}}
}

func authorizedKeys(ids []sshcfg.Identity) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, id.AuthorizedKey())
	}
	return out
}

// SyncFirstBoot plans a sync in the guest after the first boot, before the seed is removed. The
// kernel keeps written data in memory for up to half a minute; a guest that is switched off in that
// time would boot without its user, keys and network, and without a seed to set them up.
func SyncFirstBoot(f *loop.Facts) plan.Action {
	return plan.Action{
		ID: "seed.sync", Why: "finish first boot (sync the guest's disk)", Shows: []string{"sync"}, Timing: "boot",
		Do: func(ctx context.Context) error {
			code, err := f.Conn.Run(ctx, guest.Cmd{Argv: []string{"sync"}})
			if err == nil && code != 0 {
				err = fmt.Errorf("sync in the guest exited with status %d", code)
			}
			return err
		},
	}
}
