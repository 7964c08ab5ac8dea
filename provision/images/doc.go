// Package images gets guest images into the cache: it decides which image a VM is created from and
// where to get it, and lists and removes images in the cache and in storage pools.
package images

import "aivm.dev/aivm/provision/loop"

// Part holds the functions of this package for one run.
type Part struct{ loop.Loop }

// For returns the Part of a run.
func For(l loop.Loop) Part { return Part{l} }
