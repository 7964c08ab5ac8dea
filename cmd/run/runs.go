package run

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// RunsCmd builds "aivm runs" and the commands below it.
func (a Verbs) RunsCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "runs",
		Short: "List the one-shot VMs that run now",
		Long: `List the VMs of "aivm run" that run now.

Examples:
  aivm runs
  aivm runs exec NAME -- ps aux   run a second command in one
  aivm runs stop NAME             end one
` + cli.ExitStatuses,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.UnknownCommand(c, args[0])
			}
			e, err := a.Provision("runs")
			if err != nil {
				return err
			}
			list, err := e.Runs()
			if err != nil {
				return err
			}
			return a.print(list)
		},
	}
	c.AddCommand(a.execCmd(), a.stopCmd())
	return c
}

// print prints the list of runs.
func (a Verbs) print(list []provision.RunRecord) error {
	return a.Show(struct {
		Schema int                   `json:"schema"`
		Runs   []provision.RunRecord `json:"runs"`
	}{1, append([]provision.RunRecord{}, list...)}, nil, func() {
		if len(list) == 0 {
			a.UI.Say("no one-shot VM runs")
			return
		}
		var rows [][]string
		for _, r := range list {
			command := strings.Join(quoted(r.Argv), " ")
			if len(r.Argv) == 0 {
				command = "(shell)"
			}
			rows = append(rows, []string{r.Name, r.Template, time.Since(r.Started).Truncate(time.Second).String(), r.Net, cli.OrDash(ui.Clean(r.Folder)), ui.CleanTo(command, 60)})
		}
		ui.Table(a.UI.Out, []string{"NAME", "TEMPLATE", "SINCE", "NETWORK", "FOLDER", "COMMAND"}, rows)
	})
}

func (a Verbs) execCmd() *cobra.Command {
	var o provision.RunExecOptions
	c := &cobra.Command{
		Use: "exec NAME [-- command...]", ValidArgsFunction: a.CompleteOneRun,
		Short: "Run a second command, or a shell, in a one-shot VM",
		Long: `Run the command after "--", or a shell, in the VM of a run. It ends with the VM.

Examples:
  aivm runs exec NAME            open a shell
  aivm runs exec NAME -- top     look at what runs in it

Exit status: that of the command; 255 for any error of aivm itself.`,
		Annotations: map[string]string{passesStatus: "yes"},
		RunE: func(c *cobra.Command, args []string) error {
			names := args
			if n := c.ArgsLenAtDash(); n >= 0 {
				if names, o.Argv = args[:n], args[n:]; len(o.Argv) == 0 {
					return ui.Usage("there is no command after --").Hint(ui.Cmd("aivm runs exec --help"))
				}
			}
			switch {
			case len(names) == 0:
				return ui.Usage("the name of a run is missing").Hint(ui.CmdFor("the runs that are there", "aivm runs"))
			case len(names) > 1:
				e := ui.Usage("put -- before the command: only the first word is a run")
				return e.Hint(ui.Cmd("aivm runs exec " + cli.QuoteWord(names[0]) + " -- " + strings.Join(quoted(names[1:]), " ")))
			}
			e, err := a.Provision("runs exec")
			if err != nil {
				return err
			}
			return status(e.RunExec(names[0], o))
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&o.Env, "env", "e", nil, "set a variable of the command, or pass it on: `NAME[=VALUE]`")
	f.BoolVar(&o.Root, "root", false, "run the command as root of the VM")
	f.BoolVarP(&o.TTY, "tty", "t", false, "give the command a terminal, although stdout is none")
	f.BoolVarP(&o.NoTTY, "no-tty", "T", false, "give the command no terminal")
	return c
}

func (a Verbs) stopCmd() *cobra.Command {
	return &cobra.Command{
		Use: "stop NAME...", ValidArgsFunction: a.CompleteRun,
		Short: "End one-shot VMs",
		Long: `End the command of a run as SIGTERM does, and its VM. It returns when nothing of the run
is there any more.

Examples:
  aivm runs stop NAME            end one
  aivm runs stop build test      end two
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return ui.Usage("the name of a run is missing").Hint(ui.CmdFor("the runs that are there", "aivm runs"))
			}
			e, err := a.Provision("runs stop")
			if err != nil {
				return err
			}
			return e.RunStop(args)
		},
	}
}
