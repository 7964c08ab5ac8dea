// Package folder implements the commands about a folder of the host: code, ssh, attach,
// detach.
package folder

import "aivm.dev/aivm/cmd/cli"

// Verbs builds these commands.
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
