package secretscan

import (
	"cmp"
	"errors"
	"slices"
	"strings"
)

// Secret is a place that contains a secret, never the secret itself.
type Secret struct {
	Line int    // 0 in a binary file, or if the file as such is one
	Kind string // "a GitHub token"
}

// ErrTooMuch reports that a text needs more work than a scan may take, so it was not searched
// completely.
var ErrTooMuch = errors.New("it needs too much time to be searched for secrets")

// maxWork bounds a scan: the bytes that expressions are tried on, each weighted by what the expression
// costs, and what matches cost. The slowest texts take some 25 seconds until they are refused; 16 MiB of
// what people write take three. A variable for tests.
var maxWork = 2 << 30

// maxFound bounds the places kept of one text; a text that has more is full of secrets anyway.
const maxFound = 10_000

// Scan returns the places in a file that contain a private key, a token of a well-known service or a
// password, by line. name is the file's path: some rules are for certain files only. UTF-16 is
// decoded; a binary file is searched for what has a format of its own.
func Scan(name string, data []byte) ([]Secret, error) {
	if kind := ofName(name); kind != "" {
		return []Secret{{0, kind}}, nil
	}
	text, binary := decode(data)
	if !binary {
		return scanText(name, text)
	}
	var out []Secret
	for _, view := range textsOf(data) {
		found, err := search(name, view, true)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			out = append(out, Secret{0, p.kind})
		}
	}
	slices.SortFunc(out, func(a, b Secret) int { return strings.Compare(a.Kind, b.Kind) })
	return slices.Compact(out), nil
}

// Text returns the places in a text without a file, such as the value of a setting. What could not be
// searched completely counts as a secret.
func Text(text string) []Secret {
	found, err := scanText("", text)
	if err != nil {
		return []Secret{{1, "text that takes too long to be searched for secrets"}}
	}
	return found
}

// place is a match of a rule.
type place struct {
	start, end int // the secret in the text
	rank       int
	kind       string
}

// Ranks of places: of two that overlap, the one with the lower rank is reported.
const (
	rankShape    = iota // a format that belongs to one service
	rankRule            // a rule of gitleaks
	rankAddress         // a password in an address
	rankAssigned        // a value assigned to a secret-like name
	rankGeneric         // gitleaks' rule for any key
)

func scanText(name, text string) ([]Secret, error) {
	found, err := search(name, text, false)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(found, func(a, b place) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.start, b.start)) })
	lines := lineStarts(text)
	perLine := map[int][]place{}
	for _, p := range found {
		n := lineOf(lines, p.start)
		if same := perLine[n]; len(same) < 20 && !slices.ContainsFunc(same, func(q place) bool {
			return q.kind == p.kind || p.start < q.end && q.start < p.end
		}) {
			perLine[n] = append(same, p)
		}
	}
	var out []Secret
	for n, places := range perLine {
		slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.start, b.start) })
		for _, p := range places {
			out = append(out, Secret{n, p.kind})
		}
	}
	slices.SortStableFunc(out, func(a, b Secret) int { return cmp.Compare(a.Line, b.Line) })
	return out, nil
}

// search returns the matches of all rules, of a binary file without those that need prose around
// them.
func search(name, text string, binary bool) ([]place, error) {
	found, err := matchRules(name, text, binary)
	if err != nil || binary {
		return found, err
	}
	return append(found, searchLines(name, text)...), nil
}

// lineStarts returns the positions at which lines start.
func lineStarts(text string) []int {
	starts := make([]int, 1, 1+strings.Count(text, "\n"))
	for i := 0; ; {
		n := strings.IndexByte(text[i:], '\n')
		if n < 0 {
			return starts
		}
		i += n + 1
		starts = append(starts, i)
	}
}

// lineOf returns the number of the line that contains a position.
func lineOf(starts []int, at int) int {
	n, exact := slices.BinarySearch(starts, at)
	if exact {
		return n + 1
	}
	return n
}
