package host

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Cmd is `aivm host`. others are verbs that are also known without "host".
func (a Verbs) Cmd(others ...*cobra.Command) *cobra.Command {
	return cli.Group("host", "Look at and prepare this machine", `  aivm host doctor
  aivm host install-deps
`, append([]*cobra.Command{a.hostDoctorCmd(), a.hostInstallDepsCmd(), a.hostFirewallCmd(), a.hostNetCmd()}, others...)...)
}

func (a Verbs) hostInstallDepsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "install-deps", Short: "Install the packages VMs need", Args: cli.NoArgs,
		Long: `Install the packages VMs need: QEMU, libvirt, virtiofsd, the tools for networks,
and, on Debian and Ubuntu, those that build a guest image. With apt, dnf, pacman
or zypper; elsewhere their names are printed. "aivm code ." does it as well.

Examples:
  aivm host install-deps --dry-run
  aivm host install-deps --yes
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.Provision("install-deps")
			if err != nil {
				return err
			}
			r, err := e.InstallDeps(c.Context())
			return a.Show(r, err, func() {
				if !r.Changed {
					a.UI.Result("Everything is installed.")
					return
				}
				a.UI.Result("Installed. To see whether this machine can run VMs now: aivm host doctor")
			})
		},
	}
	a.DryRunFlag(c)
	return c
}

func (a Verbs) hostDoctorCmd() *cobra.Command {
	var o provision.DoctorOptions
	c := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run VMs, and mend it", Args: cli.NoArgs,
		Long: `Check whether this machine can run VMs and reach them: programs, daemons, KVM,
kernel, memory, disk, other firewalls, VPN, subnets, ssh and its configuration,
editors, clock. Each line says what was seen, and what would mend it; with -v
also where it was seen.

Nothing is changed without --fix, and nothing done as root without --sudo: with
it, libvirt is asked through sudo where it refuses you, and the firewall's rules
are read. --fix does what can be mended without a person's judgement: it shows
the list and asks once.

Examples:
  aivm host doctor
  aivm host doctor --fix --dry-run
  aivm host doctor --sudo --json

Exit status: 0 all is well; 1 wrong usage; 2 something is bad; 3 --fix needs a
yes; 130 interrupted.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if a.DryRun && !o.Fix {
				return ui.Usage("--dry-run shows what --fix would do").Hint(ui.Cmd("aivm host doctor --fix --dry-run"))
			}
			e, err := a.Provision("doctor")
			if err != nil {
				return err
			}
			st, err := e.Doctor(c.Context(), o)
			if err != nil {
				return err
			}
			if a.UI.JSON {
				err = a.UI.PrintJSON(st)
			} else {
				a.printDiagnosis(st)
			}
			if err == nil && st.Done < st.Total {
				return ui.Status(ui.ExitRefused)
			}
			return err
		},
	}
	c.Flags().BoolVar(&o.Sudo, "sudo", false, "also look where only root can")
	c.Flags().BoolVar(&o.Fix, "fix", false, "mend what can be mended, after showing it")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) printDiagnosis(st provision.Diagnosis) {
	a.PrintChecks(st.Checks)
	a.UI.Result("📊 Progress: %d/%d checks complete", st.Done, st.Total)
	for _, s := range st.Fixed {
		a.UI.Say("Done: %s", s)
	}
	if len(st.Mends) > 0 {
		a.UI.Say("What aivm can mend: %s", strings.Join(st.Mends, "; "))
		a.UI.Say("To have it done: aivm host doctor --fix")
	}
}
