package provision

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"

	"github.com/google/uuid"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/sshcfg"
)

// planState writes what has to be known about the VM before it exists: its
// host key, uuid, address and keys. It leaves the planned instance in f, for
// what is planned after it.
func (e *Env) planState(w *want, f *facts, mac string, ip netip.Addr, ids []sshcfg.Identity, ownKey bool) []plan.Action {
	in := state.Instance{Schema: 1, User: w.record.VM.User}
	if f.inst != nil {
		in = *f.inst
	}
	in.MAC, in.Address = mac, ip.String()
	if d := f.domain.Domain.Value; d != nil {
		in.UUID = d.UUID
	}
	if in.UUID == "" {
		in.UUID = uuid.NewString()
	}
	in.SeedLeft = in.SeedLeft || w.newDomain(f)
	if vm := w.record.VM; w.newDomain(f) {
		in.Made = &state.Made{Image: w.record.Image.Name, CPUs: vm.CPUs, RAMMB: vm.RAMMB, DiskGB: vm.DiskGB}
	}
	if len(in.Identities) == 0 || w.newDomain(f) {
		in.Identities = sshcfg.StanzaIdentities(ids)
		if ownKey && !slices.Contains(in.Identities, e.SSH.OwnKeyPath()) {
			in.Identities = append([]string{e.SSH.OwnKeyPath()}, in.Identities...)
		}
	}
	_, keyErr := e.SSH.LoadHostKey(w.name)
	if in.Adopted {
		_, keyErr = e.SSH.PinnedKey(w.name)
	}
	same := f.inst != nil && reflect.DeepEqual(*f.inst, in)
	f.inst = &in
	if same && keyErr == nil {
		return nil
	}
	dir := e.SSH.VMDir(w.name)
	return []plan.Action{{
		ID: "vm.state", Why: "make the VM's host key and remember its address", Shows: []string{"write " + dir + "/"}, Timing: "define",
		Do: func(context.Context) error {
			if err := e.state().SaveInstance(w.name, in); err != nil {
				return stateErr(dir, err)
			}
			if in.Adopted {
				return nil // its host key is its own
			}
			return stateErr(dir, e.hostKey(w.name))
		},
	}}
}

func stateErr(dir string, err error) error {
	if err == nil {
		return nil
	}
	return ui.Failed("writing the state of the VM: %w", err).Hint("ls -ld "+shellQuote(dir), "df -h "+shellQuote(dir))
}

// hostKey makes the guest's host key unless there is one.
func (e *Env) hostKey(vm string) error {
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

// seed renders the first boot's settings from the state directory.
func (e *Env) seed(ctx context.Context, w *want, mac string) ([]byte, error) {
	hk, err := e.SSH.LoadHostKey(w.name)
	if err != nil {
		return nil, err
	}
	ids, err := e.identities(ctx, w)
	if err != nil {
		return nil, err
	}
	inst, err := e.state().Instance(w.name)
	if err != nil || inst == nil {
		return nil, fmt.Errorf("the state of VM %q is not written yet: %w", w.name, err)
	}
	return cloudinit.Seed(cloudinit.Guest{
		InstanceID: inst.UUID, Hostname: w.name, User: inst.User, AuthorizedKeys: authorized(ids),
		HostKeyPrivatePEM: string(hk.PrivatePEM), HostKeyPublic: hk.AuthorizedKey(), MAC: mac,
	})
}
