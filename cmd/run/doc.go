// Package run has the commands about one-shot VMs: run, runs and the commands below it.
//
// It turns flags into the options of one call of provision and prints what that returns. Invariants:
// "aivm run" and "aivm runs exec" write nothing to stdout, which belongs to the command in the VM, and
// every failure of aivm's own has the exit status 255.
package run

import "aivm.dev/aivm/cmd/cli"

// Verbs builds the commands.
type Verbs struct{ *cli.App }

// For returns the commands of a run of the program.
func For(a *cli.App) Verbs { return Verbs{a} }
