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

// A manager describes a package manager other than apt: its commands and exit statuses.
// These print lines as progress; apt reports percentages and has repairs of its own
// (packages.go).
type manager struct {
	missing func(ctx context.Context, names []string) ([]string, error)
	install []string // the install command, without the names
	env     []string
	okExits []int   // further exit statuses that mean success
	lock    string  // a file that exists while another one runs; "" if the program waits itself
	hint    ui.Hint // the most frequent remedy for a failure
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
		// zypper(8): reboot needed, restart of zypper needed, a repository was skipped.
		okExits: []int{102, 103, 106},
		hint:    ui.Cmd("sudo zypper refresh"),
	},
	"pacman": {
		missing: pacmanMissing,
		install: record.InstallArgv("pacman"),
		lock:    "/var/lib/pacman/db.lck",
		hint:    ui.CmdFor("update the system first", "sudo pacman -Syu"),
	},
}

// InstallWith installs the missing ones of the packages with a manager other than apt.
func InstallWith(ctx context.Context, o record.Packages, progress record.Progress) error {
	m := otherManagers[o.Manager]
	if _, err := program.Find(m.install[0]); err != nil {
		return ui.Refused("package manager %s is not installed on this machine", m.install[0]).
			Hint(ui.Remark("install these packages yourself: " + strings.Join(o.Names, " ")))
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
	if errors.As(err, &exit) && slices.Contains(m.okExits, exit.ExitCode()) {
		return nil
	}
	var e *ui.Error
	if errors.As(err, &e) {
		e.Hint(m.hint)
	}
	return err
}

// Wait waits until the lock file of another running manager is gone. A killed manager
// leaves the file, and only a person can tell the difference.
func (m manager) Wait(ctx context.Context, progress record.Progress, limit time.Duration) error {
	start := time.Now()
	for m.lock != "" {
		if _, err := os.Stat(m.lock); err != nil {
			return nil
		}
		if time.Since(start) > limit {
			return ui.Failed("another package manager is running: its lock file %s has existed for %v", m.lock, limit).
				Hint(ui.CmdFor("if none is running, remove the lock file of a killed one", "sudo rm "+m.lock))
		}
		progress("waiting for another package manager (lock file "+m.lock+")", -1)
		if err := pause.For(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// eachMissing returns a function that runs a query program for each name and returns the
// names for which it fails, since they are not installed.
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

// pacmanMissing returns the names that no installed package provides: "pacman -T" prints
// them and exits with 127.
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
