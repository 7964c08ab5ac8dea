package machine

import (
	"context"
	"errors"
	"strings"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// AliasUser is the editor that will connect over the alias.
type AliasUser struct {
	Name string
	// ConfigFile is the ssh configuration that its settings name; "" for ssh's own.
	ConfigFile string
}

// CheckAlias checks that the alias reaches the VM: it compares the options that ssh uses with
// those that aivm wrote, and logs in with ssh if this run wrote the alias or an option
// differs. If the alias does not work, that is an error for an editor that connects over it,
// and otherwise a warning (user nil). What the user's configuration only adds is a warning,
// when the alias is written. Without an editor, only an alias that this run wrote is checked.
func (e Part) CheckAlias(ctx context.Context, w *target.Target, f *loop.Facts, user *AliasUser) error {
	if !f.AliasPlanned && user == nil {
		return nil
	}
	stop := e.Timing.Start("ssh")
	defer stop()
	l := e.SSH
	if user != nil && user.ConfigFile != "" {
		l.SSHConfigPath = user.ConfigFile
	}
	ms, err := sshcfg.Verify(ctx, l, w.Name, e.Stanza(w.Name, *f.Inst), nil)
	if err != nil {
		return err
	}
	for _, m := range ms {
		if f.AliasPlanned && !m.Elsewhere() {
			e.warnOf(w, m)
		}
	}
	fault, err := e.aliasFault(ctx, w, l, ms, f.AliasPlanned)
	switch {
	case err != nil || fault == nil:
		return err
	case user != nil:
		return ui.Failed("%s was not started, because ssh %s does not reach VM %s, which runs: %w", user.Name, w.Name, w.Name, fault).
			Hint(fault.Hints...).Hint(ui.CmdFor("to work in the VM without the alias", "aivm ssh . --vm "+w.Name))
	}
	e.UI.Warn("ssh %s does not reach the VM: %s", w.Name, fault)
	for _, h := range fault.HintLines() {
		e.UI.Warn("%s", h)
	}
	return nil
}

// aliasFault returns why the alias does not work, nil if it does: an option that would lead
// elsewhere, or the failure of a login. It logs in if prove is set or an option of ms can
// prevent a login.
func (e Part) aliasFault(ctx context.Context, w *target.Target, l sshcfg.Layout, ms []sshcfg.Mismatch, prove bool) (*ui.Error, error) {
	var differences []string
	var hints []ui.Hint
	for _, m := range ms {
		if m.Elsewhere() {
			fault := ui.Refused("%s", m)
			if m.Hint != "" {
				fault.Hint(ui.Remark(m.Hint))
			}
			return fault, nil
		}
		if !m.Added() {
			prove = true
			differences, hints = append(differences, m.String()), append(hints, ui.Remark(m.Hint))
		}
	}
	if !prove || e.LoginSSH == nil {
		return nil, nil
	}
	err := e.LoginSSH(ctx, l, w.Name)
	var fault *ui.Error
	if errors.As(err, &fault) {
		text := strings.Join(append([]string{fault.Message}, differences...), "; ")
		return ui.Failed("%s", text).Hint(hints...).Hint(fault.Hints...), nil
	}
	return nil, err
}

func (e Part) warnOf(w *target.Target, m sshcfg.Mismatch) {
	e.UI.Warn("ssh %s: %s", w.Name, m)
	if m.Hint != "" {
		e.UI.Warn("%s", m.Hint)
	}
}
