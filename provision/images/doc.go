// Package images gets guest images into the cache: which one a VM is made from,
// where from, and what lies in cache and pools.
package images

import "aivm.dev/aivm/provision/loop"

// Part is this part of a run.
type Part struct{ loop.Loop }

// For returns the part for a run.
func For(l loop.Loop) Part { return Part{l} }
