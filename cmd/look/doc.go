// Package look has the commands that only look: status, list, editors.
package look

import "aivm.dev/aivm/cmd/cli"

// Verbs are the commands of this noun.
type Verbs struct{ *cli.App }

// For returns them for a run.
func For(a *cli.App) Verbs { return Verbs{a} }
