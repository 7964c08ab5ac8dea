// Package clonetest has a Pair for tests: a repository on this machine and a place
// for its clone behind an SSH server that stands for a guest.
package clonetest
