package provision

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/sshcfg"
)

// identities are the keys a guest of this VM lets in: the configured one, and
// our own where the configured one may not work without a question.
func (e *Env) identities(ctx context.Context, w *want) ([]sshcfg.Identity, error) {
	ids, err := e.SSH.Identities(ctx, e.expand(w.record.Paths.SSHIdentityFile), e.Getenv)
	if err != nil {
		return nil, err
	}
	if w.record.Paths.SSHIdentityFile == "" || len(ids) < 2 {
		return ids, nil
	}
	// Both exist: ours is let in only where the configured key needs the agent
	// and the agent does not have it now.
	if ids[0].Usable() {
		return ids[:1], nil
	}
	return ids, nil
}

func authorized(ids []sshcfg.Identity) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, id.AuthorizedKey())
	}
	return out
}

// auth turns the identities a VM was made with into login methods.
func (e *Env) auth(ctx context.Context, inst *state.Instance) ([]ssh.AuthMethod, func(), error) {
	ids, err := e.SSH.IdentitiesAt(ctx, inst.Identities, e.Getenv)
	if err != nil {
		return nil, nil, err
	}
	methods, closer, err := sshcfg.AuthMethods(ids, e.Getenv)
	if err != nil {
		return nil, nil, err
	}
	return methods, closeFunc(closer), nil
}

func closeFunc(c io.Closer) func() {
	return func() {
		if c != nil {
			_ = c.Close()
		}
	}
}

// stanza is the ssh entry of a VM.
func (e *Env) stanza(w *want, in state.Instance) sshcfg.Stanza {
	return sshcfg.Stanza{
		Alias: w.name, HostName: in.Address, User: in.User, Port: 22,
		Identities: in.Identities, KnownHosts: e.SSH.KnownHostsPath(w.name), HostKeyAlias: w.name,
	}
}

// hostKeyRefusal explains a guest that showed another host key than the one
// aivm gave it.
func (e *Env) hostKeyRefusal(vm string, err error) error {
	return ui.Refused("the machine at the address of VM %q is not that VM: %w", vm, err).
		Hint("something else answers there, or the guest replaced its host key",
			"look from the console: virsh -c qemu:///system console "+vm,
			"start afresh if you do not trust it: aivm vm delete "+vm)
}

// warnOnce says a warning once per run, however often plans are made.
func (e *Env) warnOnce(s string) {
	if e.warned == nil {
		e.warned = map[string]bool{}
	}
	if !e.warned[s] {
		e.warned[s] = true
		e.UI.Warn("%s", s)
	}
}

// noteOnce says something once per run.
func (e *Env) noteOnce(s string) {
	if e.warned == nil {
		e.warned = map[string]bool{}
	}
	if !e.warned[s] {
		e.warned[s] = true
		e.UI.Say("%s", s)
	}
}

// explainWait adds what the host knows to a wait that ended badly: the state of
// the domain, the address, the last lines of the serial console.
func (e *Env) explainWait(ctx context.Context, w *want, inst *state.Instance, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	msg := fmt.Sprintf("VM %q did not become reachable at %s", w.name, inst.Address)
	state := "unknown"
	var serial, why []string
	if l, lerr := e.libvirt(ctx); lerr == nil {
		if d, derr := l.Domain(ctx, w.name); derr == nil {
			state = string(d.State)
			if d.Crashed {
				state += ", QEMU crashed or was killed"
				why = []string{"what it said last: sudo tail -n 5 /var/log/libvirt/qemu/" + w.name + ".log"}
			}
		} else if errors.Is(derr, virt.ErrNotFound) {
			state = "gone"
		}
		serial = e.serialTail(ctx, l, w, 12)
	}
	out := ui.Failed("%s: %w (domain state: %s)", msg, err, state)
	if errors.Is(err, errUnplugged) {
		return out.Hint("aivm vm restart " + w.name)
	}
	for _, s := range serial {
		out.Hint("serial: " + s)
	}
	for _, s := range append(why, e.whyCutOff(ctx, w)...) {
		out.Hint(s)
	}
	return out.Hint("watch the console: virsh -c qemu:///system console "+w.name, "aivm vm status "+w.name, "try again: "+e.Rerun)
}
