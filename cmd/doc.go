// Package cmd is the command line: flags -> options -> one call into provision ->
// what is printed. The commands are in packages by noun (vm, folder, host, image,
// git, config, look), what they share in cli. It holds no logic of its own and
// touches nothing outside the process, except to build provision.Env.
package cmd

import "aivm.dev/aivm/cmd/cli"

type app struct{ *cli.App }
