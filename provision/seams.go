package provision

import (
	"context"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/sshcfg"
)

// Seams replaces what a run asks of the world outside: this machine, libvirt,
// the guest, root. All of it at once, so that a test that gives them depends on
// no machine (test/record).
type Seams struct {
	UID, GID  int
	Host      host.Env
	Editor    editor.Env
	SSH       sshcfg.Layout
	Root      root.Applier
	DialVirt  func(context.Context) (*virt.Conn, error)
	DialGuest func(context.Context, guest.Target) (guest.Conn, error)
	HostKeyOf func(ctx context.Context, addr string) (ssh.PublicKey, error)
	DialNet   func(ctx context.Context, network, addr string) (net.Conn, error) // to a guest's server, for its first line
	Routes    func() (plan.Known[[]network.Route], []string)
	Wall      Wallkeeper
	Now       func() time.Time
}

func (s *Seams) into(e *Env) {
	if s == nil {
		return
	}
	e.UID, e.GID, e.Host, e.Editor, e.SSH, e.Root = s.UID, s.GID, s.Host, s.Editor, s.SSH, s.Root
	e.DialVirt, e.DialGuest, e.HostKeyOf, e.DialNet = s.DialVirt, s.DialGuest, s.HostKeyOf, s.DialNet
	e.Routes, e.Wall, e.Now = s.Routes, s.Wall, s.Now
}

// dialGuest logs in to a guest: guest.Dial unless a test says otherwise.
func (e *Env) dialGuest(ctx context.Context, t guest.Target) (guest.Conn, error) {
	if e.DialGuest != nil {
		return e.DialGuest(ctx, t)
	}
	return guest.Dial(ctx, t)
}

// hostKeyOf asks a guest for its host key.
func (e *Env) hostKeyOf(ctx context.Context, addr string) (ssh.PublicKey, error) {
	if e.HostKeyOf != nil {
		return e.HostKeyOf(ctx, addr)
	}
	return guest.HostKeyOf(ctx, addr)
}

// dialNet connects to a guest's server.
func (e *Env) dialNet(ctx context.Context, network, addr string) (net.Conn, error) {
	if e.DialNet != nil {
		return e.DialNet(ctx, network, addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// awaitGuest waits until a guest lets us in.
func (e *Env) awaitGuest(ctx context.Context, t guest.Target, phase func(guest.Phase, time.Duration)) (guest.Conn, error) {
	if e.DialGuest != nil {
		return e.DialGuest(ctx, t)
	}
	return guest.WaitReady(ctx, t, phase)
}

// routes are this machine's routes and the names of its interfaces.
func (e *Env) routes() (plan.Known[[]network.Route], []string) {
	if e.Routes != nil {
		return e.Routes()
	}
	return network.ObserveRoutes()
}

// now is the time of day.
func (e *Env) now() time.Time {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now()
}
