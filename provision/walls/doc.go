// Package walls plans the networks of VMs and the firewall rules in front of
// them, and says how they are.
package walls

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
