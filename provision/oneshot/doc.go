// Package oneshot is the part that runs one command in a fresh VM: it starts the VM from a template,
// makes the folders available in it, runs the command on this process's terminal or streams, and
// removes the VM.
//
// QEMU, the server of the folders and the network process are children of this process, run as the
// user, and end with it. Invariants: nothing of a run has a name on a disk; nothing but the command
// writes to stdout; every wait for the guest has a deadline; the command runs only after the guest got
// its own entropy, clock and identity.
package oneshot
