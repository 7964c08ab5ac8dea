// Package clones is git mode: the clone of a repository in a VM, the remote that
// names it, what is pushed, fetched and pulled, and what only a clone has.
package clones

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
