// Package house tests rules for the source code: import directions between packages, linked modules,
// sizes of packages and files, pure planners, words and names (docs/words.md), and files that must not
// be committed.
//
// It repeats no rule of a linter. It only reads sources; the test of planners also type-checks them.
package house
