package secretscan

import (
	"math"
	"slices"
	"strings"
	"sync"

	"aivm.dev/aivm/internal/lazyre"
)

// rule describes a secret by an expression. The expression is only tried around a keyword, as
// gitleaks does, so most rules cost nothing for most texts.
type rule struct {
	kind     string
	rank     int
	keywords []string // in lower case
	re       *lazyre.Regexp
	// named is re at the start of a text, for a rule about what is assigned to a name: it is tried
	// where a keyword is. The entire match includes what can be part of a name to its left.
	named   *lazyre.Regexp
	reach   func() int // the length of the longest match of named
	group   int        // of the secret; 0: the first that is not empty, -1: the entire match
	entropy float64
	path    *lazyre.Regexp // of the files it is for, nil for all
	allow   []allowance
	secret  func(match string) bool // nil: every match is a secret
	before  bool                    // a match may start on a line before that of the keyword
	lines   int                     // lines after that of the keyword in which a match may end
	cost    int                     // weight of a byte in maxWork
}

// allowance describes matches that are no secrets.
type allowance struct {
	target string // "", "match", "line": what the expressions are tried on
	res    []*lazyre.Regexp
	stop   []string // words in a secret, in lower case
}

// Bounds of the text around a keyword that is searched. Both are further than any expression reaches
// on one line, so a line of any length is searched completely.
const (
	reachBefore = 512
	reachAfter  = 4 << 10
)

// keywordIndex finds all keywords of all rules in one pass over a text.
type keywordIndex struct {
	rules []*rule
	head  [1 << 16]uint16 // by the first two bytes of a keyword: the index in words, 0 for none
	words [][]keyword
}

type keyword struct {
	text  string
	rules []int
}

var index = sync.OnceValue(func() *keywordIndex {
	ix := &keywordIndex{rules: append(shapeRules(), gitleaksRules()...), words: make([][]keyword, 1)}
	for n, r := range ix.rules {
		for _, k := range r.keywords {
			h := &ix.head[uint16(k[0])<<8|uint16(k[1])]
			if *h == 0 {
				ix.words = append(ix.words, nil)
				*h = uint16(len(ix.words) - 1)
			}
			list := ix.words[*h]
			if i := slices.IndexFunc(list, func(w keyword) bool { return w.text == k }); i >= 0 {
				list[i].rules = append(list[i].rules, n)
			} else {
				ix.words[*h] = append(list, keyword{k, []int{n}})
			}
		}
	}
	return ix
})

// span is a part of a text.
type span struct{ start, end int }

// visit calls f for each keyword in a text, with its position and its rules, until f returns false.
// lower is the text in lower case.
func (ix *keywordIndex) visit(lower string, f func(at int, w keyword) bool) {
	for i := 0; i+1 < len(lower); i++ {
		head := ix.head[uint16(lower[i])<<8|uint16(lower[i+1])]
		if head == 0 {
			continue
		}
		for _, w := range ix.words[head] {
			if strings.HasPrefix(lower[i:], w.text) && !f(i, w) {
				return
			}
		}
	}
}

// around returns the part of a text around a keyword in which a rule can match.
func around(text string, at, size int, r *rule) span {
	s := span{max(0, at-reachBefore), min(len(text), at+size+reachAfter)}
	if !r.before {
		s.start += strings.LastIndexByte(text[s.start:at], '\n') + 1
	}
	end := at + size
	for range r.lines + 1 {
		n := strings.IndexByte(text[end:s.end], '\n')
		if n < 0 {
			return s
		}
		end += n + 1
	}
	s.end = end
	return s
}

// matchRules returns the matches of all rules in a text.
func matchRules(name, text string, binary bool) ([]place, error) {
	ix := index()
	m := matcher{text: text, windows: make([][]span, len(ix.rules)), found: make([]int, len(ix.rules))}
	usable := make([]bool, len(ix.rules))
	for n, r := range ix.rules {
		usable[n] = !(binary && r.rank > rankRule) && (r.path == nil || r.path.MatchString(name))
	}
	ix.visit(lowerASCII(text), func(at int, w keyword) bool {
		for _, n := range w.rules {
			if r := ix.rules[n]; usable[n] && r.named == nil {
				m.addWindow(n, around(text, at, len(w.text), r))
			} else if usable[n] && assignedAfter(text, at+len(w.text)) {
				m.match(n, r, r.named, span{at, min(len(text), at+r.reach())}, 1)
			}
		}
		return m.work <= maxWork
	})
	for n, windows := range m.windows {
		for _, w := range windows {
			m.match(n, ix.rules[n], ix.rules[n].re, w, -1)
		}
	}
	if m.work > maxWork {
		return nil, ErrTooMuch
	}
	return m.out, nil
}

// matcher collects the matches of all rules in a text.
type matcher struct {
	text    string
	windows [][]span // of each rule: the parts that it has to be tried on, which do not overlap
	found   []int    // of each rule: how many matches there are
	out     []place
	work    int
}

func (m *matcher) addWindow(rule int, s span) {
	list := m.windows[rule]
	if len(list) > 0 && s.start <= list[len(list)-1].end {
		list[len(list)-1].end = max(s.end, list[len(list)-1].end)
		return
	}
	m.windows[rule] = append(list, s)
}

// match adds at most count matches of a rule in a part of the text, all if count is -1.
func (m *matcher) match(n int, r *rule, re *lazyre.Regexp, s span, count int) {
	if m.work += (s.end - s.start) * r.cost; m.work > maxWork || m.found[n] >= maxFound {
		return
	}
	for _, at := range re.FindAllStringSubmatchIndex(m.text[s.start:s.end], count) {
		if m.found[n] >= maxFound || m.work > maxWork {
			return
		}
		m.work += workOfMatch
		if p, ok := r.check(m.text, s.start, at); ok {
			m.found[n]++
			m.out = append(m.out, p)
		}
	}
}

// assignedAfter reports whether an operator that assigns can follow a name of which a part ends at the
// position: most rules of gitleaks require one, and this is cheaper than their expressions.
func assignedAfter(text string, at int) bool {
	for end := min(len(text), at+64); at < end && (nameByte(text[at]) || text[at] == ' ' || text[at] == '\t'); {
		at++
	}
	for end := min(len(text), at+8); at < end && strings.IndexByte(" \t\r\n\f\v'\"", text[at]) >= 0; {
		at++
	}
	return at < len(text) && strings.IndexByte("=>:|?,", text[at]) >= 0
}

// check returns the place of a match, false if it is no secret. m is relative to the position at.
func (r *rule) check(text string, at int, m []int) (place, bool) {
	start, end := at+m[0], at+m[1]
	from, to := start, end
	switch {
	case r.group > 0:
		from, to = at+m[2*r.group], at+m[2*r.group+1]
	case r.group == 0:
		for i := 2; i+1 < len(m); i += 2 {
			if m[i] >= 0 && m[i+1] > m[i] {
				from, to = at+m[i], at+m[i+1]
				break
			}
		}
	}
	if r.named != nil {
		for limit := start - 50; start > 0 && start > limit && nameByte(text[start-1]); {
			start--
		}
	}
	match, secret := strings.Trim(text[start:end], "\n"), text[from:to]
	if r.entropy > 0 && entropy(secret) <= r.entropy || r.secret != nil && !r.secret(match) {
		return place{}, false
	}
	for _, a := range r.allow {
		if a.allows(text, span{start, end}, match, secret) {
			return place{}, false
		}
	}
	return place{from, to, r.rank, r.kind}, true
}

func (a allowance) allows(text string, entire span, match, secret string) bool {
	target := secret
	switch a.target {
	case "match":
		target = match
	case "line":
		s := around(text, entire.start, entire.end-entire.start, &rule{})
		target = text[s.start:s.end]
	}
	if slices.ContainsFunc(a.res, func(re *lazyre.Regexp) bool { return re.MatchString(target) }) {
		return true
	}
	lower := lowerASCII(secret)
	return slices.ContainsFunc(a.stop, func(w string) bool { return strings.Contains(lower, w) })
}

// workOfMatch is how much a match counts, for the lists of what is no secret.
const workOfMatch = 6000

// nameByte reports whether a byte can be part of a name in the sense of gitleaks' rules.
func nameByte(c byte) bool {
	return c == '_' || c == '-' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// lowerASCII returns a text with A to Z in lower case and every other byte as it is, so that positions
// stay the same.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// entropy is Shannon's entropy in bits per byte.
func entropy(s string) float64 {
	var count [256]int
	for i := range len(s) {
		count[s[i]]++
	}
	h, n := 0.0, float64(len(s))
	for _, c := range count {
		if c > 0 {
			h -= float64(c) / n * math.Log2(float64(c)/n)
		}
	}
	return h
}
