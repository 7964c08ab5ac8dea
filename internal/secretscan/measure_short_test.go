//go:build !long

package secretscan

// moduleShare: of so many files in the module cache, one is searched.
const moduleShare = 40
