package folder

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// SSHCmd builds "aivm ssh".
func (a Verbs) SSHCmd() *cobra.Command {
	var o provision.SSHOptions
	c := &cobra.Command{
		Use:   cli.SSHName + " [folder] [-- command...]",
		Short: "Open a shell or run a command in a folder in its VM",
		Long: `Open a login shell in a folder in its VM, or run the command after "--" there. The
command's input, output and exit status are passed through. What is missing is set up
first, as by "aivm code".

Examples:
  aivm ssh .                      open a shell
  aivm ssh . -- go test ./...     run a command
  tar c . | aivm ssh . -- tar t   send data to a command

Exit status: that of the shell or command; 255 for any error of aivm itself, as with
ssh. With --json, the printed error names its kind.`,
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
