// Package target turns the words of a command line into what the run is about:
// which VM, which folder, which network. It reads the store and the person's
// folders, and refuses what no guest may get; it asks neither libvirt nor a guest.
package target

import "aivm.dev/aivm/provision/session"

// Finder finds the Target of a verb.
type Finder struct{ *session.Session }
