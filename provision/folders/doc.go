// Package folders attaches folders of this machine to a VM and detaches them:
// what is mounted for the VM, what the guest mounts, devices that are plugged
// in, and what this machine runs of a folder that a guest can write.
package folders

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
