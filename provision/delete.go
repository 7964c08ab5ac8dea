package provision

import (
	"context"
	"errors"
	"fmt"
	"os"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/walls"
	"aivm.dev/aivm/sshcfg"
)

// planDelete is everything of a VM: domain, volumes, reservation, mounts, ssh
// files, state, records. Host folders, the image cache and the network stay.
func (e *Env) planDelete(ctx context.Context, dd *deletion) (plan.Plan, error) {
	w, l, d, pool := dd.w, dd.conn, dd.domain, dd.pool
	p := plan.Plan{Stage: plan.Host}
	key := e.Key(w.Name)
	p.Add(domain.PlanDropCopy(pool, w.Name, key, e.UID, domain.PoolFor(pool, e.BaseDir(w.Record.Paths), session.DefaultBaseDir), e.Domains(ctx))...)
	as, err := domain.PlanDelete(domain.Facts{Domain: plan.Yes(d), Pool: plan.Yes(pool)}, w.Name, key,
		domain.PoolFor(pool, e.BaseDir(w.Record.Paths), session.DefaultBaseDir), e.Domains(ctx))
	if err != nil {
		return p, err
	}
	p.Add(as...)
	p.Add(legacy03.For(e.Loop).PlanDeleteAdopted(w, l, d)...)
	mac := network.MAC(key)
	if d != nil && d.MAC != "" {
		mac = d.MAC
	}
	n, err := l.Network(ctx, dd.network)
	if err != nil && !errors.Is(err, virt.ErrNotFound) {
		return p, err
	}
	if r, ok := machine.Reservation(n, mac); ok {
		p.Add(plan.Action{
			ID: "network.unreserve:" + w.Name, Why: fmt.Sprintf("give the address %s back", r.IP), Consent: plan.Typed,
			Shows: []string{fmt.Sprintf("virsh net-update %s delete ip-dhcp-host", n.Name)},
			Do:    func(ctx context.Context) error { return l.Unreserve(ctx, n.Name, r) },
		})
	}
	if n != nil {
		p.Add(walls.For(e.Loop).PlanForget(ctx, n.Name, mac, w.Name)...)
	}
	if err := folders.For(e.Loop).PlanUnshare(&p, key); err != nil {
		return p, err
	}
	for _, a := range share.RecordedFor(dd.w.Store.Config, w.Name) {
		p.Add(clones.PlanRemoveRemote(a, plan.Typed)...)
	}
	ssh, err := sshcfg.PlanRemoveVM(e.SSH, w.Name, w.Name)
	if err != nil {
		return p, err
	}
	p.Add(ssh...)
	p.Add(plan.Action{
		ID: "vm.forget", Why: "forget what was remembered about it", Shows: []string{"rm " + e.State().InstancePath(w.Name)}, Consent: plan.Typed,
		Do: func(context.Context) error {
			if err := os.Remove(e.State().InstancePath(w.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			e.State().Forget(w.Name)
			return nil
		},
	}, plan.Action{
		ID: "store.forget", Why: "remove its records from the config", Shows: []string{"write " + e.StorePath}, Consent: plan.Typed,
		Do: func(ctx context.Context) error {
			if _, err := os.Stat(e.StorePath); errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return config.Update(ctx, e.StorePath, func(c *config.Config) error { c.RemoveVM(w.Name); return nil })
		},
	})
	return p, nil
}
