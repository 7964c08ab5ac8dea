//go:build !long

package e2e

// What `make test` tries, and how often; counts_long_test.go is for
// `make test-long`, which tries all.
const (
	longRun    = false
	pairRounds = 1  // of each pair in TestPairs
	pairEvery  = 2  // this part of the pairs
	gitCuts    = 10 // moments at which TestGit's connection ends
)
