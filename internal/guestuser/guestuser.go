// Package guestuser defines the uid of the guest user, which is the same in every guest: cloud-init
// creates the user, shares map the owner of a host folder to this uid, and scripts in the guest
// search for files and processes of this uid.
package guestuser

const (
	// ID is the uid and gid of the guest user. It cannot be changed: the disks of existing VMs have
	// files of this uid.
	ID = 1000
	// Text is ID for scripts.
	Text = "1000"
)
