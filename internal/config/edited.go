package config

import (
	"bytes"
	"context"
	"errors"
	"slices"
)

// ErrEdited says that what a person wrote and what other runs wrote meanwhile
// change the same lines.
var ErrEdited = errors.New("it was changed meanwhile, in the same lines")

// Text is the store as it is, whatever is in it.
func Text(path string) ([]byte, error) {
	raw, _, err := readFile(path)
	return raw, err
}

// Edited writes what a person made of the store in a text editor. base is what
// they were given. An editor may be open for hours while other runs record
// something: their lines and the person's are put together where they change
// different places, and nothing is written where they do not. What the person
// wrote need not be a valid store.
func Edited(ctx context.Context, path string, base, text []byte) error {
	return putAgain(ctx, path, func(f *storeFile) (*Store, []byte, error) {
		raw, exists, err := readFile(f.target)
		if err != nil {
			return nil, nil, err
		}
		out, ok := text, true
		if !bytes.Equal(raw, base) {
			out, ok = together(base, text, raw)
		}
		switch {
		case !ok:
			return nil, nil, ErrEdited
		case bytes.Equal(out, raw):
			return nil, nil, nil
		case out == nil:
			out = []byte{} // emptied, which is to be written
		}
		return &Store{Path: path, Raw: raw, Exists: exists}, out, nil
	})
}

// together puts two changes of base together that are in different places: the
// lines from first to last of base each replaces do not overlap. Where both add
// at one place mine comes first: aivm adds whole sections, which end what stands
// before them. What does not parse afterwards, although mine does, is no merge.
func together(base, mine, theirs []byte) ([]byte, bool) {
	if len(base) > 0 && base[len(base)-1] != '\n' {
		// A last line without an end: adding behind it would change it.
		return nil, false
	}
	b := slices.Collect(bytes.Lines(base))
	f1, l1, m := hunk(b, slices.Collect(bytes.Lines(mine)))
	f2, l2, t := hunk(b, slices.Collect(bytes.Lines(theirs)))
	var parts [][]byte
	switch {
	case l1 <= f2:
		parts = [][]byte{whole(b[:f1]), ended(whole(m)), whole(b[l1:f2]), whole(t), whole(b[l2:])}
	case l2 <= f1:
		parts = [][]byte{whole(b[:f2]), whole(t), whole(b[l2:f1]), whole(m), whole(b[l1:])}
	default:
		return nil, false
	}
	out := whole(parts)
	if _, err := parse(mine); err == nil {
		if _, err := parse(out); err != nil {
			return nil, false
		}
	}
	return out, true
}

// hunk finds the lines first to last of base in whose place put stands.
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

func whole(ls [][]byte) []byte { return bytes.Join(ls, nil) }

// ended gives a text that others follow the end of its last line.
func ended(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return append(bytes.Clone(text), '\n')
	}
	return text
}
