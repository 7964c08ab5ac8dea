// Package lazyre has regular expressions that are compiled when they are first
// used. A package's variables are made at every start of the program, also of
// one that ends ten milliseconds later, and compiling takes a good part of
// that.
//
// It owns nothing and touches nothing. Invariant: an expression that does not
// compile panics at its first use, as regexp.MustCompile does at the start; so
// each one needs a test that uses it.
package lazyre

import (
	"regexp"
	"sync"
)

// Regexp is a regular expression, compiled at its first use. Safe from
// several goroutines.
type Regexp struct{ compiled func() *regexp.Regexp }

// New returns the expression without looking at it.
func New(expr string) *Regexp {
	return &Regexp{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })}
}

// MatchString is regexp's.
func (r *Regexp) MatchString(s string) bool { return r.compiled().MatchString(s) }

// FindStringSubmatch is regexp's.
func (r *Regexp) FindStringSubmatch(s string) []string { return r.compiled().FindStringSubmatch(s) }

// ReplaceAllString is regexp's.
func (r *Regexp) ReplaceAllString(src, repl string) string {
	return r.compiled().ReplaceAllString(src, repl)
}

// ReplaceAllStringFunc is regexp's.
func (r *Regexp) ReplaceAllStringFunc(src string, repl func(string) string) string {
	return r.compiled().ReplaceAllStringFunc(src, repl)
}
