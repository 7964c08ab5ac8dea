package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	noEffect     bool // 0.3's --force of code, ssh and attach
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

// CommandHint returns this run's command line with "--" before the second word that is neither a
// flag nor the value of one; false if there is none. c is the command that runs.
func (a *App) CommandHint(c *cobra.Command) (string, bool) {
	at := wordAt(c, a.Args, strings.Count(c.CommandPath(), " ")+1)
	if at < 0 {
		return "", false
	}
	return Typed(slices.Concat(a.Args[:at], []string{"--"}, a.Args[at:]), nil), true
}

// wordAt returns the index in args of word n, from 0, that is neither a flag nor the value of one, or
// -1. Flags that c does not have count as flags without a value.
func wordAt(c *cobra.Command, args []string, n int) int {
	for i := 0; i < len(args); i++ {
		w := args[i]
		switch {
		case w == "--":
			return -1
		case len(w) > 1 && w[0] == '-':
			if takesNext(c.Flags(), w) {
				i++
			}
		case n == 0:
			return i
		default:
			n--
		}
	}
	return -1
}

// takesNext reports whether the flag or flags in the word w have the next word as their value.
func takesNext(flags *pflag.FlagSet, w string) bool {
	if name, long := strings.CutPrefix(w, "--"); long {
		f := flags.Lookup(name) // of name=value there is none
		return f != nil && f.NoOptDefVal == ""
	}
	for i := 1; i < len(w); i++ {
		switch f := flags.ShorthandLookup(w[i : i+1]); {
		case f == nil:
			return false
		case f.NoOptDefVal == "":
			return i == len(w)-1
		}
	}
	return false
}

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
