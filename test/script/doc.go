// Package script tests the command line without booting a guest. Every file in testdata/script is a
// script (testscript, txtar) that runs aivm with the real sudo, ssh and libvirt of the host, in its own
// home.
//
// It provides what the scripts need: a mount namespace, in which users, small file systems and hidden
// sockets disappear at the end; commands to compare directory trees and JSON; a pseudo terminal; and
// checks that no script changes anything but VMs, networks and pools named "scr...".
//
// Invariants: nothing remains on the host, however the run ends (the process guard outlives the tests
// and removes leftovers); faults are produced, not simulated; no test is skipped: a missing
// prerequisite is an error that says what to do.
package script
