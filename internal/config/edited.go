package config

import (
	"bytes"
	"context"
	"errors"
	"slices"
)

// ErrEditConflict reports that the user and another aivm changed the same lines.
var ErrEditConflict = errors.New("another process changed the same lines while you edited it")

// Text returns the content of the store, valid or not.
func Text(path string) ([]byte, error) {
	raw, _, err := readFile(path)
	return raw, err
}

// SaveEdited writes text, the store as the user edited it, to the store at path. base is the content
// the user started from. If other runs changed the store while the editor was open, their lines are
// merged with the user's; if both changed the same lines, SaveEdited writes nothing and returns
// ErrEditConflict. text need not be valid TOML.
func SaveEdited(ctx context.Context, path string, base, text []byte) error {
	return writeRetrying(ctx, path, func(f *storeFile) (*Store, []byte, error) {
		raw, exists, err := readFile(f.target)
		if err != nil {
			return nil, nil, err
		}
		out, ok := text, true
		if !bytes.Equal(raw, base) {
			out, ok = mergeEdits(base, text, raw)
		}
		switch {
		case !ok:
			return nil, nil, ErrEditConflict
		case bytes.Equal(out, raw):
			return nil, nil, nil
		case out == nil:
			out = []byte{} // the user emptied the file; nil would mean: write nothing
		}
		return &Store{Path: path, Raw: raw, Exists: exists}, out, nil
	})
}

// mergeEdits merges two changed versions of base, the user's and that of other runs. It fails if the
// ranges of lines of base that they replace overlap, or if the result is not valid TOML although
// the user's version is. If both add lines at the same place, the user's come first: aivm adds
// complete sections, and keys after a section header would belong to that section.
func mergeEdits(base, edited, other []byte) ([]byte, bool) {
	if len(base) > 0 && base[len(base)-1] != '\n' {
		// The last line has no newline: adding lines after it would change it.
		return nil, false
	}
	b := slices.Collect(bytes.Lines(base))
	f1, l1, e := hunk(b, slices.Collect(bytes.Lines(edited)))
	f2, l2, o := hunk(b, slices.Collect(bytes.Lines(other)))
	var parts [][]byte
	switch {
	case l1 <= f2:
		parts = [][]byte{joinLines(b[:f1]), withLineEnd(joinLines(e)), joinLines(b[l1:f2]), joinLines(o), joinLines(b[l2:])}
	case l2 <= f1:
		parts = [][]byte{joinLines(b[:f2]), joinLines(o), joinLines(b[l2:f1]), joinLines(e), joinLines(b[l1:])}
	default:
		return nil, false
	}
	out := joinLines(parts)
	if _, err := parse(edited); err == nil {
		if _, err := parse(out); err != nil {
			return nil, false
		}
	}
	return out, true
}

// hunk returns the smallest range of lines that differs between base and now: the lines
// base[first:last] are replaced by the lines put.
func hunk(base, now [][]byte) (first, last int, put [][]byte) {
	for first < len(base) && first < len(now) && bytes.Equal(base[first], now[first]) {
		first++
	}
	end := 0
	for end < len(base)-first && end < len(now)-first && bytes.Equal(base[len(base)-1-end], now[len(now)-1-end]) {
		end++
	}
	return first, len(base) - end, now[first : len(now)-end]
}

func joinLines(ls [][]byte) []byte { return bytes.Join(ls, nil) }

// withLineEnd adds a newline to the last line of text if it has none.
func withLineEnd(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return append(bytes.Clone(text), '\n')
	}
	return text
}
