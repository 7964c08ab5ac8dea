// Package secretscan finds private keys, tokens of services and passwords in text.
//
// It owns the rules: those of gitleaks (rules.toml, unchanged, from
// github.com/zricethezav/gitleaks v8.30.0, license in rules.LICENSE), formats that they do not have
// (shapes.go), and the search for values assigned to names like "password" (assigned.go, values.go).
// It opens no file and never prints or returns a secret.
//
// Invariants:
//
//   - Every byte is searched, or Scan returns ErrTooMuch. No line is too long, and no match hides
//     another one.
//   - The work is bounded by the size of the text and maxWork, whatever the text is.
//   - A program that does not scan pays nothing: rules are parsed at the first scan, and the
//     expression of a rule is compiled when one of its keywords occurs in a text.
//
// gitleaks' detector is not linked. docs/dependencies.md has the figures.
package secretscan
