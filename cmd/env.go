package cmd

import (
	"errors"
	"os"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

func quoteWord(s string) string { return shellescape.Quote(ui.Clean(s)) }

// provision is the world of this run.
func (a *app) provision(verb string) (*provision.Env, error) {
	if a.env != nil {
		return a.env, nil
	}
	e, err := provision.New(provision.Options{
		UI: a.ui, Config: a.config, Yes: a.yes, YesSudo: a.yesSudo, DryRun: a.dryRun, Verb: verb, Rerun: a.rerun(), Hook: a.hook, Seams: a.seams, NoFirewall: a.noFirewall,
	})
	a.env = e
	return e, err
}

func (a *app) storePath() (string, error) { return provision.StorePath(a.config) }

// here is the store and the working directory, for what only looks.
func (a *app) here() (*config.Store, string, error) {
	path, err := a.storePath()
	if err != nil {
		return nil, "", err
	}
	s, err := config.Load(path)
	if err != nil {
		return nil, "", err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, "", ui.Failed("the working directory: %w", err)
	}
	return s, cwd, nil
}

// onFolder is the world and the folder of a verb that takes one.
func (a *app) onFolder(verb string, args []string) (*provision.Env, string, error) {
	folder, err := a.folder(args)
	if err != nil {
		return nil, "", err
	}
	e, err := a.provision(verb)
	return e, folder, err
}

// flags shared by several verbs.

func (a *app) dryRunFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.dryRun, "dry-run", false, "show what would be done and change nothing")
}

// guardFlags are those of verbs that use a guest.
func (a *app) guardFlags(c *cobra.Command) {
	c.Flags().BoolVar(&a.noFirewall, "no-firewall", false, "use the VM without looking at the firewall, this once")
}

func (a *app) recreateFlags(c *cobra.Command, names ...string) {
	for _, n := range names {
		c.Flags().BoolVar(&a.recreate, n, false, "")
		_ = c.Flags().MarkHidden(n)
	}
}

// errEmptyName: an empty name is a variable that was not set, never a wish for
// the default.
var errEmptyName = errors.New("the VM's name is empty")

// vmName is the value of --vm.
type vmName struct{ to *string }

func (v vmName) String() string {
	if v.to == nil {
		return ""
	}
	return *v.to
}

func (vmName) Type() string { return "string" }

func (v vmName) Set(s string) error {
	if s == "" {
		return errEmptyName
	}
	*v.to = s
	return nil
}

func (a *app) vmFlag(c *cobra.Command, to *string, usage string) {
	c.Flags().Var(vmName{to}, "vm", usage)
	_ = c.RegisterFlagCompletionFunc("vm", a.completeVM)
}

func (a *app) folderFlags(c *cobra.Command, o *provision.FolderOptions) {
	f := c.Flags()
	a.vmFlag(c, &o.VM, "the VM to use, this time")
	f.StringVar(&o.Mode, "mode", "", "how the folder gets into the VM: shared-root (default), shared, git")
	f.StringVar(&o.Access, "access", "", "rw (default) or ro")
	f.StringVar(&o.GuestDst, "guest-dst", "", "where the folder appears in the guest (default: the same path)")
	f.StringArrayVar(&o.AllowSensitive, "allow-sensitive", nil, "share this `PATH` although it holds keys, acts on this machine at once or belongs to the system")
	f.BoolVar(&o.Protect, "protect", false, "let the VM only read what this machine's tools run of the folder: git hooks, editor tasks, Makefiles ...")
	f.StringVar(&a.hostSrc, "host-src", "", "the folder")
	_ = f.MarkHidden("host-src")
	_ = c.RegisterFlagCompletionFunc("mode", fixed("shared-root", "shared", "git"))
	_ = c.RegisterFlagCompletionFunc("access", fixed("rw", "ro"))
	a.guardFlags(c)
	a.dryRunFlag(c)
}

// folder is the folder argument of a verb: the argument, 0.3's --host_src, or
// the working directory.
func (a *app) folder(args []string) (string, error) {
	switch {
	case len(args) == 1 && args[0] == "":
		return "", ui.Usage("the folder's name is empty").Hint("for the folder here: .")
	case len(args) > 1:
		return "", ui.Usage("one folder at a time, not %d", len(args))
	case len(args) == 1 && a.hostSrc != "":
		return "", ui.Usage("the folder is given twice: %s and --host-src %s", quoteWord(args[0]), quoteWord(a.hostSrc))
	case len(args) == 1:
		return args[0], nil
	case a.hostSrc != "":
		return a.hostSrc, nil
	}
	return ".", nil
}

func fixed(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeVM offers the VMs of the store.
func (a *app) completeVM(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	path, err := a.storePath()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := config.Load(path)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return s.Config.VMNames(), cobra.ShellCompDirectiveNoFileComp
}

func completeFolder(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
