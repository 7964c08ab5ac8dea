package config

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/ui"
)

// EditCopy is a copy of the store that a person has in a text editor. It lies
// in a directory of its own, with what it was made of, until it is taken over:
// an editor can save it long after the run that made it ended, or was killed.
type EditCopy struct {
	Path  string // what the editor opens
	Store string // the store it is a copy of
	dir   string
	base  []byte
}

// The directory of a copy: "of" holds the store's path, "base" its content,
// "open" is locked while a run waits for the editor, "copy/NAME" is the copy.
const (
	copyOf, copyBase, copyOpen, copyDir = "of", "base", "open", "copy"
	// unsavedKept is how long a copy that nobody saved is kept.
	unsavedKept = 7 * 24 * time.Hour
)

// NewEditCopy makes a copy of the store at path below dir and marks it as open
// until done is called.
func NewEditCopy(ctx context.Context, dir, path, who string) (c *EditCopy, done func(), err error) {
	base, err := Text(path)
	if err != nil {
		return nil, nil, err
	}
	failed := func(err error) error {
		return ui.Failed("a copy of the config to edit could not be made: %w", err).Hint(ui.Cmd("df -h " + shellescape.Quote(filepath.Dir(dir))))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, failed(err)
	}
	own, err := os.MkdirTemp(dir, "")
	if err != nil {
		return nil, nil, failed(err)
	}
	c = &EditCopy{Path: filepath.Join(own, copyDir, filepath.Base(path)), Store: path, dir: own, base: base}
	done, _, err = lockfile.Lock(ctx, filepath.Join(own, copyOpen), who, nil)
	if err == nil {
		err = errors.Join(
			os.Mkdir(filepath.Dir(c.Path), 0o700), os.WriteFile(filepath.Join(own, copyOf), []byte(path), 0o600),
			os.WriteFile(filepath.Join(own, copyBase), base, 0o600), os.WriteFile(c.Path, base, 0o600),
		)
		if err != nil {
			done()
		}
	}
	if err != nil {
		_ = c.Remove()
		return nil, nil, failed(err)
	}
	return c, done, nil
}

// ErrNoEditCopy says that a file was not made by NewEditCopy.
var ErrNoEditCopy = errors.New("it is not a copy that aivm config edit made")

// OpenEditCopy finds the copy at path again. The error wraps ErrNoEditCopy if
// it is none.
func OpenEditCopy(path string) (*EditCopy, error) {
	dir := filepath.Dir(filepath.Dir(path))
	if filepath.Base(filepath.Dir(path)) != copyDir {
		return nil, ErrNoEditCopy
	}
	of, err := os.ReadFile(filepath.Join(dir, copyOf))
	if err != nil {
		return nil, ErrNoEditCopy
	}
	base, err := os.ReadFile(filepath.Join(dir, copyBase))
	if err != nil {
		return nil, ErrNoEditCopy
	}
	c := &EditCopy{Path: path, Store: string(of), dir: dir, base: base}
	if !filepath.IsAbs(c.Store) || filepath.Base(c.Store) != filepath.Base(path) {
		return nil, ErrNoEditCopy
	}
	return c, nil
}

// Open reports whether another run waits for the editor that has this copy.
func (c *EditCopy) Open() bool { return lockfile.Held(filepath.Join(c.dir, copyOpen)) }

// Saved reports whether the copy differs from the store it was made of. A copy
// that cannot be read counts as saved: nothing is thrown away for that.
func (c *EditCopy) Saved() bool {
	text, err := os.ReadFile(c.Path)
	return err != nil || !bytes.Equal(text, c.base)
}

// Take writes what was saved in the copy into the store, as Edited does.
func (c *EditCopy) Take(ctx context.Context) error {
	text, err := os.ReadFile(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return ui.Refused("%s is gone: the editor moved or deleted it", c.Path).Hint(ui.Cmd("ls -la " + shellescape.Quote(filepath.Dir(c.Path))))
	}
	if err != nil {
		return ui.Failed("reading what was edited: %w", err)
	}
	if bytes.Equal(text, c.base) {
		return nil
	}
	return Edited(ctx, c.Store, c.base, text)
}

// Remove deletes the copy and what the editor put beside it.
func (c *EditCopy) Remove() error { return os.RemoveAll(c.dir) }

// Dir is the directory that holds the copy and nothing of another.
func (c *EditCopy) Dir() string { return c.dir }

// SavedCopies lists copies of the store at path that were saved and not taken
// over, below dir. Those that a run waits for are left out, and those that
// nobody saved in a week are removed.
func SavedCopies(dir, path string) []*EditCopy {
	names, _ := filepath.Glob(filepath.Join(dir, "*", copyDir, filepath.Base(path)))
	var saved []*EditCopy
	for _, n := range names {
		c, err := OpenEditCopy(n)
		if err != nil || c.Store != path || c.Open() {
			continue
		}
		if c.Saved() {
			saved = append(saved, c)
		} else if st, err := os.Stat(filepath.Join(c.dir, copyBase)); err == nil && time.Since(st.ModTime()) > unsavedKept {
			_ = c.Remove()
		}
	}
	return saved
}
