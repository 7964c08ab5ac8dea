// Package cli holds what the commands share: the global flags, the flags and arguments
// that several commands take, the provision.Env of the run, and the printing of results
// and dry runs.
package cli
