// Package settings copies editor settings, extensions, and other files the user listed into a VM.
package settings

import "aivm.dev/aivm/provision/loop"

// Part is the settings part of a run.
type Part struct{ loop.Loop }

// For returns the settings part of a run.
func For(l loop.Loop) Part { return Part{l} }
