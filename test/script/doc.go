// Package script proves the command line from the outside, without booting a
// guest: every file of testdata/script is a shell-like script that runs the
// real program against the real sudo, ssh and libvirt of this machine, in a
// home of its own.
//
// It owns what the scripts need: a mount namespace that takes users, small
// file systems and hidden sockets with it when it ends, commands to compare
// trees and JSON, a terminal to type on, and a guard that lets no script
// change anything but VMs, networks and pools named "scr...".
//
// Invariants: nothing is left on the machine, however the run ends (the guard
// outlives the tests and sweeps); every fault is made for real; no test is
// skipped: what is missing is an error that says what to do.
package script
