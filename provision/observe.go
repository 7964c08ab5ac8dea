package provision

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
	"aivm.dev/aivm/sshcfg"
)

// Observe reads the facts for w. The SSH login and probe run at the same time as the reads of
// libvirt and of the host's mounts. It changes nothing and asks for no password or consent.
func (e *Env) Observe(ctx context.Context, w *target.Target, before loop.Progress) (*loop.Facts, error) {
	f := &loop.Facts{Progress: before}
	inst, err := e.State().Instance(w.Name)
	if err != nil {
		return nil, err
	}
	f.Inst = inst
	dialCtx, cancelDial := context.WithCancel(ctx)
	defer cancelDial()
	var wg sync.WaitGroup
	if w.Guest && inst != nil {
		wg.Go(func() { f.Conn, f.ConnErr = e.connect(dialCtx, w, f) })
	} else {
		f.ConnErr = loop.ErrNotTried
	}
	if w.Clone != nil {
		wg.Go(func() { clones.For(e.Loop).ObserveQuick(ctx, w, f) })
	}
	wg.Go(func() { f.Wall = walls.For(e.Loop).ObserveRules(ctx, w) })
	e.ObserveLibvirt(ctx, w, f)
	if d := f.Domain.Domain; d.Err == nil && (d.Value == nil || d.Value.State != virt.Running) {
		cancelDial() // the VM is off: do not wait for a login that cannot succeed
	}
	if atts := f.Atts(w); len(atts) > 0 || w.Boot || len(folders.PendingDetach(w)) > 0 {
		if f.Share, err = e.Shared(w.Name, atts); err == nil {
			folders.For(e.Loop).ObserveHostExecuted(ctx, w, f)
			folders.For(e.Loop).ObserveOwners(ctx, w, f)
			folders.ObserveRepository(w, f)
		} else {
			cancelDial()
		}
	}
	wg.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if f.Conn != nil {
			_ = f.Conn.Close()
		}
		return nil, err
	}
	if f.Conn != nil {
		clones.Settle(ctx, w, f)
	}
	if wrongKey := new(*guest.HostKeyError); errors.As(f.ConnErr, wrongKey) {
		return nil, e.HostKeyRefusal(w.Name, f.ConnErr)
	}
	return f, nil
}

// observeForPlan reads the other facts that the host's plan needs. Which those are depends on the
// facts of Observe.
func (e *Env) observeForPlan(ctx context.Context, w *target.Target, f *loop.Facts) {
	if d := f.Domain.Domain; d.Err == nil && d.Value != nil || f.StartsVM(w) {
		_, f.Keys.Pinned = e.SSH.PinnedKey(w.Name)
	}
	if f.StartsVM(w) {
		_, f.Keys.Own = e.SSH.LoadHostKey(w.Name)
		f.Creation.Host = e.HostFacts()
		ids, err := e.Identities(ctx, w)
		f.Creation.Identities = plan.Known[[]sshcfg.Identity]{Value: ids, Err: err}
		f.Creation.ID = uuid.NewString()
		if d := f.Domain.Domain.Value; d != nil && d.State == virt.Off && d.Mark.By(e.UID) && f.Virt.Err == nil {
			// A file that cannot be read stays as it is.
			f.Domain.OldDisk, _ = domain.OldDisk(ctx, f.Virt.Value, d)
		}
		if f.NewDomain() {
			f.Creation.Image = images.For(e.Loop).Observe(ctx, w)
		}
	}
	e.observeRules(ctx, w, f)
	f.Server = editors.For(e.Loop).MissingServer(w)
	if f.Inst != nil || f.StartsVM(w) {
		f.SSH = sshcfg.Observe(e.SSH, sshcfg.Stanza{Alias: w.Name})
	}
}

// observeRules reads the rules of the VM's network, or of the one it will get, if the plan will
// include them: listing the guests of the network may need the privileged helper.
func (e *Env) observeRules(ctx context.Context, w *target.Target, f *loop.Facts) {
	if _, proceed, err := e.planPrerequisites(w, f); err != nil || !proceed {
		return
	}
	switch {
	case f.StartsVM(w) && f.Domain.Domain.Err == nil:
		// The rules of the network that the plan will choose.
		if c, _, err := machine.Choose(w, f, f.Creation.Host, e.UID, e.Key(w.Name), e.BaseDir(w.Record.Paths)); err == nil {
			walls.For(e.Loop).ObserveForStart(ctx, c.Network.Network.Name, f)
		}
	case w.Guest && (f.Conn != nil || f.Running()):
		e.ObserveFirewall(ctx, w, f)
	}
}

// connect opens the SSH connection, or uses the parked one, and runs the probe script.
func (e *Env) connect(ctx context.Context, w *target.Target, f *loop.Facts) (guest.Conn, error) {
	t, done, err := e.GuestTarget(ctx, w, f.Inst)
	if err != nil {
		return nil, err
	}
	defer done()
	if c, ok := e.Unpark(ctx, w, f); ok {
		return c, nil
	}
	dctx, cancel := context.WithTimeout(ctx, cmp.Or(w.LoginLimit, loop.DialLimit))
	defer cancel()
	stop := e.Timing.Start("ssh")
	defer stop()
	c, err := e.DialGuest(dctx, t)
	if err != nil {
		return nil, err
	}
	settings.StartEarly(ctx, w, f, c)
	err = e.Probe(ctx, c, w, f)
	if refused := new(ssh.OpenChannelError); errors.As(err, &refused) && f.Settings.StopReceiver() {
		// The SSH server allows only one session: stop the receiver and try again.
		err = e.Probe(ctx, c, w, f)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	if guest.BypassesStartup(c) {
		// The receiver was started before that was known: another program may be reading.
		f.Settings.StopReceiver()
	}
	return c, nil
}

// Probe runs the probe script, one command with the probes of all parts, and stores the answers in f.
func (e *Env) Probe(ctx context.Context, c guest.Conn, w *target.Target, f *loop.Facts) error {
	ps := []guest.Probe{machine.ClockProbe(), {Name: "boot", Script: cloudinit.ReadyProbe()}}
	atts := f.Atts(w)
	if w.Clone != nil {
		ps = append(ps, clones.Probe(w))
	}
	ps = append(ps, settings.Probe(f)...)
	if w.Store != nil {
		// Last, because it is the only one that can block.
		ps = append(ps, guest.Probe{Name: folders.ShareProbe, Script: share.GuestProbe(atts)})
	}
	var g loop.Guest
	sent := time.Now()
	out, err := folders.For(e.Loop).ProbeWithFolders(ctx, c, w, ps)
	got := time.Now()
	if g.ShareErr = folders.For(e.Loop).HungFolders(ctx, w, err); g.ShareErr != nil {
		err = nil
	}
	if err != nil {
		return e.ExplainStartup(ctx, w, err)
	}
	if w.Clone != nil {
		f.Clone.Stamp.Guest = gitsync.GuestStamp(out["git"])
		if f.Clone.Guest, err = gitsync.ParseGuest(out["git"]); err != nil {
			return err
		}
	}
	settings.For(e.Loop).Read(ctx, c, w, f, out["settings"])
	g.Clock = machine.ClockOff(out["clock"], sent, got)
	if g.Boot, err = cloudinit.ParseReady(out["boot"]); err != nil {
		return err
	}
	if w.Store != nil && g.ShareErr == nil {
		if g.Share, err = share.ParseGuest(out[folders.ShareProbe], atts); err != nil {
			return err
		}
	}
	f.Guest = g
	return nil
}
