package settingsync

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// SyntaxError is where a settings file stops being JSON with comments.
type SyntaxError struct {
	Line, Column int
	What         string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.What)
}

// maxDepth bounds nesting: a guest's file is hostile.
const maxDepth = 200

// node is a value of a document, by its place in the text.
type node struct {
	start, end int
	kind       byte     // '{', '[', '"', or 0 for a number, true, false, null
	members    []member // of an object, in the order of the text, duplicates too
	comma      bool     // a comma follows the last member
	items      int      // of an array
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
	p := &jsonParser{text: text}
	if strings.HasPrefix(text, bom) {
		p.at = len(bom)
	}
	if err := p.space(); err != nil {
		return nil, err
	}
	if p.at == len(text) {
		return &node{start: p.at, end: p.at, kind: '{'}, nil
	}
	if text[p.at] != '{' {
		return nil, p.wrong(p.at, "settings begin with {")
	}
	n, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if err := p.space(); err != nil {
		return nil, err
	}
	if p.at != len(text) {
		return nil, p.wrong(p.at, "something follows the last }")
	}
	return n, nil
}

type jsonParser struct {
	text string
	at   int
}

// wrong names a place as editors count: lines from 1, columns in characters.
func (p *jsonParser) wrong(at int, format string, args ...any) error {
	before := p.text[:at]
	line := 1 + strings.Count(before, "\n")
	column := 1 + utf8.RuneCountInString(strings.TrimPrefix(before[strings.LastIndexByte(before, '\n')+1:], bom))
	return &SyntaxError{Line: line, Column: column, What: fmt.Sprintf(format, args...)}
}

func (p *jsonParser) space() error {
	for p.at < len(p.text) {
		rest := p.text[p.at:]
		switch {
		case strings.IndexByte(" \t\r\n", rest[0]) >= 0:
			p.at++
		case strings.HasPrefix(rest, "//"):
			end := strings.IndexAny(rest, "\r\n")
			if end < 0 {
				end = len(rest)
			}
			p.at += end
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return p.wrong(p.at, "this comment does not end")
			}
			p.at += end + 4
		default:
			return nil
		}
	}
	return nil
}

func (p *jsonParser) value(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, p.wrong(p.at, "nested more than %d deep", maxDepth)
	}
	if p.at == len(p.text) {
		return nil, p.wrong(p.at, "a value is missing at the end")
	}
	switch c := p.text[p.at]; c {
	case '{':
		return p.object(depth)
	case '[':
		return p.array(depth)
	case '"':
		start := p.at
		if _, err := p.str(); err != nil {
			return nil, err
		}
		return &node{start: start, end: p.at, kind: '"'}, nil
	default:
		start := p.at
		for p.at < len(p.text) && strings.IndexByte("+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_", p.text[p.at]) >= 0 {
			p.at++
		}
		word := p.text[start:p.at]
		if word == "" || !json.Valid([]byte(word)) {
			return nil, p.wrong(start, "a value is expected here")
		}
		return &node{start: start, end: p.at}, nil
	}
}

func (p *jsonParser) object(depth int) (*node, error) {
	n := &node{start: p.at, kind: '{'}
	p.at++
	for {
		if err := p.space(); err != nil {
			return nil, err
		}
		switch {
		case p.at == len(p.text):
			return nil, p.wrong(n.start, "this { has no }")
		case p.text[p.at] == '}':
			p.at++
			n.end = p.at
			return n, nil
		case len(n.members) > 0 && !n.comma:
			return nil, p.wrong(p.at, "a comma or } is expected here")
		case p.text[p.at] != '"':
			return nil, p.wrong(p.at, "a key in double quotes is expected here")
		}
		m := member{keyStart: p.at, comma: -1}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		m.key = key
		if err := p.space(); err != nil {
			return nil, err
		}
		if p.at == len(p.text) || p.text[p.at] != ':' {
			return nil, p.wrong(p.at, "a colon is expected behind the key %q", key)
		}
		p.at++
		if err := p.space(); err != nil {
			return nil, err
		}
		if m.val, err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if err := p.space(); err != nil {
			return nil, err
		}
		n.comma = p.at < len(p.text) && p.text[p.at] == ','
		if n.comma {
			m.comma = p.at
			p.at++
		}
		n.members = append(n.members, m)
	}
}

func (p *jsonParser) array(depth int) (*node, error) {
	n := &node{start: p.at, kind: '['}
	p.at++
	comma := true
	for {
		if err := p.space(); err != nil {
			return nil, err
		}
		switch {
		case p.at == len(p.text):
			return nil, p.wrong(n.start, "this [ has no ]")
		case p.text[p.at] == ']':
			p.at++
			n.end = p.at
			return n, nil
		case !comma:
			return nil, p.wrong(p.at, "a comma or ] is expected here")
		}
		if _, err := p.value(depth + 1); err != nil {
			return nil, err
		}
		n.items++
		if err := p.space(); err != nil {
			return nil, err
		}
		comma = p.at < len(p.text) && p.text[p.at] == ','
		if comma {
			p.at++
		}
	}
}

// str reads a string and returns what it means.
func (p *jsonParser) str() (string, error) {
	start := p.at
	for i := start + 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '\\':
			i++
		case c == '"':
			var s string
			if err := json.Unmarshal([]byte(p.text[start:i+1]), &s); err != nil {
				return "", p.wrong(start, "this string is not valid")
			}
			p.at = i + 1
			return s, nil
		case c < 0x20:
			return "", p.wrong(i, "a string ends on its own line")
		}
	}
	return "", p.wrong(start, "this string does not end")
}

// plain returns the value as JSON without comments and spaces, keys sorted,
// the last of duplicates: two values are the same when these are.
func (n *node) plain(text string) string {
	var b bytes.Buffer
	dec := json.NewDecoder(strings.NewReader(n.strict(text)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return text[n.start:n.end] // not reached for what was parsed; equal to itself only
	}
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return text[n.start:n.end]
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// strict takes comments and trailing commas out of a parsed value.
func (n *node) strict(text string) string {
	s := text[n.start:n.end]
	var b strings.Builder
	comma := false // written only when something other than a bracket follows
	for i := 0; i < len(s); {
		switch {
		case s[i] == '"':
			end := i + 1
			for s[end] != '"' {
				if s[end] == '\\' {
					end++
				}
				end++
			}
			if comma {
				b.WriteByte(',')
				comma = false
			}
			b.WriteString(s[i : end+1])
			i = end + 1
		case strings.HasPrefix(s[i:], "//"):
			end := strings.IndexAny(s[i:], "\r\n")
			if end < 0 {
				end = len(s) - i
			}
			i += end
		case strings.HasPrefix(s[i:], "/*"):
			i += strings.Index(s[i+2:], "*/") + 4
		case strings.IndexByte(" \t\r\n", s[i]) >= 0:
			i++
		case s[i] == ',':
			comma = true
			i++
		default:
			if comma && s[i] != '}' && s[i] != ']' {
				b.WriteByte(',')
			}
			comma = false
			b.WriteByte(s[i])
			i++
		}
	}
	return b.String()
}
