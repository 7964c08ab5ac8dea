// Package snapshots takes, lists and deletes snapshots of a VM's disk, rolls a disk back to one,
// and creates guest images from VMs.
package snapshots

import "aivm.dev/aivm/provision/loop"

// Part holds the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
