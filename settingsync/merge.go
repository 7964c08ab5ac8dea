package settingsync

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Merged is the result of a merge.
type Merged struct {
	Text    string   // the new content of the guest's file
	Changed bool     // Text differs from what the guest has
	Kept    []string // keys both sides changed: the guest's value stays
}

// Merge merges the host's settings into the guest's file, key by key, three ways: base is what was
// sent last ("" if nothing was). A key that did not change in the guest takes the host's value, or
// is removed if the host removed it; one that changed or was removed in the guest stays as the
// guest has it. Objects are merged recursively ("[python]", "files.exclude"). Every other byte of
// the guest's file stays, including comments.
//
// The error is a *SyntaxError of the guest's file; host and base come from aivm and are valid, or
// the error reports it.
func Merge(base, host, guest string) (Merged, error) {
	h, err := parseObject(host)
	if err != nil {
		return Merged{}, err
	}
	g, err := parseObject(guest)
	if err != nil {
		return Merged{}, err
	}
	if g.start == g.end { // only space and comments
		text := strings.TrimPrefix(host, bom)
		if strings.TrimSpace(strings.TrimPrefix(guest, bom)) != "" {
			text = strings.TrimRight(guest, " \t\r\n") + "\n" + text
		}
		return Merged{Text: text, Changed: text != guest}, nil
	}
	var b *node
	if base != "" {
		if b, err = parseObject(base); err != nil {
			return Merged{}, err
		}
	}
	m := &merger{base: base, host: host, guest: guest}
	m.mergeObject(g, h, b, nil)
	out := applyEdits(guest, m.edits)
	if len(m.inserts) > 0 {
		if out, err = insertAll(out, m.inserts); err != nil {
			return Merged{}, err
		}
	}
	return Merged{Text: out, Changed: out != guest, Kept: m.kept}, nil
}

type merger struct {
	base, host, guest string
	edits             []edit
	inserts           []insert
	kept              []string
}

// edit replaces text[from:to].
type edit struct {
	from, to int
	with     string
}

// insert is a member to add to the object at path.
type insert struct {
	path       []string
	key, value string
}

func (m *merger) mergeObject(g, h, b *node, path []string) {
	keys := h.keys()
	if b != nil {
		for _, k := range b.keys() {
			if h.find(k) == nil {
				keys = append(keys, k)
			}
		}
	}
	gone := map[string]bool{}
	for _, k := range keys {
		hm, gm := h.find(k), g.find(k)
		var bm *member
		if b != nil {
			bm = b.find(k)
		}
		same := func(x *member, xt string, y *member, yt string) bool {
			return x != nil && y != nil && x.val.plain(xt) == y.val.plain(yt)
		}
		switch {
		case hm == nil && gm == nil:
		case hm == nil: // removed on the host
			if same(gm, m.guest, bm, m.base) {
				gone[k] = true
			} else {
				m.keepGuest(path, k)
			}
		case gm == nil && bm == nil:
			m.inserts = append(m.inserts, insert{path, k, valueText(m.host, hm)})
		case gm == nil: // removed in the guest
			if !same(hm, m.host, bm, m.base) {
				m.keepGuest(path, k)
			}
		case same(gm, m.guest, hm, m.host):
		case hm.val.kind == '{' && gm.val.kind == '{':
			var inner *node
			if bm != nil && bm.val.kind == '{' {
				inner = bm.val
			}
			m.mergeObject(gm.val, hm.val, inner, append(slices.Clone(path), k))
		case same(gm, m.guest, bm, m.base):
			m.edits = append(m.edits, edit{gm.val.start, gm.val.end, indented(valueText(m.host, hm), lineIndent(m.guest, gm.keyStart), newline(m.guest))})
		case !same(hm, m.host, bm, m.base):
			m.keepGuest(path, k)
		}
	}
	m.edits = append(m.edits, removals(m.guest, g, func(x member) bool { return gone[x.key] })...)
}

func (m *merger) keepGuest(path []string, key string) {
	m.kept = append(m.kept, strings.Join(append(slices.Clone(path), key), " / "))
}

// valueText returns the text of a value without the indentation of its line.
func valueText(text string, m *member) string {
	indent := lineIndent(text, m.keyStart)
	lines := strings.Split(strings.ReplaceAll(text[m.val.start:m.val.end], "\r\n", "\n"), "\n")
	for i := 1; i < len(lines); i++ {
		lines[i] = strings.TrimPrefix(lines[i], indent)
	}
	return strings.Join(lines, "\n")
}

func indented(value, indent, nl string) string {
	return strings.ReplaceAll(value, "\n", nl+indent)
}

func newline(text string) string {
	if strings.Contains(text, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// lineIndent returns the white space at the start of the line at this offset.
func lineIndent(text string, at int) string {
	line := text[strings.LastIndexByte(text[:at], '\n')+1 : at]
	return line[:len(line)-len(strings.TrimLeft(line, " \t"))]
}

// removals returns the edits that remove members from an object. A line that contains only the
// member is removed entirely; comments stay.
func removals(text string, n *node, gone func(member) bool) []edit {
	var out []edit
	last := -1 // the last member that is kept
	removed := false
	for i, m := range n.members {
		if !gone(m) {
			last = i
			continue
		}
		removed = true
		from, to := m.keyStart, m.val.end
		if m.comma >= 0 {
			// Keep comments between value and comma.
			if strings.TrimSpace(text[to:m.comma]) == "" {
				to = m.comma + 1
			} else {
				out = append(out, edit{m.comma, m.comma + 1, ""})
			}
		}
		lineStart := strings.LastIndexByte(text[:from], '\n') + 1
		lineEnd := len(text)
		if i := strings.IndexByte(text[to:], '\n'); i >= 0 {
			lineEnd = to + i + 1
		}
		switch {
		case lineEnd <= n.end && lineStart > n.start && strings.TrimSpace(text[lineStart:from]) == "" && strings.TrimSpace(text[to:lineEnd]) == "":
			from, to = lineStart, lineEnd
		default:
			for to < len(text) && (text[to] == ' ' || text[to] == '\t') {
				to++
			}
		}
		out = append(out, edit{from, to, ""})
	}
	if !removed || last < 0 || n.comma {
		return out
	}
	// The object had no trailing comma, so it gets none now.
	if c := n.members[last].comma; c >= 0 && last < len(n.members)-1 {
		out = append(out, edit{c, c + 1, ""})
	}
	return out
}

// applyEdits applies edits that do not overlap.
func applyEdits(text string, edits []edit) string {
	slices.SortFunc(edits, func(a, b edit) int { return a.from - b.from })
	var out strings.Builder
	at := 0
	for _, e := range edits {
		out.WriteString(text[at:e.from])
		out.WriteString(e.with)
		at = e.to
	}
	out.WriteString(text[at:])
	return out.String()
}

// insertAll inserts members at the ends of their objects.
func insertAll(text string, ins []insert) (string, error) {
	root, err := parseObject(text)
	if err != nil {
		return "", err
	}
	var edits []edit
	done := make([]bool, len(ins))
	for i := range ins {
		if done[i] {
			continue
		}
		n := root
		for _, k := range ins[i].path {
			if m := n.find(k); m != nil {
				n = m.val
			}
		}
		var group []insert
		for j := i; j < len(ins); j++ {
			if slices.Equal(ins[j].path, ins[i].path) {
				group, done[j] = append(group, ins[j]), true
			}
		}
		edits = append(edits, insertInto(text, n, group)...)
	}
	return applyEdits(text, edits), nil
}

func insertInto(text string, n *node, group []insert) []edit {
	nl := newline(text)
	closing := n.end - 1
	outer := lineIndent(text, n.start)
	indent := outer + "    "
	flat := !strings.Contains(text[n.start:n.end], "\n")
	if len(n.members) > 0 && !flat {
		indent = lineIndent(text, n.members[0].keyStart)
	}
	var out []edit
	if k := len(n.members); k > 0 && !n.comma {
		out = append(out, edit{n.members[k-1].val.end, n.members[k-1].val.end, ","})
	}
	var parts []string
	for _, in := range group {
		parts = append(parts, quoteKey(in.key)+": "+indented(in.value, indent, nl))
	}
	end := n.start + len(strings.TrimRight(text[n.start:closing], " \t\r\n"))
	if flat && len(n.members) > 0 && len(outer) > 0 {
		// A one-line object stays on one line, unless it is the entire file.
		return append(out, edit{end, closing, " " + strings.Join(parts, ", ") + text[end:closing]})
	}
	return append(out, edit{end, closing, nl + indent + strings.Join(parts, ","+nl+indent) + nl + outer})
}

func quoteKey(k string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(k) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
