package cmd

import (
	"bytes"
	_ "embed"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
)

// A shell is one that aivm has a completion script for.
type shell struct {
	name   string
	now    string // the command that turns completion on in the running shell
	always string // the one that does in every new shell
	needs  string
	script func(c *cobra.Command, out *bytes.Buffer, descriptions bool) error
}

// bashWords replaces what cobra's script uses of the package bash-completion, which many machines
// do not have.
//
//go:embed completion.bash
var bashWords string

var shells = []shell{{
	name: "bash", now: "source <(aivm completion bash)", always: "echo 'source <(aivm completion bash)' >> ~/.bashrc",
	needs: "bash 4.1 or newer, not the package bash-completion.",
	script: func(c *cobra.Command, out *bytes.Buffer, descriptions bool) error {
		var cobras bytes.Buffer
		err := c.GenBashCompletionV2(&cobras, descriptions)
		out.WriteString(strings.NewReplacer(
			"_get_comp_words_by_ref \"$@\" cur prev words cword", "__aivm_words",
			"declare -F _init_completion", "false",
			"_filedir", "__aivm_filedir",
			"out=${out%%:*}", "out=${out%:*}", // only the directive: a path may have colons
		).Replace(cobras.String()) + bashWords)
		return err
	},
}, {
	name: "zsh", now: "source <(aivm completion zsh)", always: "echo 'autoload -U compinit; compinit; source <(aivm completion zsh)' >> ~/.zshrc",
	script: func(c *cobra.Command, out *bytes.Buffer, descriptions bool) error {
		if descriptions {
			return c.GenZshCompletion(out)
		}
		return c.GenZshCompletionNoDesc(out)
	},
}, {
	name: "fish", now: "aivm completion fish | source", always: "mkdir -p ~/.config/fish/completions; aivm completion fish > ~/.config/fish/completions/aivm.fish",
	script: func(c *cobra.Command, out *bytes.Buffer, descriptions bool) error {
		return c.GenFishCompletion(out, descriptions)
	},
}, {
	name: "tcsh", now: "eval \"`aivm completion tcsh`\"", always: "aivm completion tcsh >> ~/.tcshrc",
	script: func(_ *cobra.Command, out *bytes.Buffer, _ bool) error {
		out.WriteString(tcshScript)
		return nil
	},
}, {
	name: "powershell", now: "aivm completion powershell | Out-String | Invoke-Expression", always: "Add-Content $PROFILE 'aivm completion powershell | Out-String | Invoke-Expression'",
	script: func(c *cobra.Command, out *bytes.Buffer, descriptions bool) error {
		if descriptions {
			return c.GenPowerShellCompletionWithDesc(out)
		}
		return c.GenPowerShellCompletion(out)
	},
}}

// shellNames lists the shells in the order of their help.
func shellNames() (names []string) {
	for _, s := range shells {
		names = append(names, s.name)
	}
	return names
}

// findShell returns the shell of that name; of is what names it, in the error.
func findShell(name, of string) (shell, error) {
	i := slices.Index(shellNames(), name)
	if i < 0 {
		return shell{}, ui.Usage("%s must be one of: %s; there is no completion for %q", of, strings.Join(shellNames(), ", "), name).
			Hint(ui.CmdFor("to see how to turn it on", "aivm help completion"))
	}
	return shells[i], nil
}

// completionCmd builds "aivm completion", in place of cobra's.
func (a app) completionCmd() *cobra.Command {
	c := cli.Group("completion", "Print the completion script of a shell", `  aivm completion bash
  aivm completion zsh --no-descriptions
`)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		_, err := findShell(args[0], "the shell")
		return err
	}
	for _, s := range shells {
		var plain bool
		k := &cobra.Command{
			Use: s.name, Short: "Print the completion script of " + s.name, Args: cli.NoArgs,
			Long: "Print the completion script of " + s.name + "." + cli.Prefixed("\nIt needs ", s.needs) + "\nTo turn completion on in this shell:\n\n  " + s.now +
				"\n\nand in every new one:\n\n  " + s.always + "\n\nExamples:\n  aivm completion " + s.name + "\n  aivm completion " + s.name + " --no-descriptions\n" + cli.ExitStatuses,
			RunE: func(c *cobra.Command, _ []string) error {
				var out bytes.Buffer
				if err := s.script(c.Root(), &out, !plain); err != nil {
					return err
				}
				_, err := a.UI.Out.Write(out.Bytes())
				return err
			},
		}
		k.Flags().BoolVar(&plain, "no-descriptions", false, "offer names without descriptions")
		c.AddCommand(k)
	}
	return c
}

// helpCompletionCmd builds "aivm help completion", which aivm 0.3 had too.
func (a app) helpCompletionCmd() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "completion [shell]", Short: "Print how to turn on completion in your shell", ValidArgsFunction: cli.Fixed(shellNames()...),
		Long: `Print how to turn on completion of aivm's commands in a shell: the one named, else that of
$SHELL, else bash.

Examples:
  aivm help completion
  aivm help completion zsh
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return ui.Usage("%d shells are given: one at a time", len(args))
			case len(args) > 0 && name == "":
				name = args[0]
			case !c.Flags().Changed("shell"):
				if name = filepath.Base(os.Getenv("SHELL")); !slices.Contains(shellNames(), name) {
					name = "bash"
				}
			}
			s, err := findShell(name, "--shell")
			if err != nil {
				return err
			}
			a.UI.Result("To turn on completion in this %s:\n\n  %s\n\nIn every new one:\n\n  %s", s.name, s.now, s.always)
			if s.needs != "" {
				a.UI.Result("\nIt needs %s", s.needs)
			}
			return nil
		},
	}
	c.Flags().StringVar(&name, "shell", "", "bash, zsh, fish, tcsh or powershell")
	_ = c.RegisterFlagCompletionFunc("shell", cli.Fixed(shellNames()...))
	return c
}
