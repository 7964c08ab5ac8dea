// Package git has the commands that move commits between a repository and its
// clone in a VM: aivm git.
package git

import "aivm.dev/aivm/cmd/cli"

// Verbs are the commands of this noun.
type Verbs struct{ *cli.App }

// For returns them for a run.
func For(a *cli.App) Verbs { return Verbs{a} }
