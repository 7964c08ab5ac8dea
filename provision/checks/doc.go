// Package checks turns facts about this machine and a VM into the checks of status, list and doctor.
package checks

import "aivm.dev/aivm/provision/loop"

// Part holds the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
