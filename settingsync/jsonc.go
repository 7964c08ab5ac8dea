package settingsync

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"

	"aivm.dev/aivm/internal/lazyre"
)

// SyntaxError is where a settings file stops being JSON with comments.
type SyntaxError struct {
	Line, Column int
	What         string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.What)
}

// maxDepth bounds nesting: a guest's file is hostile, and hujson, which knows no
// bound, ends the whole program in a megabyte of "[".
const maxDepth = 200

// node is a value of a document, by its place in the text.
type node struct {
	start, end int
	kind       byte     // '{', '[', '"', or 0 for a number, true, false, null
	members    []member // of an object, in the order of the text, duplicates too
	comma      bool     // a comma follows the last member
}

// member is a key with its value.
type member struct {
	key      string
	keyStart int
	val      *node
	comma    int // offset of the comma behind it, -1 if there is none
}

// find returns the member that counts: of duplicates the last, as editors have it.
func (n *node) find(key string) *member {
	for i := len(n.members) - 1; i >= 0; i-- {
		if n.members[i].key == key {
			return &n.members[i]
		}
	}
	return nil
}

// keys lists every key once, in the order of the text.
func (n *node) keys() []string {
	seen := map[string]bool{}
	var out []string
	for _, m := range n.members {
		if !seen[m.key] {
			seen[m.key] = true
			out = append(out, m.key)
		}
	}
	return out
}

const bom = "\ufeff"

// parseObject reads a settings file: one object, comments and trailing commas
// allowed, a byte order mark before it ignored. A text without any value is an
// empty object at no place (start == end).
func parseObject(text string) (*node, error) {
	b, open, err := uncommented(text)
	if err != nil {
		return nil, err
	}
	first := len(text) - len(bytes.TrimLeft(b, " \t\r\n"))
	switch {
	case first == len(text):
		return &node{start: first, end: first, kind: '{'}, nil
	case b[first] != '{':
		return nil, wrong(text, first, "settings begin with {")
	}
	v, err := hujson.Parse(b)
	if err != nil {
		return nil, syntaxError(text, open, err)
	}
	return nodeOf(v), nil
}

// uncommented returns a text with spaces in the place of its comments and of its
// byte order mark, and where the brackets are that are not closed. It bounds the
// nesting and finds what does not end, which hujson notices only at the end of
// the text. hujson would refuse comments that editors take: one at the end
// without a newline, one with bytes that are not UTF-8, one with a line
// separator of Unicode.
func uncommented(text string) (b []byte, open []int, err error) {
	b = []byte(text)
	blank := func(from, to int) {
		for i := from; i < to; i++ {
			if b[i] != '\n' {
				b[i] = ' '
			}
		}
	}
	i := 0
	if strings.HasPrefix(text, bom) {
		i = len(bom)
		blank(0, i)
	}
	for i < len(text) {
		rest := text[i:]
		n := 1
		switch {
		case rest[0] == '"':
			for n < len(rest) && rest[n] != '"' {
				if rest[n] < 0x20 {
					return nil, nil, wrong(text, i+n, "a string ends on its own line")
				}
				if rest[n] == '\\' {
					n++
				}
				n++
			}
			if n++; n > len(rest) {
				return nil, nil, wrong(text, i, "this string does not end")
			}
		case rest[0] == '{', rest[0] == '[':
			if open = append(open, i); len(open) > maxDepth {
				return nil, nil, wrong(text, i, "nested more than %d deep", maxDepth)
			}
		case rest[0] == '}', rest[0] == ']':
			open = open[:max(0, len(open)-1)]
		case strings.HasPrefix(rest, "//"):
			if n = strings.IndexAny(rest, "\r\n"); n < 0 {
				n = len(rest)
			}
			blank(i, i+n)
		case strings.HasPrefix(rest, "/*"):
			if n = strings.Index(rest[2:], "*/"); n < 0 {
				return nil, nil, wrong(text, i, "this comment does not end")
			}
			n += 4
			blank(i, i+n)
		}
		i += n
	}
	return b, open, nil
}

// nodeOf returns what hujson read, by its places in the text.
func nodeOf(v hujson.Value) *node {
	n := &node{start: v.StartOffset, end: v.EndOffset}
	switch x := v.Value.(type) {
	case hujson.Literal:
		if x.Kind() == '"' {
			n.kind = '"'
		}
	case *hujson.Array:
		n.kind = '['
	case *hujson.Object:
		n.kind = '{'
		for i, m := range x.Members {
			last := i == len(x.Members)-1
			// hujson has something behind the last value only before a comma.
			n.comma = last && m.Value.AfterExtra != nil
			name, _ := m.Name.Value.(hujson.Literal)
			out := member{key: name.String(), keyStart: m.Name.StartOffset, val: nodeOf(m.Value), comma: -1}
			if !last || n.comma {
				out.comma = m.Value.EndOffset + len(m.Value.AfterExtra)
			}
			n.members = append(n.members, out)
		}
	}
	return n
}

// hujson's errors have their place in their text only: the golden table of
// TestSyntaxErrors breaks where a new version words them otherwise.
var hujsonError = lazyre.New(`(?s)^hujson: line (\d+), column (\d+): (.*)$`)

// expected are our words for hujson's, by a part of theirs; of others, a key or a
// value is what is missing. What stands there is not repeated: it may be long,
// or a secret.
var expected = []struct{ theirs, ours string }{
	{"after object value", "a comma or } is expected here"},
	{"after array value", "a comma or ] is expected here"},
	{"after object name", "a colon is expected here"},
	{"after top-level value", "something follows the last }"},
}

// syntaxError returns an error of hujson's about a text of the same length, in
// which those brackets are open at the end.
func syntaxError(text string, open []int, err error) error {
	m := hujsonError.FindStringSubmatch(err.Error())
	if m == nil {
		return &SyntaxError{Line: 1, Column: 1, What: "this is no JSON"}
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	at := 0
	for range line - 1 {
		at += strings.IndexByte(text[at:], '\n') + 1
	}
	at = min(at+column-1, len(text))
	if strings.Contains(m[3], "unexpected EOF") && len(open) > 0 {
		at = open[len(open)-1]
		return wrong(text, at, "this %c has no %c", text[at], text[at]+2) // ASCII has them two apart
	}
	if strings.Contains(m[3], "invalid literal") && strings.HasPrefix(text[at:], `"`) {
		return wrong(text, at, "this string is not valid")
	}
	before, open, _ := uncommented(text[:at])
	before = bytes.TrimRight(before, " \t\r\n")
	if k := len(open); k > 0 && text[open[k-1]] == '{' && (before[len(before)-1] == '{' || before[len(before)-1] == ',') {
		return wrong(text, at, "a key in double quotes is expected here")
	}
	for _, e := range expected {
		if strings.Contains(m[3], e.theirs) {
			return wrong(text, at, "%s", e.ours)
		}
	}
	return wrong(text, at, "a value is expected here")
}

// wrong names a place as editors count: lines from 1, columns in characters.
func wrong(text string, at int, format string, args ...any) error {
	before := text[:at]
	line := 1 + strings.Count(before, "\n")
	column := 1 + utf8.RuneCountInString(strings.TrimPrefix(before[strings.LastIndexByte(before, '\n')+1:], bom))
	return &SyntaxError{Line: line, Column: column, What: fmt.Sprintf(format, args...)}
}

// plain returns the value as JSON without comments and spaces, keys sorted,
// the last of duplicates: two values are the same when these are.
func (n *node) plain(text string) string {
	own := text[n.start:n.end]
	b, _, err := uncommented(own)
	if err == nil {
		b, err = hujson.Standardize(b)
	}
	if err != nil {
		return own // not reached for what was parsed; equal to itself only
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return own
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return own
	}
	return strings.TrimSuffix(out.String(), "\n")
}
