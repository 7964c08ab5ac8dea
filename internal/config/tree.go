package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A document is the content of a config file with the byte positions of its keys and values.
//
// The library BurntSushi/toml decides what is valid TOML and decodes the values; the parser of
// pelletier/go-toml gives their positions. setValues combines the two and refuses a file that they
// read differently, because no edit of it would be safe.
type document struct {
	data  []byte
	bom   int    // length of the byte order mark
	eol   string // of the first line that has one, else "\n"
	root  *node
	items []item // headers and keys in file order
}

// An item is the complete lines of one header or one key = value, including the last line end.
// Between items there are only comments and blank lines.
type item struct {
	start, end int
	header     bool
	section    *node // the table of this header, or of the header above this key
}

type shape uint8

const (
	isLeaf shape = iota
	isTable
	isList
)

type origin uint8

const (
	implied origin = iota // named only as part of a longer header
	headed                // [a] or [[a]]
	dotted                // a.b = 1
	inlined               // {...}, [...], or a plain value
)

// A node is a table, a list or a value.
type node struct {
	shape      shape
	origin     origin
	key        string
	parent     *node
	kids       []*node
	at         int // offset of the key or header or element, for messages
	start, end int // bytes of the value; inlined only
	item       int // index of the item that defines it, -1 if none does
	val        any // of a leaf: the value decoded by BurntSushi/toml
}

func (n *node) child(key string) *node {
	for _, k := range n.kids {
		if k.key == key {
			return k
		}
	}
	return nil
}

func (n *node) under(top *node) bool {
	for ; n != nil; n = n.parent {
		if n == top {
			return true
		}
	}
	return false
}

// syntaxError is a TOML syntax error and its position.
type syntaxError struct {
	offset  int // -1: see line, column
	line    int
	column  int
	message string
}

func (e *syntaxError) Error() string { return e.message }

var utf8BOM = []byte("\xef\xbb\xbf")

// parse returns the document of data, or a *syntaxError.
func parse(data []byte) (*document, error) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, &syntaxError{message: "the file is UTF-16; it must be UTF-8"}
	}
	if i := invalidUTF8(data); i >= 0 {
		return nil, &syntaxError{offset: i, message: fmt.Sprintf("byte 0x%02x is not UTF-8", data[i])}
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, &syntaxError{offset: i, message: "a NUL byte is not allowed"}
	}
	d := &document{data: data, eol: "\n", bom: bomLen(data)}
	if i := bytes.IndexByte(data, '\n'); i > 0 && data[i-1] == '\r' {
		d.eol = "\r\n"
	}
	if err := d.locate(); err != nil {
		return nil, err
	}
	values := map[string]any{}
	if _, err := toml.Decode(string(data[d.bom:]), &values); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, &syntaxError{offset: -1, line: pe.Position.Line, column: pe.Position.Col, message: strings.TrimSuffix(pe.Message, ".")}
		}
		return nil, &syntaxError{message: err.Error()}
	}
	if err := setValues(d.root, values); err != nil {
		return nil, err
	}
	return d, nil
}

func bomLen(data []byte) int {
	if bytes.HasPrefix(data, utf8BOM) {
		return len(utf8BOM)
	}
	return 0
}

func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// locate builds the tree of nodes with their positions, and the list of items.
func (d *document) locate() error {
	d.root = &node{shape: isTable, origin: headed, item: -1, at: d.bom}
	section := d.root
	var p unstable.Parser
	p.Reset(d.data[d.bom:])
	for p.NextExpression() {
		e := p.Expression()
		at := d.bom + int(e.Raw.Offset)
		if e.Kind == unstable.KeyValue {
			i := len(d.items)
			end := at + int(e.Raw.Length)
			d.items = append(d.items, item{start: d.lineStart(at), end: d.lineEnd(end), section: section})
			if err := d.keyval(e, section, dotted, i); err != nil {
				return err
			}
			continue
		}
		it := e.Key()
		it.Next()
		at = d.bom + int(it.Node().Raw.Offset)
		d.items = append(d.items, item{start: d.lineStart(at), end: d.lineEnd(at), header: true})
		i := len(d.items) - 1
		table, err := d.header(e, at, i)
		if err != nil {
			return err
		}
		section = table
		d.items[i].section = table
	}
	if err := p.Error(); err != nil {
		return d.parserError(&p, err)
	}
	return nil
}

func (d *document) parserError(p *unstable.Parser, err error) error {
	var pe *unstable.ParserError
	if errors.As(err, &pe) && len(pe.Highlight) > 0 {
		return &syntaxError{offset: d.bom + int(p.Range(pe.Highlight).Offset), message: strings.TrimSuffix(pe.Message, ".")}
	}
	return &syntaxError{offset: len(d.data), message: err.Error()}
}

func conflict(at int, key string) error {
	return &syntaxError{offset: at, message: fmt.Sprintf("key %q is defined twice", key)}
}

// header adds [a.b] or [[a.b]] to the tree and returns the table that the next keys belong to.
func (d *document) header(e *unstable.Node, at, i int) (*node, error) {
	cur := d.root
	it := e.Key()
	for it.Next() {
		key, last := string(it.Node().Data), it.IsLast()
		next := cur.child(key)
		switch {
		case next == nil:
			next = &node{shape: isTable, key: key, parent: cur, at: at, item: -1}
			if last && e.Kind == unstable.ArrayTable {
				next.shape, next.origin = isList, headed
			}
			cur.kids = append(cur.kids, next)
		case next.shape == isLeaf || next.origin == inlined:
			return nil, conflict(at, key)
		}
		if !last {
			if next.shape == isList {
				next = next.kids[len(next.kids)-1]
			}
			cur = next
			continue
		}
		if e.Kind == unstable.ArrayTable {
			if next.shape != isList {
				return nil, conflict(at, key)
			}
			elem := &node{shape: isTable, origin: headed, parent: next, at: at, item: i}
			next.kids = append(next.kids, elem)
			return elem, nil
		}
		if next.shape != isTable || next.origin != implied {
			return nil, conflict(at, key)
		}
		next.origin, next.item, next.at = headed, i, at
		return next, nil
	}
	return nil, conflict(at, "")
}

// keyval adds key = value to table; tables created for a dotted key get the origin made.
func (d *document) keyval(e *unstable.Node, table *node, made origin, i int) error {
	cur := table
	it := e.Key()
	for it.Next() {
		k := it.Node()
		key, at := string(k.Data), d.bom+int(k.Raw.Offset)
		next := cur.child(key)
		if !it.IsLast() {
			switch {
			case next == nil:
				next = &node{shape: isTable, origin: made, key: key, parent: cur, at: at, item: -1}
				cur.kids = append(cur.kids, next)
			case next.shape != isTable || next.origin == inlined:
				return conflict(at, key)
			case next.origin == implied:
				next.origin = made
			}
			cur = next
			continue
		}
		if next != nil {
			return conflict(at, key)
		}
		from := d.skip(at+int(k.Raw.Length)) + 1 // behind the '='
		v, err := d.value(e.Value(), from, i)
		if err != nil {
			return err
		}
		v.key, v.parent, v.at = key, cur, at
		cur.kids = append(cur.kids, v)
	}
	return nil
}

// value returns the node of v, which starts at from or after blanks, commas and comments behind it.
func (d *document) value(v *unstable.Node, from, i int) (*node, error) {
	n := &node{origin: inlined, start: d.skip(from), item: i}
	n.at = n.start
	switch v.Kind {
	case unstable.Array:
		n.shape = isList
		pos := n.start + 1
		for it := v.Children(); it.Next(); {
			kid, err := d.value(it.Node(), pos, i)
			if err != nil {
				return nil, err
			}
			kid.parent = n
			n.kids = append(n.kids, kid)
			pos = kid.end
		}
		n.end = d.skip(pos) + 1
	case unstable.InlineTable:
		n.shape = isTable
		pos := n.start + 1
		for it := v.Children(); it.Next(); {
			kv := it.Node()
			if err := d.keyval(kv, n, dotted, i); err != nil {
				return nil, err
			}
			pos = d.bom + int(kv.Raw.Offset) + int(kv.Raw.Length)
		}
		n.end = d.skip(pos) + 1
	default:
		n.end = d.bom + int(v.Raw.Offset) + int(v.Raw.Length)
	}
	if n.end > len(d.data) || n.end <= n.start {
		return nil, &syntaxError{offset: n.start, message: "cannot find the end of this value"}
	}
	return n, nil
}

// skip returns the first position from pos on that is not a blank, line end, comma or comment.
func (d *document) skip(pos int) int {
	for pos < len(d.data) {
		switch d.data[pos] {
		case ' ', '\t', '\r', '\n', ',':
			pos++
		case '#':
			pos = d.lineEnd(pos)
		default:
			return pos
		}
	}
	return pos
}

// lineStart returns the offset of the first byte of the line of pos; the byte order mark is not part
// of the first line.
func (d *document) lineStart(pos int) int {
	if i := bytes.LastIndexByte(d.data[d.bom:pos], '\n'); i >= 0 {
		return d.bom + i + 1
	}
	return d.bom
}

// lineEnd returns the offset of the first byte after the line of pos.
func (d *document) lineEnd(pos int) int {
	if i := bytes.IndexByte(d.data[pos:], '\n'); i >= 0 {
		return pos + i + 1
	}
	return len(d.data)
}

// setValues sets the decoded values in the tree below n. It fails if the tree and the values differ
// in their keys or shapes.
func setValues(n *node, v any) error {
	differ := func() error {
		return &syntaxError{offset: n.at, message: fmt.Sprintf("key %q is ambiguous: two TOML parsers read it differently", n.key)}
	}
	switch n.shape {
	case isTable:
		m, ok := v.(map[string]any)
		if !ok || len(m) != len(n.kids) {
			return differ()
		}
		for _, k := range n.kids {
			kv, ok := m[k.key]
			if !ok {
				return differ()
			}
			if err := setValues(k, kv); err != nil {
				return err
			}
		}
	case isList:
		elems, ok := v.([]any)
		if tables, isTables := v.([]map[string]any); isTables {
			ok = true
			for _, t := range tables {
				elems = append(elems, t)
			}
		}
		if !ok || len(elems) != len(n.kids) {
			return differ()
		}
		for i, k := range n.kids {
			if err := setValues(k, elems[i]); err != nil {
				return err
			}
		}
	default:
		switch v.(type) {
		case map[string]any, []any, []map[string]any:
			return differ()
		}
		n.val = v
	}
	return nil
}

// position returns the line and column (in characters) of an offset; both start at 1.
func (d *document) position(offset int) (line, column int) {
	return position(d.data, d.bom, offset)
}

func position(data []byte, bom, offset int) (line, column int) {
	offset = min(max(offset, bom), len(data))
	before := data[bom:offset]
	line = 1 + bytes.Count(before, []byte("\n"))
	if i := bytes.LastIndexByte(before, '\n'); i >= 0 {
		before = before[i+1:]
	}
	return line, 1 + utf8.RuneCount(before)
}
