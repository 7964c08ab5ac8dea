package vm

import (
	"context"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/provision"
)

func (a Verbs) vmPrepareCmd() *cobra.Command {
	var o provision.PrepareOptions
	c := a.VMVerb("prepare", "Make an image of a VM, for others like it", `Make an image of a VM: new VMs from it come with what is installed in it, and
start in about half the time. A copy of its disk is booted and cleaned: machine
id, host keys, the keys people log in with, the first boot's state, logs, aivm's
own files. All else on the disk is in the image, also what lies in the home.
The VM itself is shut down meanwhile, is not changed, and is started again.

Examples:
  aivm vm prepare work --as tools
  aivm vm create next --image tools
`, func(ctx context.Context, e *provision.Env, name string) error {
		o.Name = name
		r, err := e.Prepare(ctx, o)
		return a.Show(r, err, func() {
			a.UI.Result("image %s is made from VM %s (%d MB): aivm vm create NAME --image %s", r.Image, r.VM, r.Size>>20, r.Image)
			a.UI.Say("%s", r.Timing.Line())
		})
	})
	c.Flags().StringVar(&o.As, "as", "", "the `NAME` of the image")
	c.Flags().BoolVar(&o.Replace, "replace", false, "an image of that name may be there; VMs made from it keep it")
	a.DryRunFlag(c)
	return c
}
