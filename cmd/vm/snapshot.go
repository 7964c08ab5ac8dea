package vm

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// snapshotVerb builds a command about one snapshot of a VM. needsName makes the
// snapshot's name a required argument.
func (a Verbs) snapshotVerb(use, short, long string, needsName bool, run func(context.Context, *provision.Env, provision.SnapshotOptions) error) *cobra.Command {
	var o provision.SnapshotOptions
	arg := " [name]"
	if needsName {
		arg = " name"
	}
	c := &cobra.Command{
		Use: use + arg, Short: short, Long: long + cli.ExitStatuses,
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if !needsName || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeSnapshot(c, o.VM)
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return ui.Usage("%d snapshots are given: one at a time; to choose a VM, use --vm", len(args))
			case len(args) == 1 && args[0] == "", needsName && len(args) == 0:
				return ui.Usage("the name of the snapshot is missing").Hint(ui.CmdFor("to list the snapshots", "aivm vm snapshots"), ui.Cmd(c.CommandPath()+" NAME"))
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
	a.VMFlag(c, &o.VM, cli.VMUsage)
	c.Flags().BoolVar(&o.StayOff, "stay-off", false, "if the VM has to be stopped, do not start it again")
	a.DryRunFlag(c)
	return c
}

// completionLimit is how long a person who pressed Tab waits for libvirt.
const completionLimit = time.Second

// completeSnapshot offers the snapshots of a VM, newest first.
func (a Verbs) completeSnapshot(c *cobra.Command, vm string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	e, err := a.Provision("complete")
	if err != nil {
		return nil, directive
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
	defer cancel()
	names, times := e.SnapshotNames(ctx, vm)
	for i, at := range times {
		if at != "" {
			names[i] = cobra.CompletionWithDesc(names[i], at)
		}
	}
	return names, directive
}

func (a Verbs) vmSnapshotCmd() *cobra.Command {
	return a.snapshotVerb("snapshot", "Save the state of a VM's disk", `Save the present state of a VM's disk as a snapshot, to which "aivm vm rollback" can
return. Without a name, the snapshot is named after the time. The VM has to be off for
a moment: a running VM is stopped, after a question, and started again. Shared folders
are on this machine and not part of the snapshot.

Examples:
  aivm vm snapshot before-upgrade
  aivm vm snapshot clean --vm work --yes
`, false, func(ctx context.Context, e *provision.Env, o provision.SnapshotOptions) error {
		r, err := e.Snapshot(ctx, o)
		return a.Show(r, err, func() {
			a.UI.Result("Saved snapshot %s of VM %s; to return to it: aivm vm rollback %s --vm %s", r.Snapshot, r.VM, r.Snapshot, r.VM)
			a.sayNotInSnapshot(r)
		})
	})
}

func (a Verbs) vmRollbackCmd() *cobra.Command {
	return a.snapshotVerb("rollback", "Return a VM's disk to a snapshot", `Return a VM's disk to the state saved in a snapshot. The present state is saved
first, as snapshot before-rollback-TIME, so nothing is lost. Shared folders do not
change. A running VM is stopped, after a question, and started again.

Examples:
  aivm vm rollback before-upgrade
  aivm vm rollback clean --vm work --yes
`, true, func(ctx context.Context, e *provision.Env, o provision.SnapshotOptions) error {
		r, err := e.Rollback(ctx, o)
		return a.Show(r, err, func() {
			switch {
			case !r.Changed:
				a.UI.Result("The disk of VM %s is already as in snapshot %s", r.VM, r.Snapshot)
			case r.Kept == "":
				a.UI.Result("VM %s is back at snapshot %s", r.VM, r.Snapshot)
			default:
				a.UI.Result("VM %s is back at snapshot %s; its state before is saved as %s", r.VM, r.Snapshot, r.Kept)
			}
			a.sayNotInSnapshot(r)
		})
	})
}

func (a Verbs) vmSnapshotDeleteCmd() *cobra.Command {
	return a.snapshotVerb("snapshot-delete", "Delete a snapshot of a VM", `Delete a snapshot of a VM and free the disk space that only it uses. The VM's present
disk and its other snapshots do not change.

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

// sayNotInSnapshot prints what a snapshot does not include, and that the VM is off.
func (a Verbs) sayNotInSnapshot(r provision.SnapshotResult) {
	if r.Changed {
		a.UI.Say("Not in the snapshot: %s", strings.Join(r.NotInIt, "; "))
	}
	a.sayOff(r)
}

// sayOff prints that the VM is off and the command to start it.
func (a Verbs) sayOff(r provision.SnapshotResult) {
	if r.State == "off" {
		a.UI.Say("The VM is off; to start it: aivm vm up %s", r.VM)
	}
}

func (a Verbs) vmSnapshotsCmd() *cobra.Command {
	return a.VMVerb("snapshots", "List the snapshots of a VM", `List the snapshots of a VM as a tree, with the disk space that only each of them uses,
and the size of the VM's disk on this machine.

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
