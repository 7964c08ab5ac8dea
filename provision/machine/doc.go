// Package machine is the life of a VM: its identity and state on this machine,
// its ssh entry and record, its clock.
package machine

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
