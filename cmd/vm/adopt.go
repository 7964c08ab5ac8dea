package vm

import (
	"context"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/provision"
)

func (a Verbs) vmAdoptCmd() *cobra.Command {
	var key string
	c := a.VMVerb("adopt", "Take over a VM created by aivm 0.3", `Take over a VM that was created by aivm 0.3 and is in the config. The VM and its disk
are shown before anything changes. aivm then marks the libvirt domain as its own,
reserves an address for the VM and writes an SSH alias. The VM's folders move to this
version's export directory the next time the VM stops. aivm pins the SSH host key that
your known_hosts has for the VM; if it has none, you are asked to confirm the
fingerprint.

Examples:
  aivm vm adopt aivm-2404 --dry-run
  aivm vm adopt aivm-2404
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Adopt(ctx, provision.AdoptOptions{Name: name, HostKey: key}))
	})
	c.Flags().StringVar(&key, "host-key", "", "expected fingerprint of the VM's SSH host key, SHA256:...")
	a.DryRunFlag(c)
	return c
}
