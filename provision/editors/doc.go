// Package editors chooses the editor of a run, starts it on a folder in a VM,
// and serves code-server to a browser.
package editors

import "aivm.dev/aivm/provision/loop"

// Part holds the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
