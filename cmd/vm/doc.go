// Package vm implements "aivm vm", the commands about one VM.
package vm

import "aivm.dev/aivm/cmd/cli"

// Verbs builds the commands of "aivm vm".
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
