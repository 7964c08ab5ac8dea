// Package session holds what one run of aivm works with: the streams, the user's config and
// paths, the connections to libvirt and to the privileged helper, the consent given, and the
// clock. It applies plans, takes locks, and adds the command to continue with to errors.
//
// It observes neither VMs nor folders and only names them in results and messages; a
// target.Target holds which VM and folder a verb concerns. Every access to the outside is a
// field, so that a test can replace it (Seams).
package session
