package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/cmd/config"
	"aivm.dev/aivm/cmd/folder"
	"aivm.dev/aivm/cmd/git"
	"aivm.dev/aivm/cmd/host"
	"aivm.dev/aivm/cmd/image"
	"aivm.dev/aivm/cmd/look"
	"aivm.dev/aivm/cmd/vm"
	store "aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Main runs aivm with these arguments and returns its exit status. hook, nil
// in the shipped program, is called at every fault point.
func Main(args []string, hook func(point string)) int {
	return Run(args, World{UI: ui.Std(), Hook: hook})
}

// World is what a run is given from outside.
type World struct {
	UI    *ui.Streams
	Hook  func(point string)
	Seams *provision.Seams // nil: this machine
}

// Run is Main in a world of the caller's.
func Run(args []string, w World) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the second one kills, as everywhere.
	context.AfterFunc(ctx, stop)
	defer stop()
	a := app{&cli.App{UI: w.UI, Args: args, Hook: w.Hook, Seams: w.Seams}}
	defer a.Close()
	c := a.root()
	c.SetArgs(args)
	ctx = store.OnWait(ctx, func(holder string) { a.UI.Say("waiting for %s, which writes the config ...", holder) })
	ran, err := c.ExecuteContextC(ctx)
	var dry *provision.DryRun
	if errors.As(err, &dry) {
		err = a.PrintDry(dry)
	}
	if err == nil {
		return ui.ExitOK
	}
	if ui.IsStatus(err) {
		return ui.ExitCode(err)
	}
	if ctx.Err() != nil && !errors.Is(err, context.Canceled) && ui.ExitCode(err) == ui.ExitRefused {
		err = fmt.Errorf("%w: %w", err, context.Canceled)
	}
	if ran.Name() == cli.SSHName {
		err = ui.OwnOverSSH(err)
	}
	a.UI.PrintError(err)
	return ui.ExitCode(err)
}

func (a app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "aivm",
		Short: "Give a folder its own VM, so that a coding agent can do anything inside and nothing outside",
		Long: `aivm gives a folder its own VM (libvirt, KVM, cloud-init), an SSH alias, the
folder itself, and opens your editor on it over Remote-SSH.

Examples:
  aivm code .            open the folder here in its VM, made on first use
  aivm ssh . -- make     run a command in it
` + cli.ExitStatuses,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.UnknownCommand(c, args[0])
			}
			return c.Help()
		},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return a.prepare(c) },
	}
	f := c.PersistentFlags()
	f.StringVar(&a.Config, "config", "", "the config `FILE` (default: $XDG_CONFIG_HOME/aivm/config.toml)")
	f.BoolVarP(&a.Yes, "yes", "y", false, "agree to everything that is asked")
	f.BoolVar(&a.YesSudo, "yes-sudo", false, "agree to what runs as root")
	f.CountVarP(&a.Verbose, "verbose", "v", "say more; twice: more still")
	f.BoolVarP(&a.UI.Quiet, "quiet", "q", false, "say only what was asked for, and errors")
	f.BoolVar(&a.UI.JSON, "json", false, "print facts and errors as JSON")
	c.SetOut(a.UI.Out)
	c.SetErr(a.UI.Err)
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		// The flags behind the wrong one were not read.
		own, _, _ := strings.Cut("\x00"+strings.Join(a.Args, "\x00")+"\x00", "\x00--\x00")
		a.UI.JSON = a.UI.JSON || strings.Contains(own+"\x00", "\x00--json\x00")
		e := ui.Usage("%w", err)
		for _, w := range a.Args {
			if _, serr := os.Lstat(w); serr == nil && strings.HasPrefix(w, "-") {
				e.Hint(ui.CmdFor("for the folder or file of that name", c.CommandPath()+" "+cli.QuoteWord("./"+w)))
			}
		}
		return e.Hint(ui.Cmd(c.CommandPath() + " --help"))
	})
	c.SetHelpCommand(a.helpCmd())
	vms, here, folders, images := vm.For(a.App), look.For(a.App), folder.For(a.App), image.For(a.App)
	// Also below "vm", where 0.3 had them.
	both := func() []*cobra.Command {
		return []*cobra.Command{folders.SSHCmd(), folders.CodeCmd(), folders.AttachCmd(), folders.DetachCmd()}
	}
	c.AddCommand(both()...)
	c.AddCommand(vms.Cmd(append(both(), here.VMListCmd())...), here.StatusCmd(), here.ListCmd(), here.EditorsCmd(), images.Cmd(), git.For(a.App).Cmd(),
		host.For(a.App).Cmd(images.FetchCmd("image-fetch")), config.For(a.App).Cmd(), a.rootApplyCmd(), a.rootHookCmd())
	c.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	underscores(c)
	return c
}

// underscores gives every command with a hyphen its 0.3 spelling.
func underscores(c *cobra.Command) {
	for _, k := range c.Commands() {
		if n := strings.ReplaceAll(k.Name(), "-", "_"); n != k.Name() {
			k.Aliases = append(k.Aliases, n)
		}
		underscores(k)
	}
}

// prepare refuses to start through sudo: files made for root would lie where
// the user's belong, and the user's libvirt, keys and editor are not root's.
func (a app) prepare(c *cobra.Command) error {
	if harmless := []string{root.Command, root.HookCommand, "help", "__complete", "__completeNoDesc", "completion"}; slices.Contains(harmless, c.Name()) ||
		c.HasParent() && slices.Contains(harmless, c.Parent().Name()) {
		return nil
	}
	if by := os.Getenv("SUDO_UID"); os.Geteuid() == 0 && by != "" && by != "0" {
		return ui.Refused("aivm was started through sudo: run it without sudo, aivm asks for what it needs").
			Hint(ui.Cmd(cli.Typed(a.Args, nil)))
	}
	if a.Recreate {
		return a.neverAnew(c)
	}
	a.UI.Verbose = a.Verbose
	return nil
}

// neverAnew refuses 0.3's flags that replaced a VM, with the two commands that
// do it knowingly.
func (a app) neverAnew(c *cobra.Command) error {
	name := "NAME"
	if p := c.Parent(); p != nil && p.Name() == "net" {
		if len(c.Flags().Args()) == 1 {
			name = cli.QuoteWord(c.Flags().Args()[0])
		}
		return ui.Refused("aivm never makes a network anew by itself: VMs that run on it would be cut off").
			Hint(ui.CmdFor("to do it knowingly", "aivm host net destroy "+name+" --force"), ui.CmdFor("then", cli.Typed(a.Args, append(slices.Clone(cli.Consents), "--recreate"))))
	}
	if f := c.Flags().Lookup("vm"); f != nil && f.Value.String() != "" {
		name = cli.QuoteWord(f.Value.String())
	} else if p := c.Parent(); p != nil && p.Name() == "vm" && len(c.Flags().Args()) == 1 && (c.Name() == "create" || c.Name() == "up") {
		name = cli.QuoteWord(c.Flags().Args()[0])
	}
	again := cli.Typed(a.Args, append(slices.Clone(cli.Consents), "--force", "--recreate", "--recreate-if-needed", "--recreate_if_needed"))
	if c.Name() == "up" {
		again = "aivm vm create " + name
	}
	return ui.Refused("aivm never makes a VM anew by itself: its disk would be lost").
		Hint(ui.CmdFor("to do it knowingly", "aivm vm delete "+name), ui.CmdFor("then", again))
}
