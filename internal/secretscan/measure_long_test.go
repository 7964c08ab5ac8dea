//go:build long

package secretscan

// moduleShare: with the tag "long", all files of the module cache are searched.
const moduleShare = 1
