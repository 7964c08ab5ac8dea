// Package target resolves the arguments of a command line to a Target: which VM, which folder,
// which network. It reads the config and the user's folders, and refuses folders that no guest
// may get; it asks neither libvirt nor a guest.
package target

import "aivm.dev/aivm/provision/session"

// Finder finds the Target of a verb.
type Finder struct{ *session.Session }
