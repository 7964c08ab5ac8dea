package provision

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/oneshot"
	"aivm.dev/aivm/provision/oneshot/terminal"
	"aivm.dev/aivm/provision/runs"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// RunRecord is a run that is alive.
type RunRecord = runs.Record

// RunOptions are the flags of `run`.
type RunOptions struct {
	oneshot.Options
	Given func(flag string) bool // whether a flag was given; else the config decides
}

// RunExecOptions are the flags of `runs exec`.
type RunExecOptions struct {
	Argv       []string
	Env        []string
	Root       bool
	TTY, NoTTY bool
}

// RunCommand runs a command in a fresh VM and returns its exit status. Every error is aivm's own.
func (e *Env) RunCommand(ctx context.Context, o RunOptions) (int, error) {
	if e.UID == 0 {
		return 0, ui.Refused("aivm run does not work as root: QEMU and the server of the folders would run as root").
			Hint(ui.Remark("run it as an ordinary user"))
	}
	cwd, err := os.Getwd()
	if err != nil {
		return 0, ui.Refused("the folder of the run: %w", err)
	}
	if err := e.runDefaults(&o, cwd); err != nil {
		return 0, err
	}
	registry := e.registry()
	r := oneshot.Runner{
		UI: e.UI, In: e.Stdin, Out: e.Stdout, Err: e.Stderr, InTTY: e.InTTY, OutTTY: e.OutTTY,
		Host: os.Environ(), Cwd: cwd, UID: e.UID, GID: e.GID,
		Refuse: e.refuseForRun, Boot: e.runBoot, Children: oneshot.OwnChildren,
		Register: func(d oneshot.Described) (oneshot.Entry, error) {
			g, err := registry.Register(runs.Record{Name: d.Name, Folder: d.Folder, Template: d.Template, Argv: d.Argv, Net: d.Net, Started: d.Started})
			if err != nil {
				return nil, err
			}
			return &runEntry{g, nil}, nil
		},
	}
	return r.Run(ctx, o.Options)
}

// runDefaults fills in what no flag gave, from the config.
func (e *Env) runDefaults(o *RunOptions, cwd string) error {
	if e.Store == nil { // it could not be read
		st, err := config.Load(e.StorePath)
		if err != nil {
			return err
		}
		e.Store = st
	}
	c, wants := e.Store.Config.Run, e.ProjectWants(cwd)
	for _, r := range wants.Remarks() {
		e.WarnOnce(r)
	}
	given := func(flag string) bool { return o.Given != nil && o.Given(flag) }
	if !given("template") && c.Template != "" {
		o.Template = c.Template
	}
	if !given("memory") {
		o.MemoryMiB = cmp.Or(c.MemoryMB, wants.MemoryMB)
	}
	if !given("cpus") {
		o.CPUs = cmp.Or(c.CPUs, wants.CPUs)
	}
	if !given("workspace") && c.Workspace != "" {
		o.Workspace = c.Workspace
	}
	if !given("timeout") {
		o.Timeout = c.TimeLimit()
	}
	if command := packagesHint(wants, &e.Store.Config, o.Template); command != "" {
		e.UI.Say("the project asks for packages that template %s does not have: %s", o.Template, command)
	}
	return nil
}

// runBoot finds the template of a run.
func (e *Env) runBoot(ctx context.Context, o oneshot.Options) (oneshot.Boot, error) {
	var debug io.Writer
	if o.Debug {
		debug = e.Stderr
	}
	b, note, err := oneshot.Find(ctx, filepath.Join(filepath.Dir(e.Cache.Dir), "templates"), o, debug)
	if err != nil {
		return nil, err
	}
	if note != "" {
		e.UI.Say("%s", note)
	}
	return b, nil
}

// registry returns the registry of this user's runs.
func (e *Env) registry() runs.Registry {
	return runs.At(e.Getenv("XDG_RUNTIME_DIR"), e.SSH.StateDir, e.UID)
}

// refuseForRun refuses what attach refuses. A VM that no network can reach may have keys that are named
// by --allow-sensitive, as attach has it.
func (e *Env) refuseForRun(host string, writable bool, allow []string) error {
	if err := share.Refuse(host, e.Home, e.OwnDirs(), allow); err != nil {
		return err
	}
	found, err := share.RefuseLeads(host, e.Person(), writable, allow)
	if err == nil && found.Cut != "" {
		e.WarnOnce(target.SearchCutShort(host, found))
	}
	return err
}

// runEntry is the record of this process's run.
type runEntry struct {
	*runs.Registered
	stop func()
}

// ID returns the run's ID.
func (g *runEntry) ID() string { return g.Record.ID }

// Serve answers other processes of the user about the run.
func (g *runEntry) Serve(ctx context.Context, vm *oneshot.VM) (err error) {
	g.stop, err = g.Registered.Serve(ctx, answering{vm})
	return err
}

// Close removes the record.
func (g *runEntry) Close() {
	if g.stop != nil {
		g.stop()
	}
	g.Registered.Close()
}

// answering is the VM of a run as the registry's server uses it.
type answering struct{ *oneshot.VM }

// Start starts a command in the VM.
func (a answering) Start(ctx context.Context, c guestd.Command) (runs.Process, error) {
	return a.VM.Start(ctx, c)
}

// Runs returns the runs that are alive, and removes what is left of others.
func (e *Env) Runs() ([]RunRecord, error) { return e.registry().List() }

// RunExec runs a command in the VM of a run and returns its exit status.
func (e *Env) RunExec(name string, o RunExecOptions) (int, error) {
	if err := (oneshot.Options{Workspace: oneshot.WorkspaceNone, Net: oneshot.NetNone, Env: o.Env, Argv: o.Argv, TTY: o.TTY, NoTTY: o.NoTTY}).Check(); err != nil {
		return 0, err
	}
	registry := e.registry()
	rec, err := registry.Find(name)
	if err != nil {
		return 0, err
	}
	env, missing := oneshot.Environment(o.Env)
	for _, m := range missing {
		e.UI.Warn("not set here, so not in the guest either: %s", ui.Clean(m))
	}
	cmd := runs.Command{Argv: o.Argv, Env: env, Root: o.Root}
	var t *terminal.Terminal
	if f, ok := e.Stdin.(*os.File); ok && oneshot.WantsTerminal(len(o.Argv) > 0, e.InTTY, e.OutTTY, o.TTY, o.NoTTY) {
		if t = terminal.Of(f); t != nil {
			cmd.TTY, cmd.Size = true, t.Size()
		}
	}
	signals, unsubscribe := terminal.Notify()
	defer unsubscribe()
	p, err := registry.Exec(rec, cmd, runs.Streams{In: e.Stdin, Out: e.Stdout, Err: e.Stderr})
	if err != nil {
		return 0, err
	}
	result, err := terminal.Attach(p, terminal.Options{Terminal: t, Signals: signals})
	if err != nil {
		return 0, err
	}
	return result.Code(), nil
}

// RunStop ends runs, each of which is named by its name or ID.
func (e *Env) RunStop(names []string) error {
	registry := e.registry()
	var errs []error
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		rec, err := registry.Find(n)
		if err == nil {
			err = registry.Stop(rec)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e.UI.Say("run %s ended", rec.Name)
	}
	return errors.Join(errs...)
}
