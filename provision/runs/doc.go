// Package runs is the part that knows the one-shot VMs that run now: their records, and how to run
// a second command in one of them or to stop it.
//
// Each run has a directory of mode 0700 below the user's runtime directory, with a record, a lock that
// the run's aivm holds as long as it lives, and a socket on which it answers. The directory is removed
// by the run, or, if the run was killed, by the next aivm that looks (List). Invariants: a run is
// alive exactly while its lock is held; nothing in a directory of a run can be read by another user.
package runs
