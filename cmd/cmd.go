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
	"aivm.dev/aivm/cmd/run"
	"aivm.dev/aivm/cmd/setup"
	"aivm.dev/aivm/cmd/show"
	"aivm.dev/aivm/cmd/vm"
	store "aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Main runs aivm with args and returns its exit status. hook is called at every
// fault point; it is nil in the shipped program.
func Main(args []string, hook func(point string)) int {
	return Run(args, World{UI: ui.Std(), Hook: hook})
}

// World holds what a run gets from its caller: streams, fault hook and, in tests,
// replacements for parts of the host.
type World struct {
	UI    *ui.Streams
	Hook  func(point string)
	Seams *provision.Seams // nil: the real host
}

// Run does what Main does, in the World the caller provides.
func Run(args []string, w World) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal cancels the run; the second one kills it, as usual.
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
	if ran.Name() == cli.SSHName || run.PassesStatus(ran) {
		err = ui.AsSSHError(err)
	}
	a.UI.PrintError(err)
	return ui.ExitCode(err)
}

func (a app) root() *cobra.Command {
	var version bool
	c := &cobra.Command{
		Use:   "aivm",
		Short: "Run coding agents on a folder in its own Ubuntu VM",
		Long: `aivm gives a folder its own Ubuntu VM (libvirt, KVM, cloud-init), makes the folder
available in it, adds an SSH alias for it, and opens your editor on the folder over
Remote-SSH. A coding agent can do anything in the VM; on this machine it can only
change the folders you attached.

Examples:
  aivm code .            open the current folder in its VM; creates the VM if needed
  aivm ssh . -- make     run a command in the folder, in the VM
` + cli.ExitStatuses,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.UnknownCommand(c, args[0])
			}
			if version {
				return a.printVersion()
			}
			return c.Help()
		},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return a.prepare(c) },
	}
	f := c.PersistentFlags()
	f.StringVar(&a.Config, "config", "", "config `FILE` to use (default: $XDG_CONFIG_HOME/aivm/config.toml)")
	f.BoolVarP(&a.Yes, "yes", "y", false, "answer yes to all questions")
	f.BoolVar(&a.YesSudo, "yes-sudo", false, "approve what runs as root without asking")
	f.CountVarP(&a.Verbose, "verbose", "v", "print more details; -vv prints even more")
	f.BoolVarP(&a.UI.Quiet, "quiet", "q", false, "print only results and errors")
	f.BoolVar(&a.UI.JSON, "json", false, "print results and errors as JSON")
	c.Flags().BoolVar(&version, "version", false, "print the version of aivm")
	c.SetOut(a.UI.Out)
	c.SetErr(a.UI.Err)
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		// pflag stops at the first wrong flag, so a --json after it was not parsed.
		own, _, _ := strings.Cut("\x00"+strings.Join(a.Args, "\x00")+"\x00", "\x00--\x00")
		a.UI.JSON = a.UI.JSON || strings.Contains(own+"\x00", "\x00--json\x00")
		if c.HasSubCommands() && c.Flags().NArg() > 0 { // the flag belongs to a command that does not exist
			return cli.UnknownCommand(c, c.Flags().Arg(0))
		}
		e := ui.Usage("%w", err)
		for _, w := range a.Args {
			if _, serr := os.Lstat(w); serr == nil && strings.HasPrefix(w, "-") {
				e.Hint(ui.CmdFor("if you mean the folder or file of that name", c.CommandPath()+" "+cli.QuoteWord("./"+w)))
			}
		}
		if line, ok := a.CommandHint(c); ok && c.Name() == cli.SSHName {
			e.Hint(ui.CmdFor("put -- before the command", line))
		}
		return e.Hint(ui.Cmd(c.CommandPath() + " --help"))
	})
	c.SetHelpCommand(a.helpCmd())
	vms, views, folders, images := vm.For(a.App), show.For(a.App), folder.For(a.App), image.For(a.App)
	// aivm 0.3 had these commands below "vm"; they work in both places.
	folderCmds := func() []*cobra.Command {
		return []*cobra.Command{folders.SSHCmd(), folders.CodeCmd(), folders.AttachCmd(), folders.DetachCmd()}
	}
	c.AddCommand(folderCmds()...)
	c.AddCommand(setup.For(a.App).Cmd(), run.For(a.App).Cmd(), run.For(a.App).RunsCmd())
	c.AddCommand(vms.Cmd(append(folderCmds(), views.VMListCmd())...), views.StatusCmd(), views.ListCmd(), views.EditorsCmd(), images.Cmd(), git.For(a.App).Cmd(),
		host.For(a.App).Cmd(images.FetchCmd("image-fetch")), config.For(a.App).Cmd(), a.versionCmd(), a.completionCmd(), a.tcshCmd(), a.rootApplyCmd(), a.rootHookCmd())
	c.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	addUnderscoreAliases(c)
	return c
}

// addUnderscoreAliases adds aivm 0.3's spelling, image_fetch for image-fetch, to
// every command below c whose name has a hyphen.
func addUnderscoreAliases(c *cobra.Command) {
	for _, k := range c.Commands() {
		if n := strings.ReplaceAll(k.Name(), "-", "_"); n != k.Name() {
			k.Aliases = append(k.Aliases, n)
		}
		addUnderscoreAliases(k)
	}
}

// prepare runs before every command. It refuses to run under sudo (files owned by
// root would be created in the user's directories, and the user's libvirt session,
// keys and editor are not root's), refuses 0.3's --recreate flags, and sets the
// verbosity.
func (a app) prepare(c *cobra.Command) error {
	if harmless := []string{root.Command, root.HookCommand, "help", "version", "__complete", "__completeNoDesc", "completion"}; slices.Contains(harmless, c.Name()) ||
		c.HasParent() && slices.Contains(harmless, c.Parent().Name()) {
		return nil
	}
	if by := os.Getenv("SUDO_UID"); os.Geteuid() == 0 && by != "" && by != "0" {
		return ui.Refused("aivm was started with sudo: run it without, it calls sudo itself where root is needed").
			Hint(ui.Cmd(cli.Typed(a.Args, nil)))
	}
	if a.Recreate {
		return a.refuseRecreate(c)
	}
	a.UI.Verbose = a.Verbose
	return nil
}

// refuseRecreate refuses aivm 0.3's flags that replaced a VM or network. The hints
// are the two commands that delete and create it explicitly.
func (a app) refuseRecreate(c *cobra.Command) error {
	name := "NAME"
	if p := c.Parent(); p != nil && p.Name() == "net" {
		if len(c.Flags().Args()) == 1 {
			name = cli.QuoteWord(c.Flags().Args()[0])
		}
		return ui.Refused("aivm does not recreate a network: VMs running on it would lose their connection").
			Hint(ui.CmdFor("to recreate it, delete it first", "aivm host net destroy "+name+" --force"), ui.CmdFor("then", cli.Typed(a.Args, append(slices.Clone(cli.Consents), "--recreate"))))
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
	return ui.Refused("aivm does not recreate a VM: its disk would be lost").
		Hint(ui.CmdFor("to recreate it, delete it first", "aivm vm delete "+name), ui.CmdFor("then", again))
}
