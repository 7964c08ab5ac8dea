// Package house holds the rules of the house as tests: who may import whom,
// what is linked, how packages and files look, what must not be in the tree.
//
// It owns no rule that a linter already has, reads the sources only, and
// builds nothing, so that it costs a second on every run.
package house
