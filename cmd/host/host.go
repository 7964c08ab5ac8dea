package host

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Cmd builds "aivm host". others are further subcommands, from other packages.
func (a Verbs) Cmd(others ...*cobra.Command) *cobra.Command {
	return cli.Group("host", "Check and prepare this machine, its firewall and its networks", `  aivm host doctor
  aivm host install-deps
`, append([]*cobra.Command{a.hostDoctorCmd(), a.hostInstallDepsCmd(), a.hostFirewallCmd(), a.hostNetCmd()}, others...)...)
}

func (a Verbs) hostInstallDepsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "install-deps", Short: "Install the packages VMs need", Args: cli.NoArgs,
		Long: `Install the packages VMs need: QEMU, libvirt, virtiofsd, network tools and, on Debian
and Ubuntu, the tools that build a guest image. Works with apt, dnf, pacman and zypper;
on other systems the package names are printed. "aivm code ." does this too.

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
				a.UI.Result("Installed. To check whether this machine can run VMs: aivm host doctor")
			})
		},
	}
	a.DryRunFlag(c)
	return c
}

func (a Verbs) hostDoctorCmd() *cobra.Command {
	var o provision.DoctorOptions
	c := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run VMs, and fix problems", Args: cli.NoArgs,
		Long: `Check whether this machine can run VMs and reach them: programs, daemons, KVM,
kernel, memory, disk, other firewalls, VPN, subnets, ssh and its configuration,
editors, clock. Each line shows what was found and, if there is a problem, how to
fix it. With -v it also shows where each fact comes from.

Without --fix nothing is changed, and without --sudo nothing runs as root. With
--sudo, libvirt is queried through sudo if it refuses you, and the firewall rules
are read. --fix repairs what needs no decision by you; it shows the list and asks
once.

Examples:
  aivm host doctor
  aivm host doctor --fix --dry-run
  aivm host doctor --sudo --json

Exit status: 0 no problem found; 1 wrong usage; 2 a check failed; 3 approval of --fix
missing or declined; 130 interrupted.`,
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
	c.Flags().BoolVar(&o.Sudo, "sudo", false, "also check what only root can read, with sudo")
	c.Flags().BoolVar(&o.Fix, "fix", false, "repair what can be repaired automatically, after asking")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) printDiagnosis(st provision.Diagnosis) {
	a.PrintChecks(st.Checks)
	a.UI.Result("📊 Progress: %d/%d checks complete", st.Done, st.Total)
	for _, s := range st.Fixed {
		a.UI.Say("Done: %s", s)
	}
	if len(st.Fixable) > 0 {
		a.UI.Say("aivm can fix: %s", strings.Join(st.Fixable, "; "))
		a.UI.Say("to fix it: aivm host doctor --fix")
	}
}
