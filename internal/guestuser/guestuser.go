// Package guestuser says who the user is that every guest has: cloud-init makes
// him, shares map the owner of a host folder to him, scripts in the guest look
// for what is his.
//
// It owns two constants and does nothing.
package guestuser

const (
	// ID is his uid and his gid. Nobody can change it: disks of VMs that exist
	// are full of it.
	ID = 1000
	// Text is ID for scripts.
	Text = "1000"
)
