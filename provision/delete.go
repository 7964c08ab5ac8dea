package provision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// planDelete is everything of a VM: domain, volumes, reservation, mounts, ssh
// files, state, records. Host folders, the image cache and the network stay.
func (e *Env) planDelete(ctx context.Context, dd *deletion) (plan.Plan, error) {
	w, l, d, pool := dd.w, dd.conn, dd.domain, dd.pool
	p := plan.Plan{Stage: plan.Host}
	key := e.key(w.name)
	p.Add(domain.PlanDropCopy(pool, w.name, key, e.UID, domain.PoolFor(pool, e.baseDir(w.record.Paths), DefaultBaseDir), e.domains(ctx))...)
	as, err := domain.PlanDelete(domain.Facts{Domain: plan.Yes(d), Pool: plan.Yes(pool)}, w.name, key,
		domain.PoolFor(pool, e.baseDir(w.record.Paths), DefaultBaseDir), e.domains(ctx))
	if err != nil {
		return p, err
	}
	p.Add(as...)
	p.Add(e.planDeleteAdopted(dd)...)
	mac := network.MAC(key)
	if d != nil && d.MAC != "" {
		mac = d.MAC
	}
	n, err := l.Network(ctx, dd.network)
	if err != nil && !errors.Is(err, virt.ErrNotFound) {
		return p, err
	}
	if r, ok := reservation(n, mac); ok {
		p.Add(plan.Action{
			ID: "network.unreserve:" + w.name, Why: fmt.Sprintf("give the address %s back", r.IP), Consent: plan.Typed,
			Shows: []string{fmt.Sprintf("virsh net-update %s delete ip-dhcp-host", n.Name)},
			Do:    func(ctx context.Context) error { return l.Unreserve(ctx, n.Name, r) },
		})
	}
	if n != nil {
		p.Add(e.planForgetGuest(ctx, n.Name, mac, w.name)...)
	}
	if err := e.planUnshare(&p, key); err != nil {
		return p, err
	}
	for _, a := range attachments(dd.w.store.Config, w.name) {
		p.Add(planUngit(a, plan.Typed)...)
	}
	ssh, err := sshcfg.PlanRemoveVM(e.SSH, w.name, w.name)
	if err != nil {
		return p, err
	}
	p.Add(ssh...)
	p.Add(plan.Action{
		ID: "vm.forget", Why: "forget what was remembered about it", Shows: []string{"rm " + e.state().InstancePath(w.name)}, Consent: plan.Typed,
		Do: func(context.Context) error {
			if err := os.Remove(e.state().InstancePath(w.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			e.state().Forget(w.name)
			return nil
		},
	}, plan.Action{
		ID: "store.forget", Why: "remove its records from the config", Shows: []string{"write " + e.StorePath}, Consent: plan.Typed,
		Do: func(ctx context.Context) error {
			if _, err := os.Stat(e.StorePath); errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return config.Update(ctx, e.StorePath, func(c *config.Config) error { c.RemoveVM(w.name); return nil })
		},
	})
	return p, nil
}

// planUnshare takes every token of the VM away, whatever the store says.
func (e *Env) planUnshare(p *plan.Plan, key string) error {
	hf, err := share.ObserveHost(key, nil, nil)
	if err != nil {
		return err
	}
	tokens := make([]string, 0, len(hf.Tokens))
	for t := range hf.Tokens {
		tokens = append(tokens, t)
	}
	sort.Strings(tokens)
	for _, t := range tokens {
		op := root.Unbind{VMKey: key, Token: t}
		p.Add(plan.Action{ID: "share.unbind:" + t, Why: "take the shared folder away", Shows: op.Shows(), Consent: plan.Typed, Root: op})
	}
	dir := root.ExportRoot(key)
	_, err = root.ReadVMManifest(key)
	noted := !errors.Is(err, fs.ErrNotExist) || root.DeviceGuardNoted(key)
	if _, err := os.Lstat(dir); err == nil || noted || len(hf.Export) > 0 {
		op := root.Unexport{VMKey: key}
		p.Add(plan.Action{ID: "share.unexport", Why: "remove " + filepath.Base(dir) + "'s place for shared folders", Shows: op.Shows(), Consent: plan.Typed, Root: op})
	}
	return nil
}
