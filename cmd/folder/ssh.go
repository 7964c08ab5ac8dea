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

If stdin and stdout are a terminal, the command gets a terminal in the guest too, with
both of its outputs on it. If one of them is a pipe or a file, it gets none, and every
byte passes unchanged. -t and -T decide otherwise, as in ssh.

Examples:
  aivm ssh .                      open a shell
  aivm ssh . -- go test ./...     run a command
  aivm ssh . -- vim main.go       run a program that uses the screen
  tar c . | aivm ssh . -- tar t   send data to a command
  aivm ssh -T . -- make 2>log     keep stderr separate, although it is a terminal

Exit status: that of the shell or command; 255 for any error of aivm itself, as with
ssh. With --json, the printed error names its kind.`,
		ValidArgsFunction: cli.CompleteFolder,
		RunE: func(c *cobra.Command, args []string) error {
			folders := args
			if n := c.ArgsLenAtDash(); n >= 0 {
				if folders, o.Command = args[:n], args[n:]; len(o.Command) == 0 {
					return ui.Usage("there is no command after --").Hint(ui.Cmd("aivm ssh --help"))
				}
			}
			if len(folders) > 1 {
				e := ui.Usage("put -- before the command: only the first word is a folder")
				if line, ok := a.CommandHint(c); ok {
					e.Hint(ui.Cmd(line))
				}
				return e
			}
			if args = folders; o.TTY > 0 && o.NoTTY {
				return ui.Usage("-t and -T are both given").Hint(ui.Cmd("aivm ssh --help"))
			}
			e, folder, err := a.OnFolder(cli.SSHName, args)
			if err != nil {
				return err
			}
			o.Folder = folder
			return e.Shell(c.Context(), o)
		},
	}
	c.Flags().CountVarP(&o.TTY, "tty", "t", "give the command a terminal, although stdout is none; -tt: although stdin is none either")
	c.Flags().BoolVarP(&o.NoTTY, "no-tty", "T", false, "give the shell or command no terminal")
	a.FolderFlags(c, &o.FolderOptions)
	a.RecreateFlags(c, "recreate-if-needed", "recreate")
	return c
}
