// Package cmd is the command line: one file a verb, flags -> options -> one
// call into provision -> what is printed. It holds no logic of its own and
// touches nothing outside the process, except to build provision.Env.
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

	"aivm.dev/aivm/internal/config"
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
	a := &app{ui: w.UI, args: args, hook: w.Hook, seams: w.Seams}
	defer a.close()
	c := a.root()
	c.SetArgs(args)
	ctx = config.OnWait(ctx, func(holder string) { a.ui.Say("waiting for %s, which writes the config ...", holder) })
	ran, err := c.ExecuteContextC(ctx)
	var dry *provision.DryRun
	if errors.As(err, &dry) {
		err = a.printDry(dry)
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
	if ran.Name() == sshName {
		err = ui.OwnOverSSH(err)
	}
	a.ui.PrintError(err)
	return ui.ExitCode(err)
}

// app is one run of the program.
type app struct {
	ui   *ui.Streams
	args []string
	hook func(string)
	env  *provision.Env

	seams *provision.Seams

	config       string
	yes, yesSudo bool
	dryRun       bool
	noFirewall   bool
	verbose      int
	recreate     bool // 0.3's --recreate and --recreate_if_needed
	hostSrc      string
}

func (a *app) close() {
	if a.env != nil {
		a.env.Close()
	}
}

const exitStatuses = `
Exit status: 0 done; 1 wrong usage; 2 refused or failed; 3 approval missing or
declined; 130 interrupted.`

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "aivm",
		Short: "Give a folder its own VM, so that a coding agent can do anything inside and nothing outside",
		Long: `aivm gives a folder its own VM (libvirt, KVM, cloud-init), an SSH alias, the
folder itself, and opens your editor on it over Remote-SSH.

Examples:
  aivm code .            open the folder here in its VM, made on first use
  aivm ssh . -- make     run a command in it
` + exitStatuses,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(c, args[0])
			}
			return c.Help()
		},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return a.prepare(c) },
	}
	f := c.PersistentFlags()
	f.StringVar(&a.config, "config", "", "the config `FILE` (default: $XDG_CONFIG_HOME/aivm/config.toml)")
	f.BoolVarP(&a.yes, "yes", "y", false, "agree to everything that is asked")
	f.BoolVar(&a.yesSudo, "yes-sudo", false, "agree to what runs as root")
	f.CountVarP(&a.verbose, "verbose", "v", "say more; twice: more still")
	f.BoolVarP(&a.ui.Quiet, "quiet", "q", false, "say only what was asked for, and errors")
	f.BoolVar(&a.ui.JSON, "json", false, "print facts and errors as JSON")
	c.SetOut(a.ui.Out)
	c.SetErr(a.ui.Err)
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		// The flags behind the wrong one were not read.
		own, _, _ := strings.Cut("\x00"+strings.Join(a.args, "\x00")+"\x00", "\x00--\x00")
		a.ui.JSON = a.ui.JSON || strings.Contains(own+"\x00", "\x00--json\x00")
		e := ui.Usage("%w", err)
		for _, w := range a.args {
			if _, serr := os.Lstat(w); serr == nil && strings.HasPrefix(w, "-") {
				e.Hint("for the folder or file of that name: " + c.CommandPath() + " " + quoteWord("./"+w))
			}
		}
		return e.Hint(c.CommandPath() + " --help")
	})
	c.SetHelpCommand(a.helpCmd())
	c.AddCommand(a.codeCmd(), a.sshCmd(), a.attachCmd(), a.detachCmd(), a.vmCmd(), a.statusCmd(), a.listCmd(), a.editorsCmd(), a.imageCmd(), a.gitCmd(), a.hostCmd(), a.configCmd(), a.rootApplyCmd(), a.rootHookCmd())
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

// group is a command that only holds others.
func group(use, short, example string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: short + ".\n\nExamples:\n" + example + exitStatuses,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(c, args[0])
			}
			return c.Help()
		},
	}
	c.AddCommand(subs...)
	return c
}

func unknownCommand(c *cobra.Command, name string) error {
	e := ui.Usage("%s has no command %q", c.CommandPath(), name)
	c.SuggestionsMinimumDistance = 2
	for _, s := range c.SuggestionsFor(strings.ReplaceAll(name, "_", "-")) {
		e.Hint(c.CommandPath() + " " + s)
	}
	return e.Hint(c.CommandPath() + " --help")
}

// prepare refuses to start through sudo: files made for root would lie where
// the user's belong, and the user's libvirt, keys and editor are not root's.
func (a *app) prepare(c *cobra.Command) error {
	if harmless := []string{root.Command, root.HookCommand, "help", "__complete", "__completeNoDesc", "completion"}; slices.Contains(harmless, c.Name()) ||
		c.HasParent() && slices.Contains(harmless, c.Parent().Name()) {
		return nil
	}
	if by := os.Getenv("SUDO_UID"); os.Geteuid() == 0 && by != "" && by != "0" {
		return ui.Refused("aivm was started through sudo: run it without sudo, aivm asks for what it needs").
			Hint(typed(a.args, nil))
	}
	if a.recreate {
		return a.neverAnew(c)
	}
	a.ui.Verbose = a.verbose
	return nil
}

// neverAnew refuses 0.3's flags that replaced a VM, with the two commands that
// do it knowingly.
func (a *app) neverAnew(c *cobra.Command) error {
	name := "NAME"
	if p := c.Parent(); p != nil && p.Name() == "net" {
		if len(c.Flags().Args()) == 1 {
			name = quoteWord(c.Flags().Args()[0])
		}
		return ui.Refused("aivm never makes a network anew by itself: VMs that run on it would be cut off").
			Hint("to do it knowingly: aivm host net destroy "+name+" --force", "then: "+typed(a.args, append(slices.Clone(consents), "--recreate")))
	}
	if f := c.Flags().Lookup("vm"); f != nil && f.Value.String() != "" {
		name = quoteWord(f.Value.String())
	} else if p := c.Parent(); p != nil && p.Name() == "vm" && len(c.Flags().Args()) == 1 && (c.Name() == "create" || c.Name() == "up") {
		name = quoteWord(c.Flags().Args()[0])
	}
	again := typed(a.args, append(slices.Clone(consents), "--force", "--recreate", "--recreate-if-needed", "--recreate_if_needed"))
	if c.Name() == "up" {
		again = "aivm vm create " + name
	}
	return ui.Refused("aivm never makes a VM anew by itself: its disk would be lost").
		Hint("to do it knowingly: aivm vm delete "+name, "then: "+again)
}

// consents are the flags a command to type again is shown without.
var consents = []string{"--dry-run", "--dry_run", "--yes", "-y"}

// rerun is the command line as a person would type it again, without --yes.
func (a *app) rerun() string { return typed(a.args, consents) }

// typed is a command line as a person types it, without the flags named; what
// stands behind "--" is another program's and stays.
func typed(args, without []string) string {
	words := []string{"aivm"}
	for i, w := range args {
		if w == "--" {
			for _, k := range args[i:] {
				words = append(words, quoteWord(k))
			}
			break
		}
		if !slices.Contains(without, w) {
			words = append(words, quoteWord(w))
		}
	}
	return strings.Join(words, " ")
}
