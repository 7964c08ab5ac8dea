// Package setup implements "aivm setup", which builds the templates of one-shot VMs.
package setup

import "aivm.dev/aivm/cmd/cli"

// Verbs builds the command.
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
