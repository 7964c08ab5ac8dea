// Package clonetest has Pair for tests: a repository on the host, and its clone behind an SSH
// server that takes the place of a guest.
package clonetest
