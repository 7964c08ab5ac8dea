// Package session holds what one run of aivm works with: the streams, the
// person's store and paths, the connections to libvirt and to the privileged
// helper, what was agreed to, and the clock. It applies plans, takes locks, and
// says how to go on after an error.
//
// It observes neither VMs nor folders, only names them in results and messages:
// what a verb is about is a target.Target.
// Everything a run asks of the world outside is a field, so that a test can
// replace it (Seams).
package session
