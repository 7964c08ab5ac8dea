package cmd

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

func (a *app) vmCmd() *cobra.Command {
	return group("vm", "Make, start, stop and delete VMs", `  aivm vm create work
  aivm vm down work
`, a.vmCreateCmd(), a.vmUpCmd(), a.vmDownCmd(), a.vmRestartCmd(), a.vmPrepareCmd(), a.vmDeleteCmd("delete"), a.vmDeleteCmd("destroy"),
		a.vmSnapshotCmd(), a.vmSnapshotsCmd(), a.vmRollbackCmd(), a.vmSnapshotDeleteCmd(), a.vmAdoptCmd(),
		a.vmStatusCmd(), a.vmWaitIPCmd(), a.vmSSHConfigCmd(), a.vmSyncSettingsCmd(), a.sshCmd(), a.codeCmd(), a.attachCmd(), a.detachCmd(), a.vmListCmd())
}

// vmVerb declares a verb about one VM: its name as the argument or as --vm.
func (a *app) vmVerb(use, short, long string, run func(context.Context, *provision.Env, string) error) *cobra.Command {
	var flag string
	c := &cobra.Command{
		Use: use + " [name]", Short: short, Long: long + exitStatuses, ValidArgsFunction: a.completeVM,
		RunE: func(c *cobra.Command, args []string) error {
			name, err := oneName(args, flag)
			if err != nil {
				return err
			}
			e, err := a.provision(use)
			if err != nil {
				return err
			}
			return run(c.Context(), e, name)
		},
	}
	a.vmFlag(c, &flag, "the VM")
	return c
}

// showVM prints what a verb about a VM came to.
func (a *app) showVM(r provision.VMResult, err error) error {
	return a.show(r, err, func() {
		switch r.Outcome {
		case provision.Started:
			a.ui.Result("VM %s is up at %s (ssh %s)", r.VM, r.Address, r.Alias)
			a.ui.Say("%s", r.Timing.Line())
		case provision.Stopped:
			a.ui.Result("VM %s is off", r.VM)
		case provision.WasOff:
			a.ui.Result("VM %s is not running", r.VM)
		case provision.Answers:
			a.ui.Result("%s", r.Address)
		case provision.Deleted:
			a.ui.Result("VM %s is deleted; the network %s stays", r.VM, r.Network)
		case provision.WasDeleted:
			a.ui.Result("VM %s was deleted meanwhile", r.VM)
		case provision.Adopted:
			a.ui.Result("VM %s is aivm's now (ssh %s)", r.VM, r.Alias)
		case provision.AdoptedBefore:
			a.ui.Result("VM %s is aivm's already", r.VM)
		}
	})
}

func oneName(args []string, flag string) (string, error) {
	switch {
	case len(args) == 1 && args[0] == "":
		return "", ui.Usage("%w", errEmptyName).Hint("aivm list")
	case len(args) > 1:
		return "", ui.Usage("one VM at a time, not %d", len(args))
	case len(args) == 1 && flag != "" && flag != args[0]:
		return "", ui.Usage("two VMs are named: %s and --vm %s", quoteWord(args[0]), quoteWord(flag))
	case len(args) == 1:
		return args[0], nil
	}
	return flag, nil
}

func (a *app) vmCreateCmd() *cobra.Command {
	var o provision.CreateOptions
	c := a.vmVerb("create", "Make a VM", `Make a VM and wait until it can be used. Sizes that are not given come from the
config, or are chosen from this machine.

Examples:
  aivm vm create work --cpus 4 --ram-mb 8192
  aivm vm create --image ./mine.qcow2
`, func(ctx context.Context, e *provision.Env, name string) error {
		o.Name = name
		return a.showVM(e.Create(ctx, o))
	})
	f := c.Flags()
	a.imageFlag(c, &o.Image, imageUsage)
	f.IntVar(&o.Size.CPUs, "cpus", 0, "number of CPUs")
	f.IntVar(&o.Size.RAMMB, "ram-mb", 0, "memory in MB")
	f.IntVar(&o.Size.DiskGB, "disk-gb", 0, "size of the disk in GB")
	f.BoolVar(&o.SetDefault, "set-default", false, "make it the VM that is used where nothing else is said")
	a.guardFlags(c)
	a.recreateFlags(c, "force")
	a.dryRunFlag(c)
	return c
}

func (a *app) vmUpCmd() *cobra.Command {
	c := a.vmVerb("up", "Start a VM", `Start a VM and wait until it can be used. One that was defined half-way is finished.

Examples:
  aivm vm up
  aivm vm up work
`, func(ctx context.Context, e *provision.Env, name string) error { return a.showVM(e.Up(ctx, name)) })
	a.guardFlags(c)
	a.recreateFlags(c, "recreate")
	a.dryRunFlag(c)
	return c
}

func (a *app) vmDownCmd() *cobra.Command {
	var force bool
	c := a.vmVerb("down", "Stop a VM", `Shut a VM down and wait until it is off.

Examples:
  aivm vm down
  aivm vm down work --force    pull the plug
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Down(ctx, name, force))
	})
	c.Flags().BoolVar(&force, "force", false, "switch it off at once; what is not written is lost")
	a.dryRunFlag(c)
	return c
}

func (a *app) vmRestartCmd() *cobra.Command {
	var force bool
	c := a.vmVerb("restart", "Stop a VM and start it again", `Shut a VM down, start it and wait until it can be used.

Examples:
  aivm vm restart
  aivm vm restart work --force
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Restart(ctx, name, force))
	})
	a.guardFlags(c)
	c.Flags().BoolVar(&force, "force", false, "switch it off at once; what is not written is lost")
	a.dryRunFlag(c)
	return c
}

func (a *app) vmDeleteCmd(use string) *cobra.Command {
	var discard bool
	c := a.vmVerb(use, "Delete a VM with its disk", `Delete a VM: its disk, its addresses and SSH entry. Folders of this machine, the
image cache and the network stay. The name has to be typed; "NAME --yes" on the
command line counts as that.

If the VM has clones (folders in git mode), what was committed there is fetched
first. What else only they have is named: files that are not committed, stashes,
tags. With --yes such a VM is not deleted, nor one that is off and cannot be
asked, unless --discard-work gives all of that up without asking the VM.

Examples:
  aivm vm delete work
  aivm vm delete work --yes
  aivm vm delete work --yes --discard-work
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Delete(ctx, provision.DeleteOptions{Name: name, Typed: a.yes && name != "", DiscardWork: discard}))
	})
	c.Flags().BoolVar(&discard, "discard-work", false, "give up what only the VM's clones have, without asking the VM")
	c.Hidden = use != "delete"
	a.dryRunFlag(c)
	return c
}

func (a *app) vmWaitIPCmd() *cobra.Command {
	var seconds int
	c := a.vmVerb("wait-ip", "Wait until a VM answers and print its address", `Wait until a VM answers over SSH and print its address.

Examples:
  aivm vm wait-ip
  aivm vm wait-ip work --timeout 60
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.WaitIP(ctx, name, time.Duration(seconds)*time.Second))
	})
	c.Flags().IntVar(&seconds, "timeout", 360, "how many seconds to wait")
	a.dryRunFlag(c)
	return c
}

func (a *app) vmSSHConfigCmd() *cobra.Command {
	return a.vmVerb("ssh-config", "Print the SSH entry of a VM", `Print the SSH entry of a VM, for a configuration aivm cannot edit.

Examples:
  aivm vm ssh-config
  aivm vm ssh-config work >> my_config
`, func(ctx context.Context, e *provision.Env, name string) error {
		r, err := e.SSHConfig(ctx, name)
		return a.show(r, err, func() { _, _ = io.WriteString(a.ui.Out, r.Text) })
	})
}

func (a *app) vmStatusCmd() *cobra.Command {
	var sudo, detail bool
	c := a.vmVerb("status", "Show the state of a VM", `Show the state of a VM and of what it needs.

Examples:
  aivm vm status
  aivm vm status work --json
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.printStatus(ctx, e, name, sudo, detail)
	})
	statusFlags(c, &sudo, &detail)
	return c
}
