package vm

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/provision"
)

// Cmd is `aivm vm`. others are verbs that are also known without "vm".
func (a Verbs) Cmd(others ...*cobra.Command) *cobra.Command {
	return cli.Group("vm", "Make, start, stop and delete VMs", `  aivm vm create work
  aivm vm down work
`, append([]*cobra.Command{
		a.vmCreateCmd(), a.vmUpCmd(), a.vmDownCmd(), a.vmRestartCmd(), a.vmPrepareCmd(), a.vmDeleteCmd("delete"), a.vmDeleteCmd("destroy"),
		a.vmSnapshotCmd(), a.vmSnapshotsCmd(), a.vmRollbackCmd(), a.vmSnapshotDeleteCmd(), a.vmAdoptCmd(),
		a.vmStatusCmd(), a.vmWaitIPCmd(), a.vmSSHConfigCmd(), a.vmSyncSettingsCmd(),
	}, others...)...)
}

// showVM prints what a verb about a VM came to.
func (a Verbs) showVM(r provision.VMResult, err error) error {
	return a.Show(r, err, func() {
		switch r.Outcome {
		case provision.Started:
			a.UI.Result("VM %s is up at %s (ssh %s)", r.VM, r.Address, r.Alias)
			a.UI.Say("%s", r.Timing.Line())
		case provision.Stopped:
			a.UI.Result("VM %s is off", r.VM)
		case provision.WasOff:
			a.UI.Result("VM %s is not running", r.VM)
		case provision.Answers:
			a.UI.Result("%s", r.Address)
		case provision.Deleted:
			a.UI.Result("VM %s is deleted; the network %s stays", r.VM, r.Network)
		case provision.WasDeleted:
			a.UI.Result("VM %s was deleted meanwhile", r.VM)
		case provision.Adopted:
			a.UI.Result("VM %s is aivm's now (ssh %s)", r.VM, r.Alias)
		case provision.AdoptedBefore:
			a.UI.Result("VM %s is aivm's already", r.VM)
		}
	})
}

func (a Verbs) vmCreateCmd() *cobra.Command {
	var o provision.CreateOptions
	c := a.VMVerb("create", "Make a VM", `Make a VM and wait until it can be used. Sizes that are not given come from the
config, or are chosen from this machine.

Examples:
  aivm vm create work --cpus 4 --ram-mb 8192
  aivm vm create --image ./mine.qcow2
`, func(ctx context.Context, e *provision.Env, name string) error {
		o.Name = name
		return a.showVM(e.Create(ctx, o))
	})
	f := c.Flags()
	a.ImageFlag(c, &o.Image, cli.ImageUsage)
	f.IntVar(&o.Size.CPUs, "cpus", 0, "number of CPUs")
	f.IntVar(&o.Size.RAMMB, "ram-mb", 0, "memory in MB")
	f.IntVar(&o.Size.DiskGB, "disk-gb", 0, "size of the disk in GB")
	f.BoolVar(&o.SetDefault, "set-default", false, "make it the VM that is used where nothing else is said")
	a.GuardFlags(c)
	a.RecreateFlags(c, "force")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmUpCmd() *cobra.Command {
	c := a.VMVerb("up", "Start a VM", `Start a VM and wait until it can be used. One that was defined half-way is finished.

Examples:
  aivm vm up
  aivm vm up work
`, func(ctx context.Context, e *provision.Env, name string) error { return a.showVM(e.Up(ctx, name)) })
	a.GuardFlags(c)
	a.RecreateFlags(c, "recreate")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmDownCmd() *cobra.Command {
	var force bool
	c := a.VMVerb("down", "Stop a VM", `Shut a VM down and wait until it is off.

Examples:
  aivm vm down
  aivm vm down work --force    pull the plug
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Down(ctx, name, force))
	})
	c.Flags().BoolVar(&force, "force", false, "switch it off at once; what is not written is lost")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmRestartCmd() *cobra.Command {
	var force bool
	c := a.VMVerb("restart", "Stop a VM and start it again", `Shut a VM down, start it and wait until it can be used.

Examples:
  aivm vm restart
  aivm vm restart work --force
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Restart(ctx, name, force))
	})
	a.GuardFlags(c)
	c.Flags().BoolVar(&force, "force", false, "switch it off at once; what is not written is lost")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmDeleteCmd(use string) *cobra.Command {
	var discard bool
	c := a.VMVerb(use, "Delete a VM with its disk", `Delete a VM: its disk, its addresses and SSH entry. Folders of this machine, the
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
		return a.showVM(e.Delete(ctx, provision.DeleteOptions{Name: name, Typed: a.Yes && name != "", DiscardWork: discard}))
	})
	c.Flags().BoolVar(&discard, "discard-work", false, "give up what only the VM's clones have, without asking the VM")
	c.Hidden = use != "delete"
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmWaitIPCmd() *cobra.Command {
	var seconds int
	c := a.VMVerb("wait-ip", "Wait until a VM answers and print its address", `Wait until a VM answers over SSH and print its address.

Examples:
  aivm vm wait-ip
  aivm vm wait-ip work --timeout 60
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.WaitIP(ctx, name, time.Duration(seconds)*time.Second))
	})
	c.Flags().IntVar(&seconds, "timeout", 360, "how many seconds to wait")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmSSHConfigCmd() *cobra.Command {
	return a.VMVerb("ssh-config", "Print the SSH entry of a VM", `Print the SSH entry of a VM, for a configuration aivm cannot edit.

Examples:
  aivm vm ssh-config
  aivm vm ssh-config work >> my_config
`, func(ctx context.Context, e *provision.Env, name string) error {
		r, err := e.SSHConfig(ctx, name)
		return a.Show(r, err, func() { _, _ = io.WriteString(a.UI.Out, r.Text) })
	})
}

func (a Verbs) vmStatusCmd() *cobra.Command {
	var sudo, detail bool
	c := a.VMVerb("status", "Show the state of a VM", `Show the state of a VM and of what it needs.

Examples:
  aivm vm status
  aivm vm status work --json
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.PrintStatus(ctx, e, name, sudo, detail)
	})
	cli.StatusFlags(c, &sudo, &detail)
	return c
}
