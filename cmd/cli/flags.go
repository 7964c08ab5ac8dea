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

// QuoteWord is a word as it is pasted into a shell, clean.
func QuoteWord(s string) string { return shellescape.Quote(ui.Clean(s)) }

// Provision is the world of this run.
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

// StorePath is where the config of this run is.
func (a *App) StorePath() (string, error) { return provision.StorePath(a.Config) }

// Here is the store and the working directory, for what only looks.
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

// OnFolder is the world and the folder of a verb that takes one.
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
	c.Flags().BoolVar(&a.DryRun, "dry-run", false, "show what would be done and change nothing")
}

// GuardFlags are those of verbs that use a guest.
func (a *App) GuardFlags(c *cobra.Command) {
	c.Flags().BoolVar(&a.noFirewall, "no-firewall", false, "use the VM without looking at the firewall, this once")
}

// RecreateFlags declares 0.3's flags that replaced a VM, which are refused.
func (a *App) RecreateFlags(c *cobra.Command, names ...string) {
	for _, n := range names {
		c.Flags().BoolVar(&a.Recreate, n, false, "")
		_ = c.Flags().MarkHidden(n)
	}
}

// errEmptyName: an empty name is a variable that was not set, never a wish for
// the default.
var errEmptyName = errors.New("the VM's name is empty")

// vmName is the value of --vm.
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

// VMFlag declares --vm.
func (a *App) VMFlag(c *cobra.Command, to *string, usage string) {
	c.Flags().Var(vmName{to}, "vm", usage)
	_ = c.RegisterFlagCompletionFunc("vm", a.completeVM)
}

// FolderFlags declares what code, ssh and attach have in common.
func (a *App) FolderFlags(c *cobra.Command, o *provision.FolderOptions) {
	f := c.Flags()
	a.VMFlag(c, &o.VM, "the VM to use, this time")
	f.StringVar(&o.Mode, "mode", "", "how the folder gets into the VM: shared-root (default), shared, git")
	f.StringVar(&o.Access, "access", "", "rw (default) or ro")
	f.StringVar(&o.GuestDst, "guest-dst", "", "where the folder appears in the guest (default: the same path)")
	f.StringArrayVar(&o.AllowSensitive, "allow-sensitive", nil, "share this `PATH` although it holds keys, acts on this machine at once or belongs to the system")
	f.BoolVar(&o.Protect, "protect", false, "let the VM only read what this machine's tools run of the folder: git hooks, editor tasks, Makefiles ...")
	f.StringVar(&a.HostSrc, "host-src", "", "the folder")
	_ = f.MarkHidden("host-src")
	_ = c.RegisterFlagCompletionFunc("mode", Fixed("shared-root", "shared", "git"))
	_ = c.RegisterFlagCompletionFunc("access", Fixed("rw", "ro"))
	a.GuardFlags(c)
	a.DryRunFlag(c)
}

// folder is the folder argument of a verb: the argument, 0.3's --host_src, or
// the working directory.
func (a *App) folder(args []string) (string, error) {
	switch {
	case len(args) == 1 && args[0] == "":
		return "", ui.Usage("the folder's name is empty").Hint(ui.Remark("for the folder here: ."))
	case len(args) > 1:
		return "", ui.Usage("one folder at a time, not %d", len(args))
	case len(args) == 1 && a.HostSrc != "":
		return "", ui.Usage("the folder is given twice: %s and --host-src %s", QuoteWord(args[0]), QuoteWord(a.HostSrc))
	case len(args) == 1:
		return args[0], nil
	case a.HostSrc != "":
		return a.HostSrc, nil
	}
	return ".", nil
}

// Fixed completes one of the words.
func Fixed(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeVM offers the VMs of the store.
func (a *App) completeVM(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, (*config.Config).VMNames)
}

// CompleteFolder completes directories.
func CompleteFolder(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// CompleteNetwork offers the networks of the store.
func (a *App) CompleteNetwork(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, func(c *config.Config) (names []string) {
		for _, n := range c.Networks {
			names = append(names, n.Name)
		}
		return names
	})
}

// completeFromStore offers names of the store as the first argument.
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

// ImageUsage is the help of every --image.
const ImageUsage = "the guest image: auto, a name of aivm image list, an https address with #sha256=HEX, or a file"

// ImageFlag is --image of a verb that may make a VM.
func (a *App) ImageFlag(c *cobra.Command, to *string, usage string) {
	c.Flags().StringVar(to, "image", "", usage)
	_ = c.RegisterFlagCompletionFunc("image", a.CompleteImage)
}

// CompleteImage offers the catalogue, what was made here, and files.
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

// Prefixed is s after with; "" if s is "".
func Prefixed(with, s string) string {
	if s == "" {
		return ""
	}
	return with + s
}

// SecretFlag declares --allow-secret.
func SecretFlag(c *cobra.Command, to *[]string) {
	c.Flags().StringArrayVar(to, "allow-secret", nil, "send this `FILE` although it holds something like a secret")
}

// SSHName is the verb whose failures have OpenSSH's status, its flags' too.
const SSHName = "ssh"

// VMVerb declares a verb about one VM: its name as the argument or as --vm.
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
	a.VMFlag(c, &flag, "the VM")
	return c
}

func oneName(args []string, flag string) (string, error) {
	switch {
	case len(args) == 1 && args[0] == "":
		return "", ui.Usage("%w", errEmptyName).Hint(ui.Cmd("aivm list"))
	case len(args) > 1:
		return "", ui.Usage("one VM at a time, not %d", len(args))
	case len(args) == 1 && flag != "" && flag != args[0]:
		return "", ui.Usage("two VMs are named: %s and --vm %s", QuoteWord(args[0]), QuoteWord(flag))
	case len(args) == 1:
		return args[0], nil
	}
	return flag, nil
}

// CompleteAttached offers the folders of the store.
func (a *App) CompleteAttached(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, func(c *config.Config) (folders []string) {
		for _, r := range c.Attachments {
			folders = append(folders, r.HostPath)
		}
		return folders
	})
}
