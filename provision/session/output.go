package session

import (
	"context"
	"errors"
	"io"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/sshcfg"
)

// Auth returns the login methods for the identities that a VM was created with, and a function
// that closes the connection to the ssh agent.
func (e *Session) Auth(ctx context.Context, inst *state.Instance) ([]ssh.AuthMethod, func(), error) {
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

// Stanza returns the ssh entry of a VM.
func (e *Session) Stanza(vm string, inst state.Instance) sshcfg.Stanza {
	return sshcfg.Stanza{
		Alias: vm, HostName: inst.Address, User: inst.User, Port: 22,
		Identities: inst.Identities, KnownHosts: e.SSH.KnownHostsPath(vm), HostKeyAlias: vm,
	}
}

// HostKeyRefusal returns the error for a guest that showed another host key than the pinned one.
func (e *Session) HostKeyRefusal(vm string, err error) error {
	return ui.Refused("the machine at the address of VM %q is not that VM: %w", vm, err).
		Hint(ui.Remark("another machine answers there, or the guest replaced its host key"),
			ui.CmdFor("check on the console", e.Virsh("console ")+vm),
			ui.CmdFor("delete the VM if you do not trust it", "aivm vm delete "+vm))
}

// WarnOnce prints a warning once per run, however often plans are made.
func (e *Session) WarnOnce(s string) { e.printOnce(plan.Note{Text: s, Warn: true}) }

// NoteOnce prints a note once per run.
func (e *Session) NoteOnce(s string) { e.printOnce(plan.Note{Text: s}) }

// PrintNotes prints a plan's notes, each once per run.
func (e *Session) PrintNotes(p plan.Plan) {
	for _, n := range p.Notes {
		e.printOnce(n)
	}
}

func (e *Session) printOnce(n plan.Note) {
	if e.Printed == nil {
		e.Printed = map[string]bool{}
	}
	if e.Printed[n.Text] {
		return
	}
	e.Printed[n.Text] = true
	if n.Warn {
		e.UI.Warn("%s", n.Text)
	} else {
		e.UI.Say("%s", n.Text)
	}
	if n.OnPrint != nil {
		n.OnPrint()
	}
}

// Few joins the first five names and the number of the others, for a sentence; six names are
// all written, since the sixth needs no more room than "1 more".
func Few(names []string) string {
	if len(names) == 6 {
		return ui.Some(names, 6)
	}
	return ui.Some(names, 5)
}

// ShellLine quotes argv as a command line that can be pasted into a shell.
func ShellLine(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = shellescape.Quote(a)
	}
	return strings.Join(words, " ")
}

// Seconds returns a timing's buckets in seconds.
func Seconds(t *ui.Timing) map[string]float64 {
	out := map[string]float64{}
	for k, d := range t.Spent() {
		out[k] = float64(d.Milliseconds()) / 1000
	}
	return out
}

// HintsOf returns the commands in an error's hints.
func HintsOf(err error) []string {
	var ue *ui.Error
	if !errors.As(err, &ue) {
		return nil
	}
	var out []string
	for _, h := range ue.Hints {
		if h.Command != "" {
			out = append(out, h.Command)
		}
	}
	return out
}

// UnwrapSingle returns the only error of an errors.Join, so that it is printed with its hints;
// any other error is returned unchanged.
func UnwrapSingle(err error) error {
	if l, ok := err.(interface{ Unwrap() []error }); ok && len(l.Unwrap()) == 1 {
		return l.Unwrap()[0]
	}
	return err
}
