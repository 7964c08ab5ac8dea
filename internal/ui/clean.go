package ui

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes s safe to show on one line of a terminal: control characters,
// escape sequences, line breaks, bidirectional and invisible format characters
// and bytes that are not UTF-8 are shown as Go-like escapes. What is printable
// (unicode.IsPrint, and the plain space) stays.
func Clean(s string) string { return clean(s, "") }

// CleanTo does what Clean does and shortens the result to at most limit runes, the last
// one "…" if something was cut. It never cuts within an escape.
func CleanTo(s string, limit int) string {
	if limit <= 0 {
		return ""
	}
	// Each input rune yields at least one output rune, so runes after limit+1 cannot be
	// shown; cut them off first, since s may be very long.
	n := 0
	for i := range s {
		if n > limit {
			s = s[:i]
			break
		}
		n++
	}
	var b strings.Builder
	used, last := 0, 0 // last: length of b up to which "…" still fits
	for len(s) > 0 {
		piece, size := cleanRune(s, "")
		w := utf8.RuneCountInString(piece)
		if used+w > limit {
			return b.String()[:last] + "…"
		}
		b.WriteString(piece)
		used += w
		if used < limit {
			last = b.Len()
		}
		s = s[size:]
	}
	return b.String()
}

// CleanLines does what Clean does for a text of several lines: line feeds and tabs stay.
func CleanLines(s string) string { return clean(s, "\n\t") }

func clean(s, keep string) string {
	if plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for len(s) > 0 {
		piece, size := cleanRune(s, keep)
		b.WriteString(piece)
		s = s[size:]
	}
	return b.String()
}

func plain(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// cleanRune returns the cleaned form of the first rune of s, and the rune's size in bytes.
func cleanRune(s, keep string) (string, int) {
	r, size := utf8.DecodeRuneInString(s)
	switch {
	case r == utf8.RuneError && size == 1:
		return fmt.Sprintf(`\x%02x`, s[0]), 1
	case unicode.IsPrint(r) || strings.ContainsRune(keep, r):
		return s[:size], size
	case r == '\n':
		return `\n`, size
	case r == '\r':
		return `\r`, size
	case r == '\t':
		return `\t`, size
	case r < 0x80:
		return fmt.Sprintf(`\x%02x`, r), size
	case r < 0x10000:
		return fmt.Sprintf(`\u%04x`, r), size
	}
	return fmt.Sprintf(`\U%08x`, r), size
}

// oneLine joins the lines of a text (from errors.Join or a program's output) with "; "
// and cleans it.
func oneLine(s string) string {
	var parts []string
	for line := range strings.SplitSeq(s, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, Clean(line))
		}
	}
	return strings.Join(parts, "; ")
}

// Some lists names for a sentence: the first most names, each cleaned and shortened to
// 200 runes, and the number of the others ("a, b and 3 more").
func Some(names []string, most int) string {
	shown := make([]string, 0, min(most, len(names)))
	for _, n := range names[:min(most, len(names))] {
		shown = append(shown, CleanTo(n, 200))
	}
	text := strings.Join(shown, ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
