// Package walls plans the networks of VMs and their firewall rules, and reports the state
// of both.
package walls

import "aivm.dev/aivm/provision/loop"

// Part has the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
