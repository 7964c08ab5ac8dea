package provision

import (
	"context"
	"errors"
	"fmt"
	"os"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
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
	// Typed says that the name was given on the command line together with
	// --yes, which counts as typing it.
	Typed bool
	// DiscardWork gives up what only the VM's clones have, unasked and unseen.
	DiscardWork bool
}

// Delete removes a VM with its disk, after its name was typed. What its clones
// committed is fetched first; what else only they have is named, and needs the
// name typed below that list, or DiscardWork. What is deleted is decided under
// the VM's lock, after the question.
func (e *Env) Delete(ctx context.Context, o DeleteOptions) (VMResult, error) {
	dd, err := e.findDeletion(ctx, o.Name)
	if err != nil {
		return VMResult{}, err
	}
	name := dd.w.Name
	if e.DryRun {
		return VMResult{}, e.dryDelete(ctx, dd, o)
	}
	if err := config.CheckWritable(e.StorePath); err != nil {
		return VMResult{}, err // else its record would outlive it
	}
	var seen []gitsync.CloneWork
	if !o.Typed {
		if seen, err = e.askForDeletion(ctx, dd, o); err != nil {
			return VMResult{}, err
		}
	}
	is := session.Deleted
	_, err = e.RunJob(ctx, loop.Job{
		VM: func() string { return name }, LockFirst: true,
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			dd, err = e.findDeletion(ctx, name)
			if errors.As(err, new(*config.UnknownVMError)) || errors.Is(err, config.ErrNoVM) {
				is = session.WasDeleted
				return p, nil
			}
			if err != nil {
				return p, err
			}
			if err := e.recheckWork(ctx, dd, o, seen); err != nil {
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
	r := e.VMResult(name, "missing", is)
	if is == session.Deleted {
		r.Network = dd.network
	}
	return r, nil
}

// deletion is a VM that is to go, as libvirt and the store have it.
type deletion struct {
	w       *target.Target
	conn    *virt.Conn
	domain  *virt.Domain // nil: libvirt has none of ours
	pool    *virt.Pool
	network string
}

// lookForDeletion finds the VM in the store, or, for one whose creation was
// killed before it was recorded or that was made with another home, in libvirt
// by our mark. A domain of that name that is not ours is left alone; what else
// the VM had carries this person's uid in its name.
func (e *Env) findDeletion(ctx context.Context, name string) (*deletion, error) {
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		if w, err = e.unrecorded(ctx, name, err); err != nil {
			return nil, err
		}
	}
	d := &deletion{w: w, network: w.Network.Network.Name}
	// One that is damaged keeps nobody from deleting; what a later aivm made is
	// not known here.
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
		if in, ierr := e.State().Instance(w.Name); foreign != nil && !dom.Mark.Ours && !w.NewVM && ierr == nil && in == nil {
			return nil, target.NotAdopted(w.Name)
		}
		if foreign != nil && w.NewVM {
			return nil, foreign
		}
		if foreign != nil {
			e.WarnOnce(foreign.Error() + "; it is left alone")
		} else {
			d.domain, d.network = dom, dom.Network
		}
	}
	d.pool, err = machine.For(e.Loop).PoolForDeletion(ctx, d.conn, e.BaseDir(w.Record.Paths))
	return d, err
}

// unrecorded is a VM the store does not know. Nobody is asked for root's
// rights because of a name that was mistyped.
func (e *Env) unrecorded(ctx context.Context, name string, unknown error) (*target.Target, error) {
	if !errors.As(unknown, new(*config.UnknownVMError)) && !errors.Is(unknown, config.ErrNoVM) || name == "" {
		return nil, unknown
	}
	in, err := e.State().Instance(name)
	if err != nil {
		return nil, unknown
	}
	if in == nil {
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

// remains is what there is of a VM outside of its domain and its volumes.
type remains struct {
	network  plan.Known[*virt.Network] // nil: it is gone
	rules    firewall.Facts            // of it
	adopted  legacy03.Remains
	exported plan.Known[folders.ExportFacts]
	remotes  []remote
	ssh      sshcfg.Remains
}

// remote is the remote of a folder in its repository.
type remote struct {
	folder share.Attachment
	is     *gitsync.Remote
}

// lookForRemains looks for what else goes with the VM.
func (e *Env) observeRemains(ctx context.Context, dd *deletion) (r remains) {
	name := dd.w.Name
	r.adopted = legacy03.For(e.Loop).ObserveRemains(dd.w, dd.domain)
	r.network = session.Known(dd.conn.Network(ctx, dd.network))
	if n := r.network.Value; n != nil {
		r.rules = e.Firewall.Rules(ctx, n.Name, false) // of which only what anybody may read counts
	}
	r.exported.Value, r.exported.Err = folders.ObserveExports(e.Key(name))
	for _, a := range share.RecordedFor(dd.w.Store.Config, name) {
		r.remotes = append(r.remotes, remote{a, clones.RemoteOf(a)})
	}
	r.ssh = sshcfg.ObserveRemains(e.SSH, name, name)
	return r
}

// planDelete is everything of a VM: domain, volumes, reservation, mounts, ssh
// files, state, records. Host folders, the image cache and the network stay.
func (e *Env) planDelete(ctx context.Context, dd *deletion, r remains) (plan.Plan, error) {
	w, l, d, pool := dd.w, dd.conn, dd.domain, dd.pool
	p := plan.Plan{Stage: plan.Host}
	key := e.Key(w.Name)
	in := domain.PoolFor(pool, e.BaseDir(w.Record.Paths), session.DefaultBaseDir)
	p.Add(domain.PlanDropCopy(pool, w.Name, key, e.UID, in, e.Domains(ctx))...)
	as, err := domain.PlanDelete(domain.Facts{Domain: plan.Yes(d), Pool: plan.Yes(pool)}, w.Name, key, in, e.Domains(ctx))
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
			ID: "network.unreserve:" + w.Name, Why: fmt.Sprintf("give the address %s back", h.IP), Consent: plan.Typed,
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
		p.Add(clones.PlanRemoveRemote(m.folder, m.is, plan.Typed)...)
	}
	ssh, err := sshcfg.PlanRemove(r.ssh)
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
