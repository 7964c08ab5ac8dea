//go:build long

package upgrade

const longRun = true
