//go:build long

package e2e

const (
	longRun       = true
	pairRounds    = 5
	gitCuts       = 50
	foldersAtOnce = 20
	killsOfAction = 2
)
