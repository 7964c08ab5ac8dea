package provision

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// Observe reads the facts for w. The SSH dial and probe overlap the reads of
// libvirt and of the host's mounts. It changes nothing and asks for nothing.
func (e *Env) Observe(ctx context.Context, w *target.Target) (*loop.Facts, error) {
	f := &loop.Facts{}
	inst, err := e.State().Instance(w.Name)
	if err != nil {
		return nil, err
	}
	f.Inst = inst
	w.Unmoved = inst != nil && inst.Adopted && !inst.Moved
	dialCtx, cancelDial := context.WithCancel(ctx)
	defer cancelDial()
	var wg sync.WaitGroup
	if w.Guest && inst != nil {
		wg.Go(func() { f.Conn, f.Guest, f.ConnErr = e.reach(dialCtx, w, inst) })
	} else {
		f.ConnErr = loop.ErrNotTried
	}
	if w.Git != nil {
		wg.Go(func() { clones.For(e.Loop).ObserveQuick(ctx, w) })
	}
	wg.Go(func() { f.Wall = walls.For(e.Loop).ObserveRules(ctx, w) })
	e.ObserveLibvirt(ctx, w, f)
	if d := f.Domain.Domain; d.Err == nil && (d.Value == nil || d.Value.State != virt.Running) {
		cancelDial() // nobody can answer: do not wait for a route that leads nowhere
	}
	if atts := w.Atts(); len(atts) > 0 || w.Boot {
		if f.Share, err = e.Shared(w.Name, atts); err == nil {
			folders.For(e.Loop).ObserveExecuted(ctx, w, f)
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
		clones.Settle(ctx, w)
	}
	if host := new(*guest.HostKeyError); errors.As(f.ConnErr, host) {
		return nil, e.HostKeyRefusal(w.Name, f.ConnErr)
	}
	return f, nil
}

// reach makes the one connection and asks the guest everything in one script.
func (e *Env) reach(ctx context.Context, w *target.Target, inst *state.Instance) (guest.Conn, loop.Guest, error) {
	t, done, err := e.GuestTarget(ctx, w, inst)
	if err != nil {
		return nil, loop.Guest{}, err
	}
	defer done()
	if c, g, ok := e.Unpark(ctx, w); ok {
		return c, g, nil
	}
	dctx, cancel := context.WithTimeout(ctx, cmp.Or(w.Patience, loop.DialLimit))
	defer cancel()
	stop := e.Timing.Start("ssh")
	defer stop()
	c, err := e.DialGuest(dctx, t)
	if err != nil {
		return nil, loop.Guest{}, err
	}
	settings.StartEarly(ctx, w.Settings, c)
	g, err := e.Probe(ctx, c, w)
	if refused := new(ssh.OpenChannelError); errors.As(err, &refused) && w.Settings.Unneeded() {
		// A server that allows one session only.
		g, err = e.Probe(ctx, c, w)
	}
	if err != nil {
		_ = c.Close()
		return nil, loop.Guest{}, err
	}
	return c, g, nil
}

// Probe runs the probe script: one exec for all rooms.
func (e *Env) Probe(ctx context.Context, c guest.Conn, w *target.Target) (loop.Guest, error) {
	ps := []guest.Probe{machine.ClockProbe(), {Name: "boot", Script: cloudinit.ReadyProbe()}}
	atts := w.Atts()
	if w.Git != nil {
		ps = append(ps, clones.Probe(w))
	}
	ps = append(ps, settings.Probe(w)...)
	if w.Store != nil {
		// Last: it is the one that can hang.
		ps = append(ps, guest.Probe{Name: folders.ShareProbe, Script: share.GuestProbe(atts)})
	}
	var g loop.Guest
	sent := time.Now()
	out, err := folders.For(e.Loop).AskWithFolders(ctx, c, w, ps)
	got := time.Now()
	if g.ShareErr = folders.For(e.Loop).FoldersHang(ctx, w, err); g.ShareErr != nil {
		err = nil
	}
	if err != nil {
		return loop.Guest{}, err
	}
	if w.Git != nil {
		w.Git.Stamp.Guest = gitsync.GuestStamp(out["git"])
		if w.Git.Guest, err = gitsync.ParseGuest(out["git"]); err != nil {
			return loop.Guest{}, err
		}
	}
	settings.For(e.Loop).Read(ctx, c, w, out["settings"])
	g.Clock = machine.ClockOff(out["clock"], sent, got)
	if g.Boot, err = cloudinit.ParseReady(out["boot"]); err != nil {
		return g, err
	}
	if w.Store != nil && g.ShareErr == nil {
		if g.Share, err = share.ParseGuest(out[folders.ShareProbe], atts); err != nil {
			return g, err
		}
	}
	return g, nil
}
