package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	if a.noEffect {
		a.UI.Warn("--force has no effect here, as in aivm 0.3: what is refused stays refused")
	}
	e, err := a.Provision(verb)
	return e, folder, err
}

// DryRunFlag declares --dry-run.
func (a *App) DryRunFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.DryRun, "dry-run", false, "show what would be done, change nothing")
}

// GuardFlags declares --no-firewall, for commands that connect to a guest, and its opposite, aivm
// 0.3's --ensure_firewall, hidden.
func (a *App) GuardFlags(c *cobra.Command) {
	c.Flags().BoolVar(&a.noFirewall, "no-firewall", false, "do not check or load the VM's firewall rules in this run")
	c.Flags().AddFlag(&pflag.Flag{Name: "ensure-firewall", Value: ensured{&a.noFirewall}, NoOptDefVal: "true", Hidden: true})
}

// ensured implements pflag.Value for --ensure-firewall, with the values that 0.3 accepted.
type ensured struct{ skip *bool }

// String implements pflag.Value.
func (v ensured) String() string { return strconv.FormatBool(v.skip == nil || !*v.skip) }

// Type implements pflag.Value.
func (ensured) Type() string { return "bool" }

// Set implements pflag.Value.
func (v ensured) Set(s string) error {
	switch strings.ToLower(s) {
	case "1", "true", "yes", "on", "y", "t":
		*v.skip = false
	case "0", "false", "no", "off", "n", "f":
		*v.skip = true
	default:
		return fmt.Errorf("%q is neither true nor false", s)
	}
	return nil
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
	f.BoolVar(&a.noEffect, "force", false, "without effect, as in aivm 0.3")
	_ = f.MarkHidden("force")
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

// ImageUsage is the description of --image.
const ImageUsage = "guest image: auto, a name from aivm image list, an https URL with #sha256=HEX, or a file"

// ImageFlag declares --image.
func (a *App) ImageFlag(c *cobra.Command, to *string, usage string) {
	c.Flags().StringVar(to, "image", "", usage)
	_ = c.RegisterFlagCompletionFunc("image", a.CompleteImage)
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
