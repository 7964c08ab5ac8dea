// Package config implements "aivm config", the commands about the config file.
package config

import "aivm.dev/aivm/cmd/cli"

// Verbs builds the commands of "aivm config".
type Verbs struct{ *cli.App }

// For returns the Verbs of a run.
func For(a *cli.App) Verbs { return Verbs{a} }
