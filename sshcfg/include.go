package sshcfg

import (
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
)

var (
	envToken = lazyre.New(`\$\{([^}]+)\}`)
	token    = lazyre.New(`%.`)
	homeOf   = lazyre.New(`^~([^/]*)`)
	bracket  = lazyre.New(`\[[!^]?\]?(?:\[[:.=].*?[:.=]\]|\\.|[^\]\\])*\]`)
)

// expand returns the patterns that the argument of an Include can mean to ssh: the argument
// as written and, since OpenSSH 9.9, with ${VARIABLE} and tokens replaced.
func (s *scanner) expand(a string) []string {
	var out []string
	for _, a := range []string{a, s.tokens(a)} {
		for _, p := range s.tilde(a) {
			if p = goGlob(p); !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// tilde replaces ~ and ~user, and makes relative paths relative to ~/.ssh. For glob(3), ~ is
// $HOME; the result includes the home directory of the password database as well.
func (s *scanner) tilde(a string) []string {
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		home = s.home
	}
	ssh := filepath.Join(s.home, ".ssh")
	if s.base == ssh && !filepath.IsAbs(a) && !strings.HasPrefix(a, "~") {
		return []string{filepath.Join(ssh, a), filepath.Join(home, ".ssh", a)}
	}
	m := homeOf.FindStringSubmatch(a)
	switch {
	case m == nil:
		return []string{a}
	case m[1] == "":
		return []string{s.home + a[1:], home + a[1:]}
	}
	u, err := user.Lookup(m[1])
	if err != nil {
		return []string{a}
	}
	return []string{u.HomeDir + a[len(m[0]):]}
}

// tokens replaces ${VARIABLE} and % tokens. A token that depends on the connection becomes a
// *, so that the pattern matches all files it could name.
func (s *scanner) tokens(a string) string {
	a = envToken.ReplaceAllStringFunc(a, func(v string) string { return os.Getenv(v[2 : len(v)-1]) })
	return token.ReplaceAllStringFunc(a, func(t string) string {
		switch t {
		case "%%":
			return "%"
		case "%d":
			return s.home
		case "%i":
			return strconv.Itoa(os.Getuid())
		case "%u":
			if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err == nil {
				return u.Username
			}
		case "%n":
			if s.alias != "" {
				return s.alias
			}
		}
		return "*"
	})
}

// goGlob converts a pattern of glob(3) for filepath.Glob. A bracket expression that only
// glob(3) supports becomes a ?, and a bracket that is not closed is escaped.
func goGlob(pattern string) string {
	parts := strings.Split(pattern, "/")
	for i, p := range parts {
		if !strings.Contains(p, "[") {
			continue
		}
		own := bracket.ReplaceAllStringFunc(p, func(b string) string {
			b = strings.Replace(b, "[!", "[^", 1)
			if _, err := filepath.Match(b, ""); err != nil || strings.ContainsAny(b[1:], "[") {
				return "?"
			}
			return b
		})
		if _, err := filepath.Match(own, ""); err != nil {
			own = strings.ReplaceAll(bracket.ReplaceAllString(p, "?"), "[", `\[`)
		}
		parts[i] = own
	}
	return strings.Join(parts, "/")
}
