package secretscan

import (
	_ "embed"
	"path"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"

	"aivm.dev/aivm/internal/lazyre"
)

// rulesFile has the rules of gitleaks v8.30.0, byte by byte.
//
//go:embed rules.toml
var rulesFile string

// gitleaksFile is the part of its configuration that a scan of one file uses. Its list of paths that
// are never searched (pictures, lock files, vendored code) is not used: what is sent is searched.
type gitleaksFile struct {
	Allowlist gitleaksAllowlist
	Rules     []struct {
		ID          string
		Regex, Path string
		Entropy     float64
		SecretGroup int
		Keywords    []string
		Allowlists  []gitleaksAllowlist
	}
}

type gitleaksAllowlist struct {
	Condition          string
	RegexTarget        string
	Paths              []string
	Regexes, Stopwords []string
}

// Parts that most of its expressions have: what is assigned to a name. The first makes them slow, and
// decides only how far to the left a match goes.
const (
	namePrefix = `[\w.-]{0,50}?`
	nameRest   = `(?:[ \t\w.-]{0,20})[\s'"]{0,3}`
	nameEnd    = `(?:[\x60'"\s;]|\\[nr]|$)`
)

func gitleaksRules() []*rule {
	var f gitleaksFile
	if err := toml.Unmarshal([]byte(rulesFile), &f); err != nil {
		panic("secretscan: rules.toml: " + err.Error())
	}
	all := f.Allowlist.allowance()
	var out []*rule
	for _, g := range f.Rules {
		if g.Regex == "" || g.ID == "private-key" {
			continue // ofName has files of a name, shapes have keys without their end
		}
		expr := g.Regex
		r := &rule{kind: kindOf(g.ID), rank: rankRule, group: g.SecretGroup, entropy: g.Entropy}
		if g.ID == "generic-api-key" {
			r.rank = rankGeneric
		}
		for _, start := range []string{"(?i)" + namePrefix, namePrefix + "(?i:" + namePrefix} {
			if rest, ok := strings.CutPrefix(expr, start); ok && strings.Contains(rest, nameRest) && !strings.Contains(rest, nameEnd+"|") {
				expr = strings.ReplaceAll(start, namePrefix, "") + rest
				r.named = lazyre.New(`\A(?:` + expr + `)`)
				r.reach = sync.OnceValue(func() int { return longest(expr) })
			}
		}
		r.re, r.cost = lazyre.New(expr), 4+4*strings.Count(expr, "{")
		switch rest := strings.ReplaceAll(expr, nameEnd, ""); {
		case r.named != nil:
			r.cost = 8
		case strings.Contains(rest, `(?s`), strings.Contains(rest, `\S`):
			r.before, r.lines, r.cost = true, 40, 256
		case strings.Contains(rest, `\n`), strings.Contains(rest, `\r`):
			r.lines, r.cost = 12, 128
		case strings.Contains(rest, `\s`):
			r.lines = 4
		}
		for _, k := range g.Keywords {
			r.keywords = append(r.keywords, strings.ToLower(k))
		}
		if g.Path != "" {
			r.path = lazyre.New(g.Path)
		}
		r.allow = append(r.allow, all)
		for _, a := range g.Allowlists {
			if a.Condition == "" && len(a.Regexes)+len(a.Stopwords) > 0 {
				r.allow = append(r.allow, a.allowance())
			}
		}
		out = append(out, r)
	}
	return out
}

// endless is how much of a repetition without a limit is matched: a longer secret is found by its
// start.
const endless = 64

// longest returns the length of the longest match of an expression in ASCII, at most reachAfter.
func longest(expr string) int {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return reachAfter
	}
	var length func(re *syntax.Regexp) int
	length = func(re *syntax.Regexp) int {
		n := 0
		switch re.Op {
		case syntax.OpLiteral:
			n = len(re.Rune)
		case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
			n = 1
		case syntax.OpStar, syntax.OpPlus:
			n = endless
		case syntax.OpRepeat:
			if n = endless; re.Max >= 0 {
				n = re.Max * length(re.Sub[0])
			}
		case syntax.OpAlternate:
			for _, sub := range re.Sub {
				n = max(n, length(sub))
			}
		default:
			for _, sub := range re.Sub {
				n += length(sub)
			}
		}
		return min(n, reachAfter)
	}
	return min(length(re)+1, reachAfter)
}

func (a gitleaksAllowlist) allowance() allowance {
	out := allowance{target: a.RegexTarget, stop: slices.Clone(a.Stopwords)}
	for _, e := range a.Regexes {
		out.res = append(out.res, lazyre.New(e))
	}
	return out
}

// ofName returns the kind of secret that every file of a name is, "" for other files.
func ofName(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".p12", ".pfx":
		return "a certificate with its private key"
	case ".jks", ".keystore", ".kdbx", ".keychain-db":
		return "a store of keys or passwords"
	}
	return ""
}
