// Package settings brings the settings and extensions of the editor, and other
// files the person chose, into a VM.
package settings

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
