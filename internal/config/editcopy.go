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

// EditCopy is a copy of the store that the user edits in a text editor. It is kept in a directory of
// its own, with the content it was copied from, until it is written to the store: an editor can
// save it long after the run that created it ended or was killed.
type EditCopy struct {
	Path  string // of the copy, which the editor opens
	Store string // path of the store it is a copy of
	dir   string
	base  []byte
}

// Files in the directory of a copy: "of" holds the store's path, "base" its content when the copy
// was created, "open" is locked while a run waits for the editor, "copy/NAME" is the copy.
const (
	copyOf, copyBase, copyOpen, copyDir = "of", "base", "open", "copy"
	// unsavedKept is how long a copy that was not saved is kept.
	unsavedKept = 7 * 24 * time.Hour
)

// NewEditCopy creates a copy of the store at path below dir and marks it as open until done is
// called. who is passed to the lock.
func NewEditCopy(ctx context.Context, dir, path, who string) (c *EditCopy, done func(), err error) {
	base, err := Text(path)
	if err != nil {
		return nil, nil, err
	}
	failed := func(err error) error {
		return ui.Failed("cannot create a copy of the config to edit: %w", err).Hint(ui.Cmd("df -h " + shellescape.Quote(filepath.Dir(dir))))
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

// ErrNoEditCopy reports that a file was not created by NewEditCopy.
var ErrNoEditCopy = errors.New("it is not a copy created by aivm config edit")

// OpenEditCopy returns the copy at path, an absolute path. The error is ErrNoEditCopy if it is not in a
// directory that NewEditCopy created below copies: a guest can write the same files into a shared folder,
// and the directory of a copy is deleted when the copy is applied.
func OpenEditCopy(copies, path string) (*EditCopy, error) {
	dir := filepath.Dir(filepath.Dir(path))
	if filepath.Base(filepath.Dir(path)) != copyDir || !sameDir(filepath.Dir(dir), copies) {
		return nil, ErrNoEditCopy
	}
	dir = filepath.Join(copies, filepath.Base(dir))
	path = filepath.Join(dir, copyDir, filepath.Base(path))
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

func sameDir(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// Open reports whether another run waits for the editor of this copy.
func (c *EditCopy) Open() bool { return lockfile.Held(filepath.Join(c.dir, copyOpen)) }

// Saved reports whether the copy was changed since it was created. A copy that cannot be read counts
// as saved, so that it is not removed.
func (c *EditCopy) Saved() bool {
	text, err := os.ReadFile(c.Path)
	return err != nil || !bytes.Equal(text, c.base)
}

// Take writes the saved copy to the store with SaveEdited. It does nothing if the copy is unchanged.
func (c *EditCopy) Take(ctx context.Context) error {
	text, err := os.ReadFile(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return ui.Refused("%s does not exist: the editor moved or deleted it", c.Path).Hint(ui.Cmd("ls -la " + shellescape.Quote(filepath.Dir(c.Path))))
	}
	if err != nil {
		return ui.Failed("cannot read the edited copy of the config: %w", err)
	}
	if bytes.Equal(text, c.base) {
		return nil
	}
	return SaveEdited(ctx, c.Store, c.base, text)
}

// Remove deletes the copy and the files the editor created beside it.
func (c *EditCopy) Remove() error { return os.RemoveAll(c.dir) }

// Dir returns the directory of this copy; it holds no other copy.
func (c *EditCopy) Dir() string { return c.dir }

// SavedCopies returns the copies below dir of the store at path that were saved but not written to
// the store. It skips copies that a run waits for, and removes those that were not saved within a
// week.
func SavedCopies(dir, path string) []*EditCopy {
	names, _ := filepath.Glob(filepath.Join(dir, "*", copyDir, filepath.Base(path)))
	var saved []*EditCopy
	for _, n := range names {
		c, err := OpenEditCopy(dir, n)
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
