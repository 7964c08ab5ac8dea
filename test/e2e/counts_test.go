//go:build !long

package e2e

// What `make test` tries, and how often; counts_long_test.go is for
// `make test-long`, which tries all.
const (
	longRun    = false
	pairRounds = 1 // of each pair in TestPairs
	gitCuts    = 5 // moments at which the connection to the clone ends
)
