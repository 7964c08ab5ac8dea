package vm

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/provision"
)

// Cmd builds "aivm vm". others are subcommands that also exist without "vm".
func (a Verbs) Cmd(others ...*cobra.Command) *cobra.Command {
	return cli.Group("vm", "Create, start, stop and delete VMs", `  aivm vm create work
  aivm vm down work
`, append([]*cobra.Command{
		a.vmCreateCmd(), a.vmUpCmd(), a.vmDownCmd(), a.vmRestartCmd(), a.vmPrepareCmd(), a.vmDeleteCmd("delete"), a.vmDeleteCmd("destroy"),
		a.vmSnapshotCmd(), a.vmSnapshotsCmd(), a.vmRollbackCmd(), a.vmSnapshotDeleteCmd(), a.vmAdoptCmd(),
		a.vmStatusCmd(), a.vmWaitIPCmd(), a.vmSSHConfigCmd(), a.vmSyncSettingsCmd(),
	}, others...)...)
}

// showVM prints the result of a command about a VM.
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
			a.UI.Result("VM %s was already deleted by another process", r.VM)
		case provision.Adopted:
			a.UI.Result("VM %s is adopted (ssh %s)", r.VM, r.Alias)
		case provision.AdoptedBefore:
			a.UI.Result("VM %s is already adopted", r.VM)
		}
	})
}

func (a Verbs) vmCreateCmd() *cobra.Command {
	var o provision.CreateOptions
	c := a.VMVerb("create", "Create a VM", `Create a VM, start it and wait until it can be used. Without a name, it gets the one in
defaults.vm.name of the config. Sizes that are not given come from the config, or are
chosen to fit this machine.

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
	f.IntVar(&o.Size.DiskGB, "disk-gb", 0, "maximum size of the disk in GB")
	f.BoolVar(&o.SetDefault, "set-default", false, "make it the active VM: the one commands use when none is named")
	f.Lookup("vm").Usage = "name of the VM, instead of the argument"
	a.GuardFlags(c)
	a.RecreateFlags(c, "force")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmUpCmd() *cobra.Command {
	c := a.VMVerb("up", "Start a VM", `Start a VM and wait until it can be used. If its creation was interrupted, it is
completed first. If cpus or ram_mb were changed in the config, the VM gets them, after
a question.

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
	c := a.VMVerb("down", "Stop a VM", `Shut a VM down and wait until it is off. If an ssh session or an editor is connected
to it, you are asked.

Examples:
  aivm vm down
  aivm vm down work --force    switch it off without shutting down
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Down(ctx, name, force))
	})
	c.Flags().BoolVar(&force, "force", false, forceOffUsage)
	a.DryRunFlag(c)
	return c
}

// forceOffUsage is the description of --force of down and restart.
const forceOffUsage = "switch the VM off at once; data not yet written to its disk is lost"

func (a Verbs) vmRestartCmd() *cobra.Command {
	var force bool
	c := a.VMVerb("restart", "Stop a VM and start it again", `Shut a VM down, start it again and wait until it can be used. If cpus or ram_mb were
changed in the config, the VM gets them, after a question. If an ssh session or an
editor is connected to it, you are asked too.

Examples:
  aivm vm restart
  aivm vm restart work --force
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Restart(ctx, name, force))
	})
	a.GuardFlags(c)
	c.Flags().BoolVar(&force, "force", false, forceOffUsage)
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmDeleteCmd(use string) *cobra.Command {
	var discard bool
	c := a.VMVerb(use, "Delete a VM and its disk", `Delete a VM: its disk with all snapshots, its address reservation and its SSH alias.
Folders on this machine, the image cache and the network are kept. You are asked to
type the VM's name; "NAME --yes" on the command line answers that.

If the VM has clones (folders in git mode), their commits are fetched first. What
exists only in the clones is listed: uncommitted files, stashes, tags. With --yes,
such a VM is not deleted, and neither is one whose clones cannot be checked because
it is off. --discard-work deletes the VM without checking its clones.

Examples:
  aivm vm delete work
  aivm vm delete work --yes
  aivm vm delete work --yes --discard-work
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Delete(ctx, provision.DeleteOptions{Name: name, Typed: a.Yes && name != "", DiscardWork: discard}))
	})
	c.Flags().BoolVar(&discard, "discard-work", false, "do not check the VM's clones; what exists only there is lost")
	c.Hidden = use != "delete"
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmWaitIPCmd() *cobra.Command {
	var seconds int
	c := a.VMVerb("wait-ip", "Wait until a VM can be reached and print its address", `Wait until a VM can be reached over SSH and print its IP address. The VM is not
started.

Examples:
  aivm vm wait-ip
  aivm vm wait-ip work --timeout 60
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.WaitIP(ctx, name, time.Duration(seconds)*time.Second))
	})
	c.Flags().IntVar(&seconds, "timeout", 360, "seconds to wait at most")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) vmSSHConfigCmd() *cobra.Command {
	return a.VMVerb("ssh-config", "Print the SSH configuration of a VM", `Print the "Host" block of a VM for ssh. aivm adds it to your SSH configuration itself;
this is for a configuration file that aivm cannot edit.

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
	c := a.VMVerb("status", "Show the state of a VM", `Show the state of a VM and of what it needs: packages, libvirt, network, firewall, SSH
and folders. Nothing is changed.

Examples:
  aivm vm status
  aivm vm status work --json
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.PrintStatus(ctx, e, name, sudo, detail)
	})
	cli.StatusFlags(c, &sudo, &detail)
	return c
}
