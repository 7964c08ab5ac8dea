// Package machine plans the parts of a VM's life that belong to no other part: its identity and
// state on this machine, its ssh entry, its record in the config, its clock.
package machine

import "aivm.dev/aivm/provision/loop"

// Part holds the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
