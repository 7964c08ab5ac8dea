// Package cmd implements the command line. Each command parses flags into options,
// makes one call into provision and prints the result. There is one package per noun
// (vm, folder, host, image, git, config, show); package cli holds what they share.
// The commands contain no logic of their own; config edit, which runs a text editor,
// is the only one that acts on the host without provision.
package cmd

import "aivm.dev/aivm/cmd/cli"

type app struct{ *cli.App }
