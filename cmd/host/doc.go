// Package host implements "aivm host", the commands about the host itself.
package host

import "aivm.dev/aivm/cmd/cli"

// Verbs builds the commands of "aivm host".
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
