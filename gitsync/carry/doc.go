// Package carry sends what a push does not include: submodules and git-lfs objects. It reports what
// the host lacks and what the guest cannot use.
package carry
