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

// SyntaxError is the position at which a settings file is not valid JSON with comments.
type SyntaxError struct {
	Line, Column int
	What         string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.What)
}

// maxDepth bounds nesting: a guest's file is not trusted, and hujson, which has no bound, overflows
// the stack and ends the program on a megabyte of "[".
const maxDepth = 200

// node is a value of a document, with its offsets in the text.
type node struct {
	start, end int
	kind       byte     // '{', '[', '"', or 0 for a number, true, false, null
	members    []member // of an object, in the order of the text, with duplicates
	comma      bool     // a comma follows the last member
}

// member is a key with its value.
type member struct {
	key      string
	keyStart int
	val      *node
	comma    int // offset of the comma after it, -1 if there is none
}

// find returns the member with the key, the last one of duplicates, as editors do.
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

// parseObject parses a settings file: one object; comments, trailing commas and a byte order mark
// are allowed. A text without any value is an empty object with start == end.
func parseObject(text string) (*node, error) {
	b, open, err := blankComments(text)
	if err != nil {
		return nil, err
	}
	first := len(text) - len(bytes.TrimLeft(b, " \t\r\n"))
	switch {
	case first == len(text):
		return &node{start: first, end: first, kind: '{'}, nil
	case b[first] != '{':
		return nil, syntaxErrorAt(text, first, "settings must begin with {")
	}
	v, err := hujson.Parse(b)
	if err != nil {
		return nil, syntaxError(text, open, err)
	}
	return nodeOf(v), nil
}

// blankComments returns a text with its comments and byte order mark replaced by spaces, and the
// offsets of brackets that are not closed. It bounds the nesting and reports unterminated strings
// and comments at their start, while hujson reports them at the end of the text. hujson also
// refuses comments that editors accept: one at the end without a newline, one with bytes that are
// not UTF-8, one with a Unicode line separator.
func blankComments(text string) (b []byte, open []int, err error) {
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
					return nil, nil, syntaxErrorAt(text, i+n, "a string must end on the line it starts")
				}
				if rest[n] == '\\' {
					n++
				}
				n++
			}
			if n++; n > len(rest) {
				return nil, nil, syntaxErrorAt(text, i, "missing closing quote of this string")
			}
		case rest[0] == '{', rest[0] == '[':
			if open = append(open, i); len(open) > maxDepth {
				return nil, nil, syntaxErrorAt(text, i, "nested more than %d levels deep", maxDepth)
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
				return nil, nil, syntaxErrorAt(text, i, "missing */ of this comment")
			}
			n += 4
			blank(i, i+n)
		}
		i += n
	}
	return b, open, nil
}

// nodeOf converts a hujson value to a node.
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
			// hujson sets AfterExtra of the last value only before a comma.
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

// hujson reports the position in the error text only. The golden table of TestSyntaxErrors fails if
// a new version words its errors differently.
var hujsonError = lazyre.New(`(?s)^hujson: line (\d+), column (\d+): (.*)$`)

// expected maps parts of hujson's error texts to messages; for other errors a key or a value is
// missing. The text at the position is not printed: it may be long, or a secret.
var expected = []struct{ hujsonText, message string }{
	{"after object value", "expected a comma or }"},
	{"after array value", "expected a comma or ]"},
	{"after object name", "expected a colon"},
	{"after top-level value", "unexpected text after the last }"},
}

// syntaxError converts a hujson error about a text of the same length as text, in which the
// brackets at the offsets of open are not closed.
func syntaxError(text string, open []int, err error) error {
	m := hujsonError.FindStringSubmatch(err.Error())
	if m == nil {
		return &SyntaxError{Line: 1, Column: 1, What: "not valid JSON"}
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
		return syntaxErrorAt(text, at, "this %c has no closing %c", text[at], text[at]+2) // the closing bracket is two after the opening one in ASCII
	}
	if strings.Contains(m[3], "invalid literal") && strings.HasPrefix(text[at:], `"`) {
		return syntaxErrorAt(text, at, "invalid string")
	}
	before, open, _ := blankComments(text[:at])
	before = bytes.TrimRight(before, " \t\r\n")
	if k := len(open); k > 0 && text[open[k-1]] == '{' && (before[len(before)-1] == '{' || before[len(before)-1] == ',') {
		return syntaxErrorAt(text, at, "expected a key in double quotes")
	}
	for _, e := range expected {
		if strings.Contains(m[3], e.hujsonText) {
			return syntaxErrorAt(text, at, "%s", e.message)
		}
	}
	return syntaxErrorAt(text, at, "expected a value")
}

// syntaxErrorAt returns an error at an offset, counted as editors do: lines from 1, columns in
// characters.
func syntaxErrorAt(text string, at int, format string, args ...any) error {
	before := text[:at]
	line := 1 + strings.Count(before, "\n")
	column := 1 + utf8.RuneCountInString(strings.TrimPrefix(before[strings.LastIndexByte(before, '\n')+1:], bom))
	return &SyntaxError{Line: line, Column: column, What: fmt.Sprintf(format, args...)}
}

// plain returns the value as canonical JSON: no comments or spaces, keys sorted, only the last of
// duplicate keys. Two values are equal if these texts are.
func (n *node) plain(text string) string {
	own := text[n.start:n.end]
	b, _, err := blankComments(own)
	if err == nil {
		b, err = hujson.Standardize(b)
	}
	if err != nil {
		return own // cannot happen for a parsed value; is equal only to itself
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
