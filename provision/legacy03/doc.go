// Package legacy03 is what only VMs that aivm 0.3 made need: taking them over,
// getting into one that was not, and deleting what 0.3 left.
package legacy03

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
