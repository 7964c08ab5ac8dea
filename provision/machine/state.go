package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// InstanceFor returns the content of instance.json for a VM with the values in c. ownKey is the path
// of aivm's own key if the guest will accept it but ids does not contain it yet; else "".
func InstanceFor(w *target.Target, f *loop.Facts, c Chosen, ids []sshcfg.Identity, ownKey string) state.Instance {
	inst := state.Instance{Schema: 1, User: w.Record.VM.User}
	if f.Inst != nil {
		inst = *f.Inst
	}
	inst.MAC, inst.Address = c.MAC, c.Address.String()
	if d := f.Domain.Domain.Value; d != nil {
		inst.UUID = d.UUID
	}
	if inst.UUID == "" {
		inst.UUID = f.Creation.ID
	}
	inst.SeedLeft = inst.SeedLeft || f.NewDomain()
	if vm := c.Record.VM; f.NewDomain() {
		inst.CreatedWith = &state.CreatedWith{Image: c.Record.Image.Name, CPUs: vm.CPUs, RAMMB: vm.RAMMB, DiskGB: vm.DiskGB}
	}
	if len(inst.Identities) == 0 || f.NewDomain() {
		inst.Identities = sshcfg.StanzaIdentities(ids)
		if ownKey != "" && !slices.Contains(inst.Identities, ownKey) {
			inst.Identities = append([]string{ownKey}, inst.Identities...)
		}
	}
	return inst
}

// PlanState plans to write the VM's state before the VM exists: its host key, and instance.json with
// UUID, address and keys.
func (e Part) PlanState(w *target.Target, f *loop.Facts, inst state.Instance) []plan.Action {
	keyErr := f.Keys.Own
	if inst.Adopted {
		keyErr = f.Keys.Pinned
	}
	same := f.Inst != nil && reflect.DeepEqual(*f.Inst, inst)
	if same && keyErr == nil {
		return nil
	}
	dir := e.SSH.VMDir(w.Name)
	return []plan.Action{{
		ID: "vm.state", Why: "create the VM's host key and record its address", Shows: []string{"write " + dir + "/"}, Timing: "define",
		Do: func(context.Context) error {
			if err := e.State().SaveInstance(w.Name, inst); err != nil {
				return session.StateErr(dir, err)
			}
			if inst.Adopted {
				return nil // the guest generated its host key itself
			}
			return session.StateErr(dir, e.hostKey(w.Name))
		},
	}}
}

// hostKey creates the VM's host key if there is none, and writes its known_hosts file.
func (e Part) hostKey(vm string) error {
	hk, err := e.SSH.LoadHostKey(vm)
	if errors.Is(err, os.ErrNotExist) {
		if hk, err = sshcfg.NewHostKey(); err != nil {
			return err
		}
		err = e.SSH.SaveHostKey(vm, hk)
	}
	if err != nil {
		return err
	}
	return e.SSH.WriteKnownHosts(vm, vm, hk.Public)
}

// Seed renders the seed of the first boot from the files in the state directory.
func (e Part) Seed(ctx context.Context, w *target.Target, mac string) ([]byte, error) {
	hk, err := e.SSH.LoadHostKey(w.Name)
	if err != nil {
		return nil, err
	}
	ids, err := e.Identities(ctx, w)
	if err != nil {
		return nil, err
	}
	inst, err := e.State().Instance(w.Name)
	if err != nil || inst == nil {
		return nil, fmt.Errorf("the state of VM %q has not been written: %w", w.Name, err)
	}
	return cloudinit.Seed(cloudinit.Guest{
		InstanceID: inst.UUID, Hostname: w.Name, User: inst.User, AuthorizedKeys: authorizedKeys(ids),
		HostKeyPrivatePEM: string(hk.PrivatePEM), HostKeyPublic: hk.AuthorizedKey(), MAC: mac,
	})
}
