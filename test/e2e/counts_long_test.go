//go:build long

package e2e

const (
	pairRounds  = 5
	gitCuts     = 50
	randomKills = 40
)
