package provision

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
)

// facts is one pass over the world, unprivileged.
type facts struct {
	inst    *state.Instance
	virt    plan.Known[*virt.Conn] // the connection itself
	domain  domain.Facts
	net     network.Facts
	share   share.HostFacts
	conn    guest.Conn // nil unless the guest answered
	connErr error      // why not
	guest   guestFacts
	wall    *wallFacts // nil: not looked at yet

	executed  *plan.Known[hostexec.List] // of a new folder: what this machine's tools run of it
	aliasMade bool                       // the plan of this look writes the ssh entry
}

// running reports whether libvirt says that the VM runs.
func (f *facts) running() bool {
	d := f.domain.Domain
	return d.Err == nil && d.Value != nil && d.Value.State == virt.Running
}

// guestFacts is what the one probe script in the guest said.
type guestFacts struct {
	boot  cloudinit.Status
	share share.GuestFacts
	clock time.Duration // how far ahead of this machine's, at least
	// shareErr says that nobody serves the VM's folders: whatever touches them
	// in the guest waits for good.
	shareErr error
}

// dialLimit is how long a VM that libvirt knows nothing against may take to
// answer before it counts as unreachable.
const dialLimit = 5 * time.Second

// observe reads the facts for w. The SSH dial and probe overlap the reads of
// libvirt and of the host's mounts. It changes nothing and asks for nothing.
func (e *Env) observe(ctx context.Context, w *want) (*facts, error) {
	f := &facts{}
	inst, err := e.state().Instance(w.name)
	if err != nil {
		return nil, err
	}
	f.inst = inst
	w.unmoved = inst != nil && inst.Adopted && !inst.Moved
	dialCtx, cancelDial := context.WithCancel(ctx)
	defer cancelDial()
	var wg sync.WaitGroup
	if w.guest && inst != nil {
		wg.Go(func() { f.conn, f.guest, f.connErr = e.reach(dialCtx, w, inst) })
	} else {
		f.connErr = errNotTried
	}
	if w.git != nil {
		wg.Go(func() { e.observeGitQuick(ctx, w) })
	}
	wg.Go(func() { f.wall = e.observeWall(ctx, w) })
	e.observeLibvirt(ctx, w, f)
	if d := f.domain.Domain; d.Err == nil && (d.Value == nil || d.Value.State != virt.Running) {
		cancelDial() // nobody can answer: do not wait for a route that leads nowhere
	}
	if atts := w.atts(); len(atts) > 0 || w.boot {
		if f.share, err = e.shared(w.name, atts); err == nil {
			e.observeExecuted(ctx, w, f)
		} else {
			cancelDial()
		}
	}
	wg.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if f.conn != nil {
			_ = f.conn.Close()
		}
		return nil, err
	}
	if f.conn != nil {
		w.settleGit(ctx)
	}
	if host := new(*guest.HostKeyError); errors.As(f.connErr, host) {
		return nil, e.hostKeyRefusal(w.name, f.connErr)
	}
	return f, nil
}

var errNotTried = errors.New("not tried")

// observeLibvirt asks for the domain, and for pool and networks only where a
// plan can hang on them.
func (e *Env) observeLibvirt(ctx context.Context, w *want, f *facts) {
	l, err := e.libvirt(ctx)
	if err != nil {
		if e.libvirtAbsent(err) {
			// Not installed: there is nothing it could know of.
			f.domain.Domain, f.domain.Pool = plan.Yes[*virt.Domain](nil), plan.Yes[*virt.Pool](nil)
			f.net.Networks = plan.Yes[[]*virt.Network](nil)
			f.net.Routes, f.net.Interfaces = e.routes()
			f.virt = plan.Unknown[*virt.Conn](err)
			return
		}
		f.virt = plan.Unknown[*virt.Conn](err)
		f.domain.Domain = plan.Unknown[*virt.Domain](err)
		f.domain.Pool = plan.Unknown[*virt.Pool](err)
		f.net.Networks = plan.Unknown[[]*virt.Network](err)
		return
	}
	f.virt = plan.Yes(l)
	d, err := l.Domain(ctx, w.name)
	f.domain.Domain = known(d, err)
	if err == nil && d.State == virt.Running {
		if _, seeded := d.StoredDisk(domain.SeedSerial); !seeded && (f.inst == nil || !f.inst.SeedLeft) {
			f.domain.Pool = plan.Unknown[*virt.Pool](errNotTried)
			f.net.Networks = plan.Unknown[[]*virt.Network](errNotTried)
			return
		}
	}
	e.observeRest(ctx, l, w, f)
}

func (e *Env) observeRest(ctx context.Context, l *virt.Conn, w *want, f *facts) {
	p, err := l.PoolAt(ctx, e.baseDir(w.record.Paths))
	f.domain.Pool = known(p, err)
	ns, err := l.Networks(ctx)
	f.net.Networks = plan.Known[[]*virt.Network]{Value: ns, Err: err}
	f.net.Routes, f.net.Interfaces = e.routes()
}

// known makes "libvirt says there is none" the known absence it is.
func known[T any](v *T, err error) plan.Known[*T] {
	if errors.Is(err, virt.ErrNotFound) {
		return plan.Yes[*T](nil)
	}
	return plan.Known[*T]{Value: v, Err: err}
}

// libvirtAbsent reports whether libvirt is not there at all, as opposed to
// stopped or closed to us.
func (e *Env) libvirtAbsent(err error) bool {
	return errors.Is(err, virt.ErrNoDaemon) && e.hostFacts().Tools["libvirtd"] == "" && e.hostFacts().Tools["virtqemud"] == ""
}

// target is how the guest is reached; ok is false before the VM has a state.
func (e *Env) target(ctx context.Context, w *want, inst *state.Instance) (guest.Target, func(), error) {
	pinned, err := e.SSH.PinnedKey(w.name)
	if err != nil {
		return guest.Target{}, nil, fmt.Errorf("the pinned host key of %s: %w", w.name, err)
	}
	auth, done, err := e.auth(ctx, inst)
	if err != nil {
		return guest.Target{}, nil, err
	}
	return guest.Target{Addr: netip.AddrPortFrom(netip.MustParseAddr(inst.Address), 22).String(), User: inst.User, HostKey: pinned, Auth: auth}, done, nil
}

// reach makes the one connection and asks the guest everything in one script.
func (e *Env) reach(ctx context.Context, w *want, inst *state.Instance) (guest.Conn, guestFacts, error) {
	t, done, err := e.target(ctx, w, inst)
	if err != nil {
		return nil, guestFacts{}, err
	}
	defer done()
	if c, g, ok := e.unpark(ctx, w); ok {
		return c, g, nil
	}
	dctx, cancel := context.WithTimeout(ctx, cmp.Or(w.patience, dialLimit))
	defer cancel()
	stop := e.timing.Start("ssh")
	defer stop()
	c, err := e.dialGuest(dctx, t)
	if err != nil {
		return nil, guestFacts{}, err
	}
	w.settings.startEarly(ctx, c)
	g, err := e.probe(ctx, c, w)
	if refused := new(ssh.OpenChannelError); errors.As(err, &refused) && w.settings.unneeded() {
		// A server that allows one session only.
		g, err = e.probe(ctx, c, w)
	}
	if err != nil {
		_ = c.Close()
		return nil, guestFacts{}, err
	}
	return c, g, nil
}

// probe runs the probe script: one exec for all rooms.
func (e *Env) probe(ctx context.Context, c guest.Conn, w *want) (guestFacts, error) {
	ps := []guest.Probe{clockProbe(), {Name: "boot", Script: cloudinit.ReadyProbe()}}
	atts := w.atts()
	if w.git != nil {
		ps = append(ps, w.gitProbe())
	}
	ps = append(ps, w.settingsProbe()...)
	if w.store != nil {
		// Last: it is the one that can hang.
		ps = append(ps, guest.Probe{Name: shareProbe, Script: share.GuestProbe(atts)})
	}
	var g guestFacts
	sent := time.Now()
	out, err := e.askWithFolders(ctx, c, w, ps)
	got := time.Now()
	if g.shareErr = e.foldersHang(ctx, w, err); g.shareErr != nil {
		err = nil
	}
	if err != nil {
		return guestFacts{}, err
	}
	if w.git != nil {
		w.git.stamp.Guest = gitsync.GuestStamp(out["git"])
		if w.git.guest, err = gitsync.ParseGuest(out["git"]); err != nil {
			return guestFacts{}, err
		}
	}
	e.readSettings(ctx, c, w, out["settings"])
	g.clock = clockOff(out["clock"], sent, got)
	if g.boot, err = cloudinit.ParseReady(out["boot"]); err != nil {
		return g, err
	}
	if w.store != nil && g.shareErr == nil {
		if g.share, err = share.ParseGuest(out[shareProbe], atts); err != nil {
			return g, err
		}
	}
	return g, nil
}
