// Package vm has the commands about one VM: aivm vm.
package vm

import "aivm.dev/aivm/cmd/cli"

// Verbs are the commands of this noun.
type Verbs struct{ *cli.App }

// For returns them for a run.
func For(a *cli.App) Verbs { return Verbs{a} }
