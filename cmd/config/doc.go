// Package config has the commands about the config: aivm config.
package config

import "aivm.dev/aivm/cmd/cli"

// Verbs are the commands of this noun.
type Verbs struct{ *cli.App }

// For returns them for a run.
func For(a *cli.App) Verbs { return Verbs{a} }
