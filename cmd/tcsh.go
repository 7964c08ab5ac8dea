package cmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
)

// tcshName is the hidden command that tcsh runs for each completion.
const tcshName = "__tcsh"

// tcshScript makes tcsh offer what the command tcshName prints for its command line (the variable
// COMMAND_LINE; tcsh(1), "complete").
const tcshScript = "complete aivm 'p@*@`aivm " + tcshName + " \"$COMMAND_LINE\"`@'\n"

// tcshCmd builds the command that prints what completes the last word of a command line, each on a line
// of its own. Names with blanks are left out: tcsh splits at blanks what it reads.
func (a app) tcshCmd() *cobra.Command {
	return &cobra.Command{
		Use: tcshName + " LINE", Hidden: true, Args: cobra.ExactArgs(1), DisableFlagParsing: true,
		Short: "Print what completes a command line of tcsh",
		Long:  "Print what completes a command line of tcsh.\n\nExamples:\n  aivm " + tcshName + " 'aivm vm '\n" + cli.ExitStatuses,
		RunE: func(c *cobra.Command, args []string) error {
			words := tcshWords(args[0])
			for _, l := range a.completions(c, words) {
				if !strings.ContainsAny(l, " \t") {
					a.UI.Result("%s", l)
				}
			}
			return nil
		},
	}
}

// completions returns what completes the last of words. It runs this program's command for that, which
// cobra adds, and lists paths where that leaves them to the shell.
func (a app) completions(c *cobra.Command, words []string) []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	out, err := exec.CommandContext(c.Context(), self, append([]string{cobra.ShellCompNoDescRequestCmd}, words...)...).Output()
	if err != nil {
		return nil
	}
	// The last line is ":" and a number of cobra's ShellCompDirective.
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	last := len(lines) - 1
	n, err := strconv.Atoi(strings.TrimPrefix(lines[last], ":"))
	if d := cobra.ShellCompDirective(n); err == nil && last == 0 && d&(cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveError) == 0 {
		return pathsOf(words[len(words)-1], d&cobra.ShellCompDirectiveFilterDirs != 0)
	}
	return lines[:last]
}

// pathsOf returns the paths that begin with a text, directories with a slash at the end.
func pathsOf(begun string, onlyDirs bool) (out []string) {
	dir, name := filepath.Split(begun)
	at := dir
	if at == "" {
		at = "."
	}
	entries, _ := os.ReadDir(at)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), name) || name == "" && strings.HasPrefix(e.Name(), ".") {
			continue
		}
		st, err := os.Stat(filepath.Join(at, e.Name()))
		switch isDir := err == nil && st.IsDir(); {
		case isDir:
			out = append(out, dir+e.Name()+"/")
		case !onlyDirs:
			out = append(out, dir+e.Name())
		}
	}
	return out
}

// tcshWords splits a command line at blanks that are not quoted, without the program's name. The last
// word is the one to complete; it is empty after a blank.
func tcshWords(line string) []string {
	words, word, quote := []string{}, strings.Builder{}, rune(0)
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case quote == 0 && (r == ' ' || r == '\t'):
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
		default:
			word.WriteRune(r)
		}
	}
	words = append(words, word.String())
	return words[min(1, len(words)-1):]
}
