package vm

import (
	"context"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/provision"
)

func (a Verbs) vmAdoptCmd() *cobra.Command {
	var key string
	c := a.VMVerb("adopt", "Take over a VM that aivm 0.3 made", `Take over a VM that aivm 0.3 made and the config names. What it is, its disk first,
is shown before. It gets aivm's mark, a fixed address and aivm's SSH entry; its
folders move to aivm's share at its next stop. Its host key is the one your
known_hosts has; if there is none, its fingerprint has to be confirmed.

Examples:
  aivm vm adopt aivm-2404 --dry-run
  aivm vm adopt aivm-2404
`, func(ctx context.Context, e *provision.Env, name string) error {
		return a.showVM(e.Adopt(ctx, provision.AdoptOptions{Name: name, HostKey: key}))
	})
	c.Flags().StringVar(&key, "host-key", "", "the fingerprint of its host key, SHA256:..., if you know it")
	a.DryRunFlag(c)
	return c
}
