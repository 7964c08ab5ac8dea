// Package lazyre provides regular expressions that are compiled at their first use.
// Package variables are initialised at every start of the program, also when it
// ends ten milliseconds later, and compiling takes a large part of that time.
//
// It keeps no state outside the expressions. Invariant: an expression that does
// not compile panics at its first use, as regexp.MustCompile does at program
// start; so each expression needs a test that uses it.
package lazyre

import (
	"regexp"
	"sync"
)

// Regexp is a regular expression, compiled at its first use. Several goroutines
// may use it.
type Regexp struct{ compiled func() *regexp.Regexp }

// New returns the expression without parsing it.
func New(expr string) *Regexp {
	return &Regexp{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })}
}

// MatchString works as in package regexp.
func (r *Regexp) MatchString(s string) bool { return r.compiled().MatchString(s) }

// FindStringSubmatch works as in package regexp.
func (r *Regexp) FindStringSubmatch(s string) []string { return r.compiled().FindStringSubmatch(s) }

// ReplaceAllString works as in package regexp.
func (r *Regexp) ReplaceAllString(src, repl string) string {
	return r.compiled().ReplaceAllString(src, repl)
}

// ReplaceAllStringFunc works as in package regexp.
func (r *Regexp) ReplaceAllStringFunc(src string, repl func(string) string) string {
	return r.compiled().ReplaceAllStringFunc(src, repl)
}

// FindAllStringSubmatchIndex works as in package regexp.
func (r *Regexp) FindAllStringSubmatchIndex(s string, n int) [][]int {
	return r.compiled().FindAllStringSubmatchIndex(s, n)
}
