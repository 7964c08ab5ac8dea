//go:build long

package e2e

const pairRounds = 5
