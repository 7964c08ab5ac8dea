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

// expand returns the patterns that an Include's argument can mean to ssh: as it
// is written and, from OpenSSH 9.9 on, with ${VARIABLE} and tokens replaced.
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

// tilde replaces ~ and ~user as glob(3) does. A relative path is one of ~/.ssh.
// To glob(3), ~ is $HOME; that of the password database counts as well.
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

// tokens replaces variables and tokens. What depends on the connection becomes
// a *, so that nothing it could name is missed.
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

// goGlob writes a pattern of glob(3) for filepath.Glob. A bracket that only
// glob(3) understands becomes a ?, one that is never closed stands for itself.
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
