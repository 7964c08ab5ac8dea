package cmd

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/ui"
)

func (a *app) hostCmd() *cobra.Command {
	return group("host", "Look at and prepare this machine", `  aivm host doctor
  aivm host install-deps
`, a.hostDoctorCmd(), a.hostInstallDepsCmd(), a.imageFetchCmd("image-fetch"))
}

func (a *app) hostInstallDepsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "install-deps", Short: "Install the packages VMs need", Args: noArgs,
		Long: `Install the packages VMs need: QEMU, libvirt, virtiofsd, the tools for networks,
and, on Debian and Ubuntu, those that build a guest image. With apt, dnf, pacman
or zypper; elsewhere their names are printed. "aivm code ." does it as well.

Examples:
  aivm host install-deps --dry-run
  aivm host install-deps --yes
` + exitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.provision("install-deps")
			if err != nil {
				return err
			}
			return e.InstallDeps(c.Context())
		},
	}
	a.dryRunFlag(c)
	return c
}

func (a *app) hostDoctorCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run VMs", Args: noArgs,
		Long: `Check whether this machine can run VMs: programs, daemons, KVM, kernel, memory,
disk, ssh. Each line says what was seen, and what would mend it.

Examples:
  aivm host doctor
  aivm host doctor --json

Exit status: 0 all is well; 1 wrong usage; 2 something is bad.`,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.provision("doctor")
			if err != nil {
				return err
			}
			st := e.Doctor(c.Context())
			if a.ui.JSON {
				err = a.ui.PrintJSON(st)
			} else {
				a.printChecks(st.Checks)
				a.ui.Result("📊 Progress: %d/%d checks complete", st.Done, st.Total)
			}
			if err == nil && st.Done < st.Total {
				return ui.Status(ui.ExitRefused)
			}
			return err
		},
	}
	return c
}
