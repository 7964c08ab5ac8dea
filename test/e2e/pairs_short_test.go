//go:build !long

package e2e

// pairRounds is how often TestPairs tries each pair; with the tag long five times.
const pairRounds = 1
