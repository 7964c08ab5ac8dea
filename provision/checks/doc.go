// Package checks judges what was seen of this machine and of a VM, for status,
// list and doctor.
package checks

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
