package cli

import (
	"context"
	"errors"
	"os"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// QuoteWord quotes s for a shell, after removing control characters.
func QuoteWord(s string) string { return shellescape.Quote(ui.Clean(s)) }

// Provision returns the provision.Env of this run and builds it on the first call. verb
// names the command in messages.
func (a *App) Provision(verb string) (*provision.Env, error) {
	if a.env != nil {
		return a.env, nil
	}
	e, err := provision.New(provision.Options{
		UI: a.UI, Config: a.Config, Yes: a.Yes, YesSudo: a.YesSudo, DryRun: a.DryRun, Verb: verb, Rerun: a.Rerun(), Hook: a.Hook, Seams: a.Seams, NoFirewall: a.noFirewall,
	})
	a.env = e
	return e, err
}

// StorePath returns the path of this run's config.
func (a *App) StorePath() (string, error) { return provision.StorePath(a.Config) }

// Here loads the config and returns it with the working directory, for commands that
// need no provision.Env.
func (a *App) Here() (*config.Store, string, error) {
	path, err := a.StorePath()
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

// OnFolder returns the provision.Env and the folder argument of a command that takes one.
func (a *App) OnFolder(verb string, args []string) (*provision.Env, string, error) {
	folder, err := a.folder(args)
	if err != nil {
		return nil, "", err
	}
	e, err := a.Provision(verb)
	return e, folder, err
}

// DryRunFlag declares --dry-run.
func (a *App) DryRunFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.DryRun, "dry-run", false, "show what would be done, change nothing")
}

// GuardFlags declares --no-firewall, for commands that connect to a guest.
func (a *App) GuardFlags(c *cobra.Command) {
	c.Flags().BoolVar(&a.noFirewall, "no-firewall", false, "do not check or load the VM's firewall rules in this run")
}

// RecreateFlags declares aivm 0.3's flags that replaced a VM, hidden; the root command
// refuses them.
func (a *App) RecreateFlags(c *cobra.Command, names ...string) {
	for _, n := range names {
		c.Flags().BoolVar(&a.Recreate, n, false, "")
		_ = c.Flags().MarkHidden(n)
	}
}

// errEmptyName is the error for --vm "": the name probably comes from an unset shell
// variable, so it does not select the default VM.
var errEmptyName = errors.New("the VM's name is empty")

// vmName implements pflag.Value for --vm.
type vmName struct{ to *string }

// String implements pflag.Value.
func (v vmName) String() string {
	if v.to == nil {
		return ""
	}
	return *v.to
}

// Type implements pflag.Value.
func (vmName) Type() string { return "string" }

// Set implements pflag.Value.
func (v vmName) Set(s string) error {
	if s == "" {
		return errEmptyName
	}
	*v.to = s
	return nil
}

// VMUsage is the description of --vm.
const VMUsage = "VM to use (default: that of the current directory, else the active VM)"

// VMFlag declares --vm.
func (a *App) VMFlag(c *cobra.Command, to *string, usage string) {
	c.Flags().Var(vmName{to}, "vm", usage)
	_ = c.RegisterFlagCompletionFunc("vm", a.completeVM)
}

// FolderFlags declares the flags that code, ssh and attach have in common.
func (a *App) FolderFlags(c *cobra.Command, o *provision.FolderOptions) {
	f := c.Flags()
	a.VMFlag(c, &o.VM, "VM to use in this run (default: that of the folder, else the active VM)")
	f.StringVar(&o.Mode, "mode", "", "how the VM gets the folder: shared-root (default; virtiofs), shared (virtiofs, with a device of its own), git (a clone in the VM)")
	f.StringVar(&o.Access, "access", "", "rw (default): the VM may write the folder; ro: it may only read")
	f.StringVar(&o.GuestDst, "guest-dst", "", "path of the folder in the guest (default: same as on this machine)")
	f.StringArrayVar(&o.AllowSensitive, "allow-sensitive", nil, "share this `PATH` although it holds keys, holds files this machine runs by itself (~/.bashrc, autostart), or is a system directory")
	f.BoolVar(&o.Protect, "protect", false, "make host-executed files in the folder read-only for the VM: git hooks, editor tasks, Makefiles ...")
	f.StringVar(&a.HostSrc, "host-src", "", "the folder")
	_ = f.MarkHidden("host-src")
	_ = c.RegisterFlagCompletionFunc("mode", Fixed("shared-root", "shared", "git"))
	_ = c.RegisterFlagCompletionFunc("access", Fixed("rw", "ro"))
	a.GuardFlags(c)
	a.DryRunFlag(c)
}

// folder returns the folder a command works on: its argument, the value of aivm 0.3's
// --host_src, or the working directory.
func (a *App) folder(args []string) (string, error) {
	switch {
	case len(args) == 1 && args[0] == "":
		return "", ui.Usage("the folder argument is empty").Hint(ui.Remark("for the current directory write: ."))
	case len(args) > 1:
		return "", ui.Usage("%d folders are given: one at a time", len(args))
	case len(args) == 1 && a.HostSrc != "":
		return "", ui.Usage("the folder is given twice: %s and --host-src %s", QuoteWord(args[0]), QuoteWord(a.HostSrc))
	case len(args) == 1:
		return args[0], nil
	case a.HostSrc != "":
		return a.HostSrc, nil
	}
	return ".", nil
}

// Fixed returns a completion function that offers words.
func Fixed(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeVM offers the names of the VMs in the config.
func (a *App) completeVM(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, (*config.Config).VMNames)
}

// CompleteFolder offers directories.
func CompleteFolder(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// CompleteNetwork offers the names of the networks in the config.
func (a *App) CompleteNetwork(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, func(c *config.Config) (names []string) {
		for _, n := range c.Networks {
			names = append(names, n.Name)
		}
		return names
	})
}

// completeFromStore offers names from the config, for the first argument only.
func (a *App) completeFromStore(args []string, names func(*config.Config) []string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	path, err := a.StorePath()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := config.Load(path)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names(&s.Config), cobra.ShellCompDirectiveNoFileComp
}

// ImageUsage is the description of --image.
const ImageUsage = "guest image: auto, a name from aivm image list, an https URL with #sha256=HEX, or a file"

// ImageFlag declares --image.
func (a *App) ImageFlag(c *cobra.Command, to *string, usage string) {
	c.Flags().StringVar(to, "image", "", usage)
	_ = c.RegisterFlagCompletionFunc("image", a.CompleteImage)
}

// CompleteImage offers the images of the catalogue, those prepared on this host, and
// files.
func (a *App) CompleteImage(c *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(toComplete, "/~") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	e, err := a.Provision("complete")
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return e.ImageWords(), cobra.ShellCompDirectiveDefault
}

// Prefixed returns prefix+s, or "" if s is empty.
func Prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// ExtensionsUsage is the description of --extensions.
const ExtensionsUsage = "editor extensions to install in the guest: IDs (comma-separated), workspace (those installed here), or none"

// SecretFlag declares --allow-secret.
func SecretFlag(c *cobra.Command, to *[]string) {
	c.Flags().StringArrayVar(to, "allow-secret", nil, "send this `FILE` although it seems to contain a secret")
}

// SSHName is the name of "aivm ssh". All its errors, usage errors too, exit with 255,
// as those of OpenSSH do.
const SSHName = "ssh"

// VMVerb builds a command about one VM, whose name is the argument or --vm.
func (a *App) VMVerb(use, short, long string, run func(context.Context, *provision.Env, string) error) *cobra.Command {
	var flag string
	c := &cobra.Command{
		Use: use + " [name]", Short: short, Long: long + ExitStatuses, ValidArgsFunction: a.completeVM,
		RunE: func(c *cobra.Command, args []string) error {
			name, err := oneName(args, flag)
			if err != nil {
				return err
			}
			e, err := a.Provision(use)
			if err != nil {
				return err
			}
			return run(c.Context(), e, name)
		},
	}
	a.VMFlag(c, &flag, VMUsage)
	return c
}

// oneName returns the VM name from the argument or --vm; "" if neither is given.
func oneName(args []string, flag string) (string, error) {
	switch {
	case len(args) == 1 && args[0] == "":
		return "", ui.Usage("%w", errEmptyName).Hint(ui.Cmd("aivm list"))
	case len(args) > 1:
		return "", ui.Usage("%d VMs are given: one at a time", len(args))
	case len(args) == 1 && flag != "" && flag != args[0]:
		return "", ui.Usage("two VMs are named: %s and --vm %s", QuoteWord(args[0]), QuoteWord(flag))
	case len(args) == 1:
		return args[0], nil
	}
	return flag, nil
}

// CompleteAttached offers the attached folders in the config.
func (a *App) CompleteAttached(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, func(c *config.Config) (folders []string) {
		for _, r := range c.Attachments {
			folders = append(folders, r.HostPath)
		}
		return folders
	})
}
