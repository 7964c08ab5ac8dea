// Package gittest has the git, the files and the comparisons of the tests below
// gitsync.
package gittest
