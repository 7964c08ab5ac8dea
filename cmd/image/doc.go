// Package image implements "aivm image", the commands about guest images.
package image

import "aivm.dev/aivm/cmd/cli"

// Verbs builds the commands of "aivm image".
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
