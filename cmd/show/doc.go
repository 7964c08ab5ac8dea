// Package show implements the commands that only show something: status, list, editors.
package show

import "aivm.dev/aivm/cmd/cli"

// Verbs builds these commands.
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
