// Package clones implements git mode: the clone of a repository in a VM, its git remote, pushes,
// fetches and pulls, and what exists only in a clone.
package clones

import "aivm.dev/aivm/provision/loop"

// Part is the git mode part of a run.
type Part struct{ loop.Loop }

// For returns the git mode part of a run.
func For(l loop.Loop) Part { return Part{l} }
