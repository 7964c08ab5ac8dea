package secretscan

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decode returns the text of a file as UTF-8, or true if the file is binary: it contains NULs, no byte
// order mark says that it is UTF-16 or UTF-32, and without the NULs it does not look like text either.
func decode(data []byte) (string, bool) {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe\x00\x00")):
		return wide(data[4:], 4, binary.LittleEndian), false
	case bytes.HasPrefix(data, []byte("\x00\x00\xfe\xff")):
		return wide(data[4:], 4, binary.BigEndian), false
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		return wide(data[2:], 2, binary.LittleEndian), false
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		return wide(data[2:], 2, binary.BigEndian), false
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	nuls := bytes.Count(data, []byte{0})
	if nuls == 0 {
		return string(data), false
	}
	control := 0
	for _, c := range data {
		if c < ' ' && c != 0 && !textControl(c) {
			control++
		}
	}
	if control*50 > len(data)-nuls || !utf8.Valid(bytes.ReplaceAll(data, []byte{0}, nil)) {
		return "", true
	}
	if nuls*3 > len(data) { // UTF-16 without a byte order mark
		return strings.ReplaceAll(string(data), "\x00", ""), false
	}
	return strings.ReplaceAll(string(data), "\x00", "\n"), false // a list like /proc/self/environ
}

// textControl reports whether a control character occurs in text: tab, line breaks, escape.
func textControl(c byte) bool { return c >= '\a' && c <= '\r' || c == 0x1b }

// wide decodes characters of two or four bytes. A rest that is not a complete character is kept as it
// is, so that it is searched too.
func wide(data []byte, size int, order binary.ByteOrder) string {
	var out strings.Builder
	for ; len(data) >= size; data = data[size:] {
		var r rune
		if size == 4 {
			r = rune(order.Uint32(data))
		} else if r = rune(order.Uint16(data)); utf16.IsSurrogate(r) && len(data) >= 4 {
			if pair := utf16.DecodeRune(r, rune(order.Uint16(data[2:]))); pair != '\uFFFD' {
				r, data = pair, data[2:]
			}
		}
		out.WriteRune(r)
	}
	out.Write(data)
	return out.String()
}

// textsOf returns the texts in a binary file: what is between bytes that are not text, as 8-bit
// characters, and the same without NULs, which shows UTF-16.
func textsOf(data []byte) []string {
	views := []string{string(data), strings.ReplaceAll(string(data), "\x00", "")}
	for i, v := range views {
		b := []byte(v)
		for j, c := range b {
			if c < ' ' && c != '\t' || c >= 0x7f {
				b[j] = '\n'
			}
		}
		views[i] = string(b)
	}
	return views
}
