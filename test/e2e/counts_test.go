//go:build !long

package e2e

// How often tests try what they try; counts_long_test.go has the numbers of
// `make test-long`.
const (
	pairRounds  = 1  // of each pair in TestPairs
	gitCuts     = 15 // moments at which TestGit's connection ends
	randomKills = 15 // in TestWalk
)
