package vm

import (
	"context"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/provision"
)

func (a Verbs) vmPrepareCmd() *cobra.Command {
	var o provision.PrepareOptions
	c := a.VMVerb("prepare", "Make an image from a VM, to create others like it", `Make an image from a VM. VMs created from the image have everything installed that
this VM has, and their first start takes about half the time.

The VM is off while the image is made: a running one is shut down and started again at
the end. Its own disk does not change. A copy of the disk is booted once to remove the
machine ID, SSH host keys, authorized login keys, cloud-init's state, logs and aivm's
files. Everything else on the disk becomes part of the image, including all files in
the home directory.

Examples:
  aivm vm prepare work --as tools
  aivm vm create next --image tools
`, func(ctx context.Context, e *provision.Env, name string) error {
		o.Name = name
		r, err := e.Prepare(ctx, o)
		return a.Show(r, err, func() {
			a.UI.Result("made image %s from VM %s (%d MB); to use it: aivm vm create NAME --image %s", r.Image, r.VM, r.Size>>20, r.Image)
			a.UI.Say("%s", r.Timing.Line())
		})
	})
	c.Flags().StringVar(&o.As, "as", "", "`NAME` of the new image")
	c.Flags().BoolVar(&o.Replace, "replace", false, "replace an existing image of that name; VMs made from the old one keep it")
	a.DryRunFlag(c)
	return c
}
