package config

import (
	"bytes"
	"strings"
)

// removeElement removes element k from [ ... ] with its comma. If nothing else is on its lines, they
// are removed too, with the comment after the element.
func (d *document) removeElement(list *node, k int) edit {
	n := list.kids[k]
	start, end := n.start, n.end
	comma := d.comma(end)
	if comma >= 0 {
		end = comma + 1
	}
	line := d.lineStart(start)
	ownLine := line > list.start && d.isBlank(line, start)
	if rest := d.data[end:d.lineEnd(end)]; ownLine && endsLine(rest) {
		return edit{line, d.lineEnd(end), ""}
	}
	if comma >= 0 {
		return edit{start, d.blankEnd(end), ""}
	}
	if k > 0 {
		// The last element has no comma: remove the comma before it instead, unless that is on
		// another line, where it may stay.
		before := list.kids[k-1].end
		if !bytes.ContainsAny(d.data[before:start], "\n#") {
			return edit{before, end, ""}
		}
	}
	return edit{start, end, ""}
}

// endsLine reports whether rest, the remainder of a line, contains only blanks and a comment and
// ends with a newline.
func endsLine(rest []byte) bool {
	if !bytes.HasSuffix(rest, []byte("\n")) {
		return false
	}
	rest = bytes.TrimSpace(rest)
	return len(rest) == 0 || rest[0] == '#'
}

// appendElement adds an element to [ ... ], on a line of its own if the last element is on one.
func (d *document) appendElement(list *node, text string) []edit {
	if len(list.kids) == 0 {
		at := list.start + 1
		return []edit{{at, at, text}}
	}
	last := list.kids[len(list.kids)-1]
	comma := d.comma(last.end)
	line := d.lineStart(last.start)
	if line <= list.start || !d.isBlank(line, last.start) {
		if comma >= 0 {
			return []edit{{comma + 1, comma + 1, " " + text + ","}}
		}
		return []edit{{last.end, last.end, ", " + text}}
	}
	added := d.eol + string(d.data[line:last.start]) + text
	behind := last.end
	var edits []edit
	if comma >= 0 {
		behind = comma + 1
		added += ","
	} else {
		edits = append(edits, edit{last.end, last.end, ","})
	}
	// A comment after the last element stays on that line.
	at := behind
	if rest := d.data[behind:d.lineEnd(behind)]; endsLine(rest) {
		at = behind + len(bytes.TrimRight(rest, "\r\n"))
	}
	return append(edits, edit{at, at, added})
}

// listStrings returns the elements of a list as strings, as the binder reads them; numbers reports
// whether some are integers. ok is false if the list holds other types.
func (n *node) listStrings() (elems []string, numbers, ok bool) {
	for _, k := range n.kids {
		switch k.val.(type) {
		case string:
			elems = append(elems, k.val.(string))
		case int64:
			elems, numbers = append(elems, formatInt(k.val.(int64))), true
		default:
			return nil, false, false
		}
	}
	return elems, numbers, true
}

// listSteps returns how to turn have into want: the indices of have to remove, and the elements to
// append.
func listSteps(have, want []string) (out []int, added []string) {
	j := 0
	for i, s := range have {
		if j < len(want) && want[j] == s {
			j++
		} else {
			out = append(out, i)
		}
	}
	return out, want[j:]
}

func joinElements(want []string, numbers bool) string {
	parts := make([]string, len(want))
	for i, s := range want {
		parts[i] = element(s, numbers)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}
