// Package folder has the commands about a folder of this machine: code, ssh,
// attach, detach.
package folder

import "aivm.dev/aivm/cmd/cli"

// Verbs are the commands of this noun.
type Verbs struct{ *cli.App }

// For returns them for a run.
func For(a *cli.App) Verbs { return Verbs{a} }
