package session

import (
	"context"
	"errors"
	"fmt"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

// Apply runs a plan that needs no consent, and adds the command to continue with to an error.
func (e *Session) Apply(ctx context.Context, p plan.Plan) error {
	if _, err := e.Run(ctx, p); err != nil {
		return e.WithRerunHint(err)
	}
	return nil
}

// LibvirtWithHelp connects to libvirt. It starts the daemon if that is not running, and asks the
// privileged helper to open the socket if this user may not.
func (e *Session) LibvirtWithHelp(ctx context.Context) (*virt.Conn, error) {
	l, err := e.Libvirt(ctx)
	if err == nil {
		return l, nil
	}
	p := plan.Plan{Stage: plan.Host}
	if e.DryRun && errors.Is(err, virt.ErrDenied) {
		// Reading needs root too: show that action and stop.
		open, perr := e.PlanLibvirt(err, e.URI().Socket())
		if perr != nil {
			return nil, perr
		}
		p.Add(open)
		return nil, e.Dry(e.Verb, "", p)
	}
	if errors.Is(err, virt.ErrNoDaemon) && !e.URI().Own() {
		if e.LibvirtAbsent(err) {
			return nil, ui.Failed("libvirt is not installed on this machine").Hint(ui.Cmd("aivm host doctor"), ui.Cmd("aivm code ."))
		}
		as, perr := host.Plan(e.HostFacts(), host.Need{})
		if perr != nil {
			return nil, perr
		}
		for _, a := range as {
			if a.Consent == plan.None || a.Consent == "" {
				p.Add(a)
			}
		}
		if e.DryRun || p.Empty() {
			return nil, ui.Failed("%w", err).Hint(ui.Cmd("aivm host doctor"))
		}
		if err := e.Apply(ctx, p); err != nil {
			return nil, err
		}
		e.ForgetHost()
		if l, err = e.Libvirt(ctx); err == nil {
			return l, nil
		}
	}
	open, perr := e.PlanLibvirt(err, e.URI().Socket())
	if perr != nil {
		return nil, perr
	}
	if err := e.Apply(ctx, plan.Plan{Stage: plan.Host, Actions: []plan.Action{open}}); err != nil {
		return nil, err
	}
	return e.Libvirt(ctx)
}

// PlanLibvirt plans access to libvirt after it refused this user with err: the privileged helper
// opens the socket and passes the descriptor on, which changes nothing.
func (e *Session) PlanLibvirt(err error, socket string) (plan.Action, error) {
	switch own := e.URI().Own(); {
	case !errors.Is(err, virt.ErrDenied) && own:
		return plan.Action{}, ui.Failed("cannot connect to libvirt: %w", err).Hint(ui.Cmd("aivm host doctor"), ui.CmdFor("libvirt_uri in the config names the socket", "aivm config edit"))
	case !errors.Is(err, virt.ErrDenied):
		return plan.Action{}, ui.Failed("cannot connect to libvirt: %w", err).Hint(ui.Cmd("aivm host doctor"), ui.Cmd("sudo systemctl status libvirtd"))
	}
	if err := checkRootOpens(socket, err); err != nil {
		return plan.Action{}, err
	}
	return plan.Action{
		ID: "libvirt.open", Why: "connect to libvirt as root, since this user may not",
		Root: root.LibvirtSocket{Path: socket}, Got: e.adoptLibvirt, Again: true,
	}, nil
}

// checkRootOpens refuses a socket that is not in the privileged helper's list. The list is part
// of the program; no config can extend it.
func checkRootOpens(socket string, denied error) error {
	if root.OpensLibvirt(socket) {
		return nil
	}
	return ui.Refused("%w, and aivm's root helper opens only libvirt's system sockets", denied).
		Hint(ui.Cmd("ls -l "+shellescape.Quote(socket)), ui.CmdFor("libvirt_uri in the config names the socket", "aivm config edit"))
}

// Known turns a result of libvirt into a fact: virt.ErrNotFound becomes the known value nil.
func Known[T any](v *T, err error) plan.Known[*T] {
	if errors.Is(err, virt.ErrNotFound) {
		return plan.Yes[*T](nil)
	}
	return plan.Known[*T]{Value: v, Err: err}
}

// LibvirtAbsent reports whether libvirt is not installed, as opposed to stopped or not
// permitted to this user.
func (e *Session) LibvirtAbsent(err error) bool {
	return errors.Is(err, virt.ErrNoDaemon) && e.HostFacts().Tools["libvirtd"] == "" && e.HostFacts().Tools["virtqemud"] == ""
}

// LibvirtAsRoot connects to libvirt through the privileged helper, which opens the socket, for
// verbs that only read.
func (e *Session) LibvirtAsRoot(ctx context.Context) (*virt.Conn, error) {
	socket := e.URI().Socket()
	if err := checkRootOpens(socket, virt.ErrDenied); err != nil {
		return nil, err
	}
	res, err := e.Root.Do(ctx, root.LibvirtSocket{Path: socket}, nil)
	if err != nil {
		return nil, err
	}
	if err := e.adoptLibvirt(ctx, res); err != nil {
		return nil, err
	}
	return e.Libvirt(ctx)
}

// MountTable reads this machine's mount table.
func (e *Session) MountTable() ([]byte, error) { return e.Host.Head(mountinfo.Self, 64<<20) }

// Shared reads the VM's export root from the mount table, and the folders of atts.
func (e *Session) Shared(vm string, atts []share.Attachment) (share.HostFacts, error) {
	table, err := e.MountTable()
	if err != nil {
		return share.HostFacts{}, fmt.Errorf("reading this machine's mounts: %w", err)
	}
	return share.ObserveHost(e.Key(vm), atts, table)
}
