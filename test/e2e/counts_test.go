//go:build !long

package e2e

// How much `make test` runs. counts_long_test.go has the numbers of `make test-long`, which runs
// everything.
const (
	longRun       = false
	pairRounds    = 1 // how often TestPairs runs each pair
	gitCuts       = 5 // how often the connection to the clone is cut
	foldersAtOnce = 6 // folders attached by as many commands at the same time
	killsOfAction = 1 // a walk kills after each action; in the long run also before it
)
