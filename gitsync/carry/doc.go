// Package carry brings what is no part of a push along with it: submodules and
// the files of git-lfs. What is not here, or what the guest cannot use, is said.
package carry
