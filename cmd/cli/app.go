package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// App is one run of the program.
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

// Close ends the connections of the run.
func (a *App) Close() {
	if a.env != nil {
		a.env.Close()
	}
}

// ExitStatuses end the help of most commands.
const ExitStatuses = `
Exit status: 0 done; 1 wrong usage; 2 refused or failed; 3 approval missing or
declined; 130 interrupted.`

// Group is a command that only holds others.
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

// UnknownCommand refuses a word that is no command of c, and names the nearest.
func UnknownCommand(c *cobra.Command, name string) error {
	e := ui.Usage("%s has no command %q", c.CommandPath(), name)
	c.SuggestionsMinimumDistance = 2
	for _, s := range c.SuggestionsFor(strings.ReplaceAll(name, "_", "-")) {
		e.Hint(ui.Cmd(c.CommandPath() + " " + s))
	}
	return e.Hint(ui.Cmd(c.CommandPath() + " --help"))
}

// Consents are the flags a command to type again is shown without.
var Consents = []string{"--dry-run", "--dry_run", "--yes", "-y"}

// Rerun is the command line as a person would type it again, without --yes.
func (a *App) Rerun() string { return Typed(a.Args, Consents) }

// Typed is a command line as a person types it, without the flags named; what
// stands behind "--" is another program's and stays.
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
