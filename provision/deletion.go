package provision

import (
	"context"
	"errors"
	"net/netip"
	"os"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/state"
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
func (e *Env) Delete(ctx context.Context, o DeleteOptions) error {
	dd, err := e.lookForDeletion(ctx, o.Name)
	if err != nil {
		return err
	}
	name := dd.w.name
	if e.DryRun {
		return e.dryDelete(ctx, dd, o)
	}
	if err := config.CheckWritable(e.StorePath); err != nil {
		return err // else its record would outlive it
	}
	var seen []CloneWork
	if !o.Typed {
		if seen, err = e.askForDeletion(ctx, dd, o); err != nil {
			return err
		}
	}
	release, _, err := e.lock(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	defer e.dropLock(name)
	dd, err = e.lookForDeletion(ctx, name)
	if errors.As(err, new(*config.UnknownVMError)) || errors.Is(err, config.ErrNoVM) {
		return e.said(name, "missing", "VM %s was deleted meanwhile", name)
	}
	if err != nil {
		return err
	}
	if err := e.lastLook(ctx, dd, o, seen); err != nil {
		return err
	}
	p, err := e.planDelete(ctx, dd)
	if err != nil {
		return err
	}
	e.Approval.Approve(p.Actions...)
	e.beginDeletion(dd)
	if err := e.apply(ctx, p); err != nil {
		return err
	}
	return e.said(name, "missing", "VM %s is deleted; the network %s stays", name, dd.network)
}

// deletion is a VM that is to go, as libvirt and the store have it.
type deletion struct {
	w       *want
	conn    *virt.Conn
	domain  *virt.Domain // nil: libvirt has none of ours
	pool    *virt.Pool
	network string
}

// lookForDeletion finds the VM in the store, or, for one whose creation was
// killed before it was recorded or that was made with another home, in libvirt
// by our mark. A domain of that name that is not ours is left alone; what else
// the VM had carries this person's uid in its name.
func (e *Env) lookForDeletion(ctx context.Context, name string) (*deletion, error) {
	w, err := e.wantVM(ctx, name, cwd(), false)
	if err != nil {
		if w, err = e.unrecorded(ctx, name, err); err != nil {
			return nil, err
		}
	}
	d := &deletion{w: w, network: w.network.Network.Name}
	// One that is damaged keeps nobody from deleting; what a later aivm made is
	// not known here.
	if _, err := e.state().Instance(w.name); errors.Is(err, state.ErrLater) {
		return nil, err
	}
	if d.conn, err = e.libvirtWithHelp(ctx); err != nil {
		return nil, err
	}
	dom, err := d.conn.Domain(ctx, w.name)
	switch {
	case errors.Is(err, virt.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		foreign := domain.CheckOurs(dom, e.UID)
		if in, ierr := e.state().Instance(w.name); foreign != nil && !dom.Mark.Ours && !w.newVM && ierr == nil && in == nil {
			return nil, notAdopted(w.name)
		}
		if foreign != nil && w.newVM {
			return nil, foreign
		}
		if foreign != nil {
			e.warnOnce(foreign.Error() + "; it is left alone")
		} else {
			d.domain, d.network = dom, dom.Network
		}
	}
	d.pool, err = e.poolForDeletion(ctx, d.conn, e.baseDir(w.record.Paths))
	return d, err
}

// unrecorded is a VM the store does not know. Nobody is asked for root's
// rights because of a name that was mistyped.
func (e *Env) unrecorded(ctx context.Context, name string, unknown error) (*want, error) {
	if !errors.As(unknown, new(*config.UnknownVMError)) && !errors.Is(unknown, config.ErrNoVM) || name == "" {
		return nil, unknown
	}
	in, err := e.state().Instance(name)
	if err != nil {
		return nil, unknown
	}
	if in == nil {
		l, err := e.libvirt(ctx)
		if err != nil {
			return nil, unknown
		}
		if d, err := l.Domain(ctx, name); err != nil || !d.Mark.By(e.UID) {
			return nil, unknown
		}
	}
	store, err := e.load()
	if err != nil {
		return nil, err
	}
	w := &want{store: store}
	return w, e.wantNew(w, name)
}

// poolForDeletion is the pool, started if it has to be: volumes of a pool that
// does not run are unknown, not gone.
func (e *Env) poolForDeletion(ctx context.Context, l *virt.Conn, dir string) (*virt.Pool, error) {
	pool, err := l.PoolAt(ctx, dir)
	if err != nil && !errors.Is(err, virt.ErrNotFound) {
		return nil, err
	}
	if pool != nil && pool.Active {
		return pool, nil
	}
	if _, serr := os.Stat(dir); pool == nil && errors.Is(serr, os.ErrNotExist) {
		return nil, nil
	}
	if e.DryRun {
		return nil, ui.Refused("the storage pool at %s is not active, so what is in it cannot be told", dir).Hint("virsh -c qemu:///system pool-list --all")
	}
	if err := l.EnsurePool(ctx, domain.PoolFor(pool, dir, DefaultBaseDir), dir); err != nil {
		return nil, err
	}
	return l.PoolAt(ctx, dir)
}

// reservation is the DHCP entry of a VM in its network, if there is one.
func reservation(n *virt.Network, mac string) (virt.Reservation, bool) {
	if n == nil {
		return virt.Reservation{}, false
	}
	ip, ok, err := network.Address(config.NetworkSpec{SubnetCIDR: n.Subnet.String()}, n, mac)
	if err != nil || !ok {
		return virt.Reservation{}, false
	}
	for _, h := range n.Hosts {
		if h.IP == ip {
			return h, true
		}
	}
	return virt.Reservation{MAC: mac, IP: netip.Addr(ip)}, true
}
