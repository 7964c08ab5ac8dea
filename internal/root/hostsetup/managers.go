package hostsetup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// A manager is how a package manager other than apt is driven: apt tells how
// far it is and is taught to mend itself (packages.go), these print lines.
type manager struct {
	missing func(ctx context.Context, names []string) ([]string, error)
	install []string // and the names
	env     []string
	fine    []int   // exit statuses that say that it worked, but
	lock    string  // a file that is there while another one works, where the program does not wait itself
	hint    ui.Hint // what helps most often when it fails
}

var rpmMissing = eachMissing("rpm", "-q", "--whatprovides", "--")

var otherManagers = map[string]manager{
	"dnf": {
		missing: rpmMissing,
		install: record.InstallArgv("dnf"),
		hint:    ui.Cmd("sudo dnf makecache"),
	},
	"zypper": {
		missing: rpmMissing,
		install: record.InstallArgv("zypper"),
		env:     []string{"ZYPP_LOCK_TIMEOUT=600"},
		// zypper(8): reboot needed, restart of itself needed, a repository was skipped.
		fine: []int{102, 103, 106},
		hint: ui.Cmd("sudo zypper refresh"),
	},
	"pacman": {
		missing: pacmanMissing,
		install: record.InstallArgv("pacman"),
		lock:    "/var/lib/pacman/db.lck",
		hint:    ui.CmdFor("bring the whole system up to date first", "sudo pacman -Syu"),
	},
}

// InstallWith brings the packages that are missing here with a manager that is
// not apt.
func InstallWith(ctx context.Context, o record.Packages, progress record.Progress) error {
	m := otherManagers[o.Manager]
	if _, err := program.Look(m.install[0]); err != nil {
		return ui.Refused("this machine has no %s to install packages with", m.install[0]).
			Hint(ui.CmdFor("install them by hand", strings.Join(o.Names, " ")))
	}
	names, err := m.missing(ctx, o.Names)
	if err != nil || len(names) == 0 {
		return err
	}
	if err := m.Wait(ctx, progress, lockWait); err != nil {
		return err
	}
	line := func(l string) {
		if l = strings.TrimSpace(ui.Clean(l)); l != "" {
			progress(l, -1)
		}
	}
	_, err = program.Command{Argv: slices.Concat(m.install, names), Env: m.env, Line: line}.Run(ctx)
	var exit *exec.ExitError
	if errors.As(err, &exit) && slices.Contains(m.fine, exit.ExitCode()) {
		return nil
	}
	var e *ui.Error
	if errors.As(err, &e) {
		e.Hint(m.hint)
	}
	return err
}

// Wait waits for the file that is there while another manager works; a manager
// that was killed leaves it behind, and nobody but a person can tell.
func (m manager) Wait(ctx context.Context, progress record.Progress, limit time.Duration) error {
	start := time.Now()
	for m.lock != "" {
		if _, err := os.Stat(m.lock); err != nil {
			return nil
		}
		if time.Since(start) > limit {
			return ui.Failed("another package manager is at work: %s has been there for %v", m.lock, limit).
				Hint(ui.CmdFor("if none is, one was killed", "sudo rm "+m.lock))
		}
		progress("waiting for another package manager ("+m.lock+")", -1)
		if err := pause.For(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// eachMissing asks a program about one name at a time: it fails for those that
// are not installed.
func eachMissing(argv ...string) func(context.Context, []string) ([]string, error) {
	return func(ctx context.Context, names []string) ([]string, error) {
		var out []string
		for _, n := range names {
			if _, err := (program.Command{Argv: append(slices.Clone(argv), n)}).Run(ctx); err != nil {
				out = append(out, n)
			}
		}
		return out, ctx.Err()
	}
}

// pacmanMissing: "pacman -T" prints those that nothing installed provides, and
// then fails with 127.
func pacmanMissing(ctx context.Context, names []string) ([]string, error) {
	var out []string
	_, err := program.Command{
		Argv: append([]string{"pacman", "-T", "--"}, names...),
		Line: func(l string) { out = append(out, strings.TrimSpace(l)) },
	}.Run(ctx)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 127 {
		err = nil
	}
	return slices.DeleteFunc(out, func(n string) bool { return !slices.Contains(names, n) }), err
}
