package loop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/target"
)

// guardLine is what makes a ~/.bashrc harmless for commands: bash reads nothing after it, unless a
// person types into the shell. Ubuntu's own ~/.bashrc starts with the same.
const guardLine = `case $- in *i*) ;; *) return;; esac`

// snapshotLimit is the time limit for reading the snapshots that a hint names.
const snapshotLimit = 5 * time.Second

// ExplainStartup adds to the error of a login shell that runs no commands how to repair its start-up
// file. It returns other errors unchanged.
func (e Loop) ExplainStartup(ctx context.Context, w *target.Target, err error) error {
	var startup *guest.StartupError
	if !errors.As(err, &startup) {
		return err
	}
	out := ui.Failed("VM %s: %w", w.Name, err).Hint(
		ui.Remark("to fix it, put this line at the top of ~/.bashrc in the guest: "+guardLine),
		ui.CmdFor("to open a shell there, which works unless the file ends that too", "ssh "+w.Name))
	if s := e.latestSnapshot(ctx, w); s != "" {
		out.Hint(ui.CmdFor("to return the VM's disk to its last snapshot", "aivm vm rollback "+s+" --vm "+w.Name))
	}
	return out
}

// latestSnapshot returns the snapshot that the VM's disk is based on, or the last one of the list if that
// is not recorded; "" if there is none or they cannot be read.
func (e Loop) latestSnapshot(ctx context.Context, w *target.Target) string {
	ctx, cancel := context.WithTimeout(ctx, snapshotLimit)
	defer cancel()
	l, err := e.Libvirt(ctx)
	if err != nil {
		return ""
	}
	d, err := l.Domain(ctx, w.Name)
	if err != nil {
		return ""
	}
	f, err := domain.ObserveSnapshots(ctx, l, d, false)
	if err != nil {
		return ""
	}
	if s := f.Current(); s != "" || len(f.Snapshots) == 0 {
		return s
	}
	return f.Snapshots[len(f.Snapshots)-1].Name
}

// StartupFault describes that the guest user's ~/.bashrc prevents commands over SSH, which aivm's own
// connection skips, and returns the command that repairs the file; "" if it does not.
func StartupFault(vm string, c guest.Conn) (fault, repair string) {
	if c == nil || !guest.BypassesStartup(c) {
		return "", ""
	}
	return "the guest user's ~/.bashrc ends the shell of every command over SSH, or executes another program; aivm skips the file, editors and ssh cannot",
		fmt.Sprintf(`ssh -o SetEnv=%s=%s %s 'sed -i --follow-symlinks "1i case \$- in *i*) ;; *) return;; esac" ~/.bashrc'`, guest.BypassEnv, guest.BypassValue, vm)
}

// WarnStartup prints StartupFault as a warning, once per run.
func (e Loop) WarnStartup(w *target.Target, c guest.Conn) {
	if fault, repair := StartupFault(w.Name, c); fault != "" {
		e.WarnOnce("VM " + w.Name + ": " + fault + "; to fix it: " + repair)
	}
}
