// Package cli is what the commands share: the flags of every command, the world of
// the run, the words that several commands take, and how a result or a dry run is
// printed.
package cli
