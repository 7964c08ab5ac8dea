package config

import (
	"bytes"
	"slices"
	"strings"
)

// An edit replaces data[start:end] by text. Every function in this file computes, from one parsed
// document, the edits for one change; the caller applies them and parses the result again, so
// positions are never outdated.
type edit struct {
	start, end int
	text       string
}

// apply returns the data with the edits applied; edits must not overlap.
func (d *document) apply(edits []edit) []byte {
	slices.SortStableFunc(edits, func(a, b edit) int { return a.start - b.start })
	out := make([]byte, 0, len(d.data)+256)
	pos := 0
	for _, e := range edits {
		out = append(out, d.data[pos:e.start]...)
		out = append(out, e.text...)
		pos = e.end
	}
	return append(out, d.data[pos:]...)
}

// find follows a path of keys (string) and list indices (int) as far as it exists. It returns the
// last node and the keys of the part that does not exist.
func (d *document) find(path []any) (n *node, rest []string) {
	n = d.root
	for i, step := range path {
		var next *node
		switch s := step.(type) {
		case string:
			if n.shape == isTable {
				next = n.child(s)
			}
		case int:
			if n.shape == isList && s < len(n.kids) {
				next = n.kids[s]
			}
		}
		if next == nil {
			for _, s := range path[i:] {
				if key, ok := s.(string); ok {
					rest = append(rest, key)
				}
			}
			return n, rest
		}
		n = next
	}
	return n, nil
}

// put sets key in the table at path to an encoded value. A table that does not exist is added in the
// notation of its surroundings (header, dotted key or inline).
func (d *document) put(path []any, key, value string) []edit {
	n, rest := d.find(path)
	if len(rest) == 0 {
		if k := n.child(key); k != nil {
			return []edit{{k.start, k.end, value}}
		}
	}
	host, prefix := hostOf(n)
	keys := append(append(append([]string{}, prefix...), rest...), key)
	switch {
	case host.origin == inlined:
		return []edit{d.intoInline(host, dottedKey(keys)+" = "+value)}
	case n.origin == dotted:
		// The table is defined by dotted keys; a header for it would define it twice.
		last := d.items[d.lastKey(n, host)]
		return []edit{d.lineAt(last.end, d.indentOf(last)+dottedKey(keys)+" = "+value)}
	case len(rest) == 0 && n.origin == headed:
		return []edit{d.intoSection(n, dottedKey([]string{key})+" = "+value)}
	}
	text := "[" + dottedKey(append(headerPath(n), rest...)) + "]" + d.eol + bareOrQuoted(key) + " = " + value
	return []edit{d.blockAt(d.endOf(n), text)}
}

// hostOf returns the section or inline table that contains n if n was defined by dotted keys, and
// the keys from there to n; otherwise it returns n.
func hostOf(n *node) (host *node, prefix []string) {
	for host = n; host.origin == dotted; host = host.parent {
		prefix = append([]string{host.key}, prefix...)
	}
	return host, prefix
}

// headerPath returns the keys in the header of a table.
func headerPath(n *node) []string {
	var keys []string
	for ; n.parent != nil; n = n.parent {
		if n.parent.shape != isList {
			keys = append([]string{n.key}, keys...)
		}
	}
	return keys
}

// lastItem returns the index of the last item that defines n or something below it, or -1.
func (d *document) lastItem(n *node) int {
	last := n.item
	for _, k := range n.kids {
		last = max(last, d.lastItem(k))
	}
	return last
}

// lastKey returns the index of the last key in section that defines n or something below it, or -1.
// n may also have headers elsewhere.
func (d *document) lastKey(n, section *node) int {
	last := -1
	if n.item >= 0 && d.items[n.item].section == section {
		last = n.item
	}
	for _, k := range n.kids {
		last = max(last, d.lastKey(k, section))
	}
	return last
}

// endOf returns the offset at which to add a new table below n: after the last item of n and the
// comment lines directly below it, or the end of the file if n has no item.
func (d *document) endOf(n *node) int {
	last := d.lastItem(n)
	if n.parent == nil || last < 0 {
		return len(d.data)
	}
	return d.items[last].end + d.gap(last).below
}

// intoSection adds a key line to a [section] or to the top of the file.
func (d *document) intoSection(n *node, line string) edit {
	last := -1
	for i, it := range d.items {
		if it.section == n {
			last = i
		}
	}
	switch {
	case last >= 0 && d.items[last].header:
		return d.lineAt(d.items[last].end, line)
	case last >= 0:
		return d.lineAt(d.items[last].end, d.indentOf(d.items[last])+line)
	case len(d.items) > 0:
		// The first top-level key of a file that starts with a header.
		at := d.items[0].start - d.gap(-1).above
		return edit{at, at, line + d.eol + d.eol}
	}
	return d.lineAt(len(d.data), line)
}

func (d *document) indentOf(it item) string {
	line := d.data[it.start:it.end]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}

// lineAt adds a line at offset at, the start of a line. If the file does not end with a line end, it
// still does not after the edit.
func (d *document) lineAt(at int, line string) edit {
	if at == len(d.data) && at > d.bom && d.data[at-1] != '\n' {
		return edit{at, at, d.eol + line}
	}
	return edit{at, at, line + d.eol}
}

// blockAt adds lines at offset at, with a blank line before them.
func (d *document) blockAt(at int, text string) edit {
	e := d.lineAt(at, strings.TrimSuffix(text, d.eol))
	before := bytes.TrimRight(d.data[d.bom:at], " \t")
	switch {
	case len(before) == 0:
	case at == len(d.data) && before[len(before)-1] != '\n':
		e.text = d.eol + e.text
	case !bytes.HasSuffix(bytes.TrimSuffix(bytes.TrimSuffix(before, []byte("\n")), []byte("\r")), []byte("\n")):
		e.text = d.eol + e.text
	}
	return e
}

// intoInline adds a key to { ... }.
func (d *document) intoInline(n *node, pair string) edit {
	if len(n.kids) == 0 {
		return edit{n.start + 1, d.blankEnd(n.start + 1), " " + pair + " "}
	}
	last := n.lastEnd()
	if comma := d.comma(last); comma >= 0 {
		return edit{comma + 1, comma + 1, " " + pair}
	}
	return edit{last, last, ", " + pair}
}

func (d *document) blankEnd(pos int) int {
	for pos < len(d.data) && (d.data[pos] == ' ' || d.data[pos] == '\t') {
		pos++
	}
	return pos
}

// lastEnd returns the offset after the last value in an inline table.
func (n *node) lastEnd() int {
	last := 0
	for _, k := range n.kids {
		if k.origin == dotted {
			last = max(last, k.lastEnd())
		} else {
			last = max(last, k.end)
		}
	}
	return last
}

// comma returns the offset of the comma that follows pos, after blanks and comments, or -1.
func (d *document) comma(pos int) int {
	for pos < len(d.data) {
		switch d.data[pos] {
		case ' ', '\t', '\r', '\n':
			pos++
		case '#':
			pos = d.lineEnd(pos)
		case ',':
			return pos
		default:
			return -1
		}
	}
	return -1
}

// A gap is the text between two items, in bytes: the comment lines directly below the first item
// (below), the blank lines at its end (blank) and the comment lines directly above the second item
// (above).
type gap struct {
	below, blank, above int
}

// gap returns the gap after item i; -1 is the start of the file.
func (d *document) gap(i int) gap {
	start, end := d.bom, len(d.data)
	if i >= 0 {
		start = d.items[i].end
	}
	if i+1 < len(d.items) {
		end = d.items[i+1].start
	}
	var g gap
	pos := end
	if i+1 < len(d.items) {
		for pos > start && !d.isBlank(d.lineStart(pos-1), pos) {
			pos = d.lineStart(pos - 1)
		}
		g.above = end - pos
	}
	for pos > start && d.isBlank(d.lineStart(pos-1), pos) {
		pos = d.lineStart(pos - 1)
	}
	g.blank = end - g.above - pos
	if i < 0 {
		return g
	}
	for end = pos; start+g.below < end; {
		next := d.lineEnd(start + g.below)
		if d.isBlank(start+g.below, next) {
			break
		}
		g.below = next - start
	}
	return g
}

func (d *document) isBlank(start, end int) bool {
	return len(bytes.TrimSpace(d.data[start:end])) == 0
}

// removeRecords removes records of a list written with [[headers]]: their tables, the comments
// directly above and below their lines, and the blank lines before them.
func (d *document) removeRecords(recs []*node) []edit {
	removed := func(i int) bool {
		for _, r := range recs {
			if d.items[i].section.under(r) {
				return true
			}
		}
		return false
	}
	var edits []edit
	top := d.bom // everything before it is removed
	for i := range d.items {
		if !removed(i) {
			continue
		}
		before, after := d.gap(i-1), d.gap(i)
		start := d.items[i].start - before.above - before.blank
		end := d.items[i].end + after.below
		if start <= top {
			// Nothing remains above: avoid blank lines at the top of the file.
			end = d.blanksEnd(end, i)
			top = end
		}
		edits = append(edits, edit{start, end, ""})
	}
	return merge(edits)
}

// blanksEnd returns the offset after the blank lines at pos, at most the start of the item after
// item i.
func (d *document) blanksEnd(pos, i int) int {
	end := len(d.data)
	if i+1 < len(d.items) {
		end = d.items[i+1].start
	}
	for pos < end && d.isBlank(pos, min(d.lineEnd(pos), end)) {
		pos = min(d.lineEnd(pos), end)
	}
	return pos
}

// merge joins overlapping removals.
func merge(edits []edit) []edit {
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	var out []edit
	for _, e := range edits {
		if n := len(out); n > 0 && e.start <= out[n-1].end {
			out[n-1].end = max(out[n-1].end, e.end)
			continue
		}
		out = append(out, e)
	}
	return out
}
