// Package legacy03 has what only VMs made by aivm 0.3 need: adopting them, opening a shell in
// one that is not adopted, and deleting the files of 0.3.
package legacy03

import "aivm.dev/aivm/provision/loop"

// Part has the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
