// Package git implements "aivm git", the commands that push and fetch commits between a
// repository and its clone in a VM.
package git

import "aivm.dev/aivm/cmd/cli"

// Verbs builds the commands of "aivm git".
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
