package provision

import (
	"context"
	"errors"
	"fmt"
	"os"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
	"aivm.dev/aivm/sshcfg"
)

// DeleteOptions are the flags of `vm delete`.
type DeleteOptions struct {
	Name string
	// Typed: the name is on the command line together with --yes, which counts as typing it.
	Typed bool
	// DiscardWork discards the work that only the VM's clones have, without listing it.
	DiscardWork bool
}

// Delete deletes a VM with its disk, after the user typed its name. The commits in its clones are
// fetched first. Other work that only the clones have is listed, and lost only if the user types
// the name after the list, or with DiscardWork. The plan is made under the VM's lock, after the
// question.
func (e *Env) Delete(ctx context.Context, o DeleteOptions) (VMResult, error) {
	dd, err := e.findDeletion(ctx, o.Name)
	if err != nil {
		return VMResult{}, err
	}
	name := dd.target.Name
	if e.DryRun {
		return VMResult{}, e.dryDelete(ctx, dd, o)
	}
	if err := config.CheckWritable(e.StorePath); err != nil {
		return VMResult{}, err // otherwise its record would remain
	}
	var listed []gitsync.CloneWork
	if !o.Typed {
		if listed, err = e.confirmDeletion(ctx, dd, o); err != nil {
			return VMResult{}, err
		}
	}
	outcome := session.Deleted
	_, err = e.RunJob(ctx, loop.Job{
		VM: func() string { return name }, LockFirst: true,
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			dd, err = e.findDeletion(ctx, name)
			if errors.As(err, new(*config.UnknownVMError)) || errors.Is(err, config.ErrNoVM) {
				outcome = session.WasDeleted
				return p, nil
			}
			if err != nil {
				return p, err
			}
			if err := e.recheckWork(ctx, dd, o, listed); err != nil {
				return p, err
			}
			if p, err = e.planDelete(ctx, dd, e.observeRemains(ctx, dd)); err == nil {
				e.Approval.Approve(p.Actions...)
			}
			return p, err
		},
		Before:       func() { e.beginDeletion(dd) },
		BeforeUnlock: func() { e.DropLock(name) },
	})
	if err != nil {
		return VMResult{}, err
	}
	r := e.VMResult(name, "missing", outcome)
	if outcome == session.Deleted {
		r.Network = dd.network
	}
	return r, nil
}

// deletion is a VM that is to be deleted, as in the config and libvirt.
type deletion struct {
	target  *target.Target
	conn    *virt.Conn
	domain  *virt.Domain // nil: libvirt has none of this user's
	pool    *virt.Pool
	network string
}

// findDeletion finds the VM in the config or, if its creation was interrupted before it was
// recorded or it was created with another home, in libvirt by aivm's mark. A domain of that name
// with another owner is not touched; all else of the VM has this user's uid in its name.
func (e *Env) findDeletion(ctx context.Context, name string) (*deletion, error) {
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		if w, err = e.unrecorded(ctx, name, err); err != nil {
			return nil, err
		}
	}
	d := &deletion{target: w, network: w.Network.Network.Name}
	// A damaged state file does not prevent the deletion. A VM of a later aivm is refused: it may
	// have parts that this version does not know.
	if _, err := e.State().Instance(w.Name); errors.Is(err, state.ErrLater) {
		return nil, err
	}
	if d.conn, err = e.LibvirtWithHelp(ctx); err != nil {
		return nil, err
	}
	dom, err := d.conn.Domain(ctx, w.Name)
	switch {
	case errors.Is(err, virt.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		foreign := domain.CheckOwner(dom, e.UID)
		if inst, ierr := e.State().Instance(w.Name); foreign != nil && !dom.Mark.Exists && !w.NewVM && ierr == nil && inst == nil {
			return nil, target.NotAdopted(w.Name)
		}
		if foreign != nil && w.NewVM {
			return nil, foreign
		}
		if foreign != nil {
			e.WarnOnce(foreign.Error() + "; the domain is not touched")
		} else {
			d.domain, d.network = dom, dom.Network
		}
	}
	d.pool, err = machine.For(e.Loop).PoolForDeletion(ctx, d.conn, e.BaseDir(w.Record.Paths))
	return d, err
}

// unrecorded returns the Target for a VM that is not in the config, if there is a state file or a
// domain of this user; else the error unknown. It does not use root, so that a mistyped name asks
// for no password.
func (e *Env) unrecorded(ctx context.Context, name string, unknown error) (*target.Target, error) {
	if !errors.As(unknown, new(*config.UnknownVMError)) && !errors.Is(unknown, config.ErrNoVM) || name == "" {
		return nil, unknown
	}
	if named := new(config.UnknownVMError); errors.As(unknown, &named) {
		// Creating it is no way out.
		unknown = ui.Refused("%w", named).Hint(ui.Cmd("aivm vm list"))
	}
	inst, err := e.State().Instance(name)
	if err != nil {
		return nil, unknown
	}
	if inst == nil {
		l, err := e.Libvirt(ctx)
		if err != nil {
			return nil, unknown
		}
		if d, err := l.Domain(ctx, name); err != nil || !d.Mark.By(e.UID) {
			return nil, unknown
		}
	}
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	return target.NewVM(store, name)
}

// remains holds the parts of a VM other than its domain and volumes.
type remains struct {
	network  plan.Known[*virt.Network] // nil: it no longer exists
	rules    firewall.Facts            // of network
	adopted  legacy03.Remains
	exported plan.Known[folders.ExportFacts]
	remotes  []remote
	ssh      sshcfg.Remains
}

// remote is a folder in git mode with its remote in the repository.
type remote struct {
	folder    share.Attachment
	gitRemote *gitsync.Remote
}

// observeRemains reads what else is deleted with the VM.
func (e *Env) observeRemains(ctx context.Context, dd *deletion) (r remains) {
	name := dd.target.Name
	r.adopted = legacy03.For(e.Loop).ObserveRemains(dd.target, dd.domain)
	r.network = session.Known(dd.conn.Network(ctx, dd.network))
	if n := r.network.Value; n != nil {
		r.rules = e.Firewall.Rules(ctx, n.Name, false) // without sudo: facts that every user may read are enough
	}
	r.exported.Value, r.exported.Err = folders.ObserveExports(e.Key(name))
	for _, a := range share.RecordedFor(dd.target.Store.Config, name) {
		r.remotes = append(r.remotes, remote{a, clones.RemoteOf(a)})
	}
	r.ssh = sshcfg.ObserveRemains(e.SSH, name, name)
	return r
}

// planDelete plans to remove all parts of a VM: domain, volumes, reservation, mounts, ssh files,
// state, records. Host folders, the image cache and the network stay.
func (e *Env) planDelete(ctx context.Context, dd *deletion, r remains) (plan.Plan, error) {
	w, l, d, pool := dd.target, dd.conn, dd.domain, dd.pool
	p := plan.Plan{Stage: plan.Host}
	key := e.Key(w.Name)
	poolName := domain.PoolFor(pool, e.BaseDir(w.Record.Paths), session.DefaultBaseDir)
	p.Add(domain.PlanDropCopy(pool, w.Name, key, e.UID, poolName, e.Domains(ctx))...)
	as, err := domain.PlanDelete(domain.Facts{Domain: plan.Yes(d), Pool: plan.Yes(pool)}, w.Name, key, poolName, e.Domains(ctx))
	if err != nil {
		return p, err
	}
	p.Add(as...)
	p.Add(legacy03.For(e.Loop).PlanDeleteAdopted(w, l, d, r.adopted)...)
	mac := network.MAC(key)
	if d != nil && d.MAC != "" {
		mac = d.MAC
	}
	n := r.network.Value
	if r.network.Err != nil {
		return p, r.network.Err
	}
	if h, ok := machine.Reservation(n, mac); ok {
		p.Add(plan.Action{
			ID: "network.unreserve:" + w.Name, Why: fmt.Sprintf("release the address %s", h.IP), Consent: plan.Typed,
			Shows: []string{fmt.Sprintf("virsh net-update %s delete ip-dhcp-host", n.Name)},
			Do:    func(ctx context.Context) error { return l.Unreserve(ctx, n.Name, h) },
		})
	}
	if n != nil {
		p.Add(walls.PlanForget(r.rules, n.Name, mac, w.Name)...)
	}
	if r.exported.Err != nil {
		return p, r.exported.Err
	}
	p.Add(folders.PlanUnexport(key, r.exported.Value)...)
	for _, m := range r.remotes {
		p.Add(clones.PlanRemoveRemote(m.folder, m.gitRemote, plan.Typed)...)
	}
	ssh, err := sshcfg.PlanRemove(r.ssh)
	if err != nil {
		return p, err
	}
	p.Add(ssh...)
	p.Add(plan.Action{
		ID: "vm.forget", Why: "remove its state files", Shows: []string{"rm " + e.State().InstancePath(w.Name)}, Consent: plan.Typed,
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
