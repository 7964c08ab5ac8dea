// Package snapshots keeps the disk of a VM and puts it back, and makes guest
// images of VMs.
package snapshots

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
