//go:build long

package e2e

const (
	longRun    = true
	pairRounds = 5
	pairEvery  = 1
	gitCuts    = 50
)
