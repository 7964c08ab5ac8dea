package vm

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// snapshotVerb declares a verb about one snapshot of a VM.
func (a Verbs) snapshotVerb(use, short, long string, must bool, run func(context.Context, *provision.Env, provision.SnapshotOptions) error) *cobra.Command {
	var o provision.SnapshotOptions
	arg := " [name]"
	if must {
		arg = " name"
	}
	c := &cobra.Command{
		Use: use + arg, Short: short, Long: long + cli.ExitStatuses,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return ui.Usage("one snapshot at a time, not %d; the VM is named with --vm", len(args))
			case len(args) == 1 && args[0] == "", must && len(args) == 0:
				return ui.Usage("which snapshot?").Hint(ui.Cmd("aivm vm snapshots"), ui.Cmd(c.CommandPath()+" NAME"))
			case len(args) == 1:
				o.Name = args[0]
			}
			e, err := a.Provision(use)
			if err != nil {
				return err
			}
			return run(c.Context(), e, o)
		},
	}
	a.VMFlag(c, &o.VM, "the VM")
	c.Flags().BoolVar(&o.StayOff, "stay-off", false, "do not start a VM again that was stopped for it")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmSnapshotCmd() *cobra.Command {
	return a.snapshotVerb("snapshot", "Keep the disk of a VM as it is now", `Keep the disk of a VM as it is now, under a name, so that it can be gone back to.
The VM has to be off for a moment: one that runs is stopped, after a question, and
started again. Shared folders lie on this machine and are not part of it.

Examples:
  aivm vm snapshot before-upgrade
  aivm vm snapshot clean --vm work --yes
`, false, func(ctx context.Context, e *provision.Env, o provision.SnapshotOptions) error {
		r, err := e.Snapshot(ctx, o)
		return a.Show(r, err, func() {
			a.UI.Result("Snapshot %s of VM %s is kept; to go back to it: aivm vm rollback %s --vm %s", r.Snapshot, r.VM, r.Snapshot, r.VM)
			a.sayNotInIt(r)
		})
	})
}

func (a Verbs) vmRollbackCmd() *cobra.Command {
	return a.snapshotVerb("rollback", "Put the disk of a VM back to a snapshot", `Put the disk of a VM back to a snapshot. What it is now is kept first, as snapshot
before-rollback-TIME, so that nothing is lost. Shared folders stay as they are.

Examples:
  aivm vm rollback before-upgrade
  aivm vm rollback clean --vm work --yes
`, true, func(ctx context.Context, e *provision.Env, o provision.SnapshotOptions) error {
		r, err := e.Rollback(ctx, o)
		return a.Show(r, err, func() {
			switch {
			case !r.Changed:
				a.UI.Result("The disk of VM %s is as in snapshot %s already", r.VM, r.Snapshot)
			case r.Kept == "":
				a.UI.Result("VM %s is back at snapshot %s", r.VM, r.Snapshot)
			default:
				a.UI.Result("VM %s is back at snapshot %s; what it was before is kept as %s", r.VM, r.Snapshot, r.Kept)
			}
			a.sayNotInIt(r)
		})
	})
}

func (a Verbs) vmSnapshotDeleteCmd() *cobra.Command {
	return a.snapshotVerb("snapshot-delete", "Delete a snapshot of a VM", `Delete a snapshot of a VM and give back what only it holds. The present and the
other snapshots stay as they are.

Examples:
  aivm vm snapshot-delete before-upgrade
  aivm vm snapshot-delete clean --vm work --yes
`, true, func(ctx context.Context, e *provision.Env, o provision.SnapshotOptions) error {
		r, err := e.SnapshotDelete(ctx, o)
		return a.Show(r, err, func() {
			a.UI.Result("Snapshot %s of VM %s is deleted", r.Snapshot, r.VM)
			a.sayOff(r)
		})
	})
}

// sayNotInIt says what a snapshot does not cover.
func (a Verbs) sayNotInIt(r provision.SnapshotResult) {
	if r.Changed {
		a.UI.Say("Not part of it: %s", strings.Join(r.NotInIt, "; "))
	}
	a.sayOff(r)
}

func (a Verbs) sayOff(r provision.SnapshotResult) {
	if r.State == "off" {
		a.UI.Say("The VM is off; to start it: aivm vm up %s", r.VM)
	}
}

func (a Verbs) vmSnapshotsCmd() *cobra.Command {
	return a.VMVerb("snapshots", "List the snapshots of a VM", `List the snapshots of a VM, what each holds that nothing else does, and what the
disk takes on this machine.

Examples:
  aivm vm snapshots
  aivm vm snapshots work --json
`, func(ctx context.Context, e *provision.Env, name string) error {
		l, err := e.SnapshotListing(ctx, name)
		if err != nil {
			return err
		}
		if a.UI.JSON {
			return a.UI.PrintJSON(l)
		}
		for _, line := range l.Tree() {
			a.UI.Result("%s", line)
		}
		return nil
	})
}
