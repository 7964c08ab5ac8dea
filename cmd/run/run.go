package run

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// passesStatus marks the commands that exit with the status of a command in a VM.
const passesStatus = "passes-status"

// PassesStatus reports whether a command exits with the status of a command in a VM, and with 255 for
// errors of aivm.
func PassesStatus(c *cobra.Command) bool { return c.Annotations[passesStatus] != "" }

// Cmd builds "aivm run".
func (a Verbs) Cmd() *cobra.Command {
	var o provision.RunOptions
	c := &cobra.Command{
		Use:   "run [flags] [-- command...]",
		Short: "Run a command in a fresh VM with this folder in it",
		Long: `Run the command after "--", or a shell, in a fresh VM that has this folder and nothing
else of this machine. The VM is removed when the command ends: only what it wrote to the
folder stays. It needs no root, and no libvirt; "aivm setup" prepares it once.

The folder is at its own path in the VM, and at /workspace. The command's user has your
user ID, and can use sudo in the VM. Of the environment it gets TERM, the locale, AIVM=1
and what --env names. Without --net open the VM has no network card.

Input, output and exit status are passed through. The command gets a terminal if stdin
and stdout are one; otherwise its three streams are separate and unchanged. -t and -T
decide otherwise.

Examples:
  aivm run -- make test                    build and test in a fresh VM
  aivm run                                 open a shell in one
  aivm run --workspace ro -- ./script.sh   the command cannot change the folder
  aivm run --net open -- npm install       with a network: public addresses only
  aivm run --timeout 10m -- make           end it after ten minutes

Exit status: that of the command, 128+N if signal N ended it; 124 after --timeout; 255 for
any error of aivm itself.`,
		Annotations: map[string]string{passesStatus: "yes"},
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Argv, err = a.command(c, args); err != nil {
				return err
			}
			o.Given = c.Flags().Changed
			e, err := a.Provision("run")
			if err != nil {
				return err
			}
			return status(e.RunCommand(c.Context(), o))
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.StringVar(&o.Name, "name", "", "name of the run (default: a random one)")
	f.DurationVar(&o.Timeout, "timeout", 0, "end the command after this time, with status 124")
	f.StringVar(&o.Workspace, "workspace", "rw", "access to this folder: rw, ro, or none: the VM does not have it")
	f.StringArrayVar(&o.Mounts, "mount", nil, "make another folder available: `HOST[:GUEST][:ro]`")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "set a variable of the command, or pass it on: `NAME[=VALUE]`")
	f.StringVar(&o.Template, "template", "default", "`NAME` of the template the VM starts from")
	f.IntVar(&o.MemoryMiB, "memory", 0, "memory of the VM in `MIB`; other than the template's: it is booted (default: the template's)")
	f.IntVar(&o.CPUs, "cpus", 0, "`NUMBER` of CPUs; other than the template's: it is booted (default: the template's)")
	f.StringVar(&o.Net, "net", "none", "network of the VM: none, or open: all public addresses")
	f.BoolVar(&o.Root, "root", false, "run the command as root of the VM")
	f.BoolVarP(&o.TTY, "tty", "t", false, "give the command a terminal, although stdout is none")
	f.BoolVarP(&o.NoTTY, "no-tty", "T", false, "give the command no terminal")
	f.BoolVar(&o.Timings, "timings", false, "print how long each step took, on stderr")
	f.BoolVar(&o.Debug, "debug", false, "print what the VM's console and the network report, on stderr")
	_ = c.RegisterFlagCompletionFunc("template", a.CompleteTemplate)
	_ = c.RegisterFlagCompletionFunc("workspace", cli.Fixed("rw", "ro", "none"))
	_ = c.RegisterFlagCompletionFunc("net", cli.Fixed("none", "open"))
	f.StringArrayVar(&o.Sensitive, "allow-sensitive", nil, "give the VM this `FOLDER` although it is sensitive")
	return c
}

// status turns the exit status of a command in a VM into the result of a run.
func status(code int, err error) error {
	if err != nil || code == 0 {
		return err
	}
	return ui.Status(code)
}

// command returns the words after "--". Words before it would name an agent.
func (a Verbs) command(c *cobra.Command, args []string) ([]string, error) {
	n := c.ArgsLenAtDash()
	switch {
	case n == 0 && len(args) == 0:
		return nil, ui.Usage("there is no command after --").Hint(ui.Cmd(c.CommandPath() + " --help"))
	case n == 0 || len(args) == 0:
		return args, nil
	}
	line, ok := a.CommandHint(c)
	if !ok {
		line = c.CommandPath() + " -- " + strings.Join(quoted(args), " ")
	}
	return nil, ui.Usage("there is no agent named %s", cli.QuoteWord(args[0])).Hint(ui.CmdFor("did you mean?", line))
}

func quoted(words []string) []string {
	var out []string
	for _, w := range words {
		out = append(out, cli.QuoteWord(w))
	}
	return out
}
