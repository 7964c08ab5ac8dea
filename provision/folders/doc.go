// Package folders attaches host folders to a VM and detaches them. It plans the
// host's mounts, the guest's mounts and the virtiofs devices, and watches the
// host-executed files of folders that a guest can write.
package folders

import "aivm.dev/aivm/provision/loop"

// Part has the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
