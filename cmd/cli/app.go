package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// App holds the state of one run of the program: its streams, arguments and global flags.
type App struct {
	UI   *ui.Streams
	Args []string
	Hook func(string)
	env  *provision.Env

	Seams *provision.Seams

	Config       string
	Yes, YesSudo bool
	DryRun       bool
	noFirewall   bool
	Verbose      int
	Recreate     bool // 0.3's --recreate and --recreate_if_needed
	HostSrc      string
}

// Close closes the connections the run opened.
func (a *App) Close() {
	if a.env != nil {
		a.env.Close()
	}
}

// ExitStatuses is the last paragraph of most help pages.
const ExitStatuses = `
Exit status: 0 success; 1 wrong usage; 2 refused or failed; 3 approval missing or
declined; 130 interrupted.`

// Group builds a command that does nothing but hold subcommands.
func Group(use, short, example string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: short + ".\n\nExamples:\n" + example + ExitStatuses,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return UnknownCommand(c, args[0])
			}
			return c.Help()
		},
	}
	c.AddCommand(subs...)
	return c
}

// UnknownCommand returns the usage error for name, which is not a subcommand of c. Its
// hints are the subcommands with similar names.
func UnknownCommand(c *cobra.Command, name string) error {
	e := ui.Usage("%s has no command %q", c.CommandPath(), name)
	c.SuggestionsMinimumDistance = 2
	for _, s := range c.SuggestionsFor(strings.ReplaceAll(name, "_", "-")) {
		e.Hint(ui.Cmd(c.CommandPath() + " " + s))
	}
	return e.Hint(ui.Cmd(c.CommandPath() + " --help"))
}

// Consents lists the flags that are left out of a command line shown for typing again.
var Consents = []string{"--dry-run", "--dry_run", "--yes", "-y"}

// Rerun returns this run's command line for typing again, without the flags in Consents.
func (a *App) Rerun() string { return Typed(a.Args, Consents) }

// Typed returns args as a shell command line of aivm, without the flags in without.
// Words after "--" belong to another program and are kept.
func Typed(args, without []string) string {
	words := []string{"aivm"}
	for i, w := range args {
		if w == "--" {
			for _, k := range args[i:] {
				words = append(words, QuoteWord(k))
			}
			break
		}
		if !slices.Contains(without, w) {
			words = append(words, QuoteWord(w))
		}
	}
	return strings.Join(words, " ")
}
