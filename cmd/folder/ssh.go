package folder

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// SSHCmd is `aivm ssh`.
func (a Verbs) SSHCmd() *cobra.Command {
	var o provision.SSHOptions
	c := &cobra.Command{
		Use:   cli.SSHName + " [folder] [-- command...]",
		Short: "Open a shell, or run a command, in a folder inside its VM",
		Long: `Open a login shell in the folder inside its VM. With a command after "--" that is
run there instead: its input, output and exit status are passed through as they are.

Examples:
  aivm ssh .                    a shell
  aivm ssh . -- go test ./...   a command
  tar c . | aivm ssh . -- tar t

Exit status: that of the shell or command; 255 for every failure of aivm's own, as
ssh itself has it. The kind of failure is in the error that --json prints.`,
		ValidArgsFunction: cli.CompleteFolder,
		RunE: func(c *cobra.Command, args []string) error {
			if n := c.ArgsLenAtDash(); n >= 0 {
				args, o.Command = args[:n], args[n:]
				if len(o.Command) == 0 {
					return ui.Usage("there is no command after --").Hint(ui.Cmd("aivm ssh --help"))
				}
			} else if len(args) > 1 {
				return ui.Usage("put -- before the command").Hint(ui.Cmd("aivm ssh . -- " + cli.QuoteWord(args[1])))
			}
			e, folder, err := a.OnFolder(cli.SSHName, args)
			if err != nil {
				return err
			}
			o.Folder = folder
			return e.Shell(c.Context(), o)
		},
	}
	a.FolderFlags(c, &o.FolderOptions)
	a.RecreateFlags(c, "recreate-if-needed", "recreate")
	return c
}
