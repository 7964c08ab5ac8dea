package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
)

// maxSize is far above any store a person has; it keeps a wrong --config (a
// disk image, a device) from being read into memory.
const maxSize = 16 << 20

// A Store is a config file as it was read.
type Store struct {
	Path     string
	Exists   bool // false: Config is DefaultConfig, nothing was created
	Newer    bool // a higher schema_version: Update refuses it
	Config   Config
	Warnings []Warning
	Raw      []byte
}

// FileError is a place in a store and what is wrong there.
type FileError struct {
	Path         string
	Line, Column int    // from 1; columns count characters
	Key          string // "" if the file is not TOML at all
	Message      string
}

func (e *FileError) Error() string {
	at := fmt.Sprintf("%s:%d:%d: ", e.Path, e.Line, e.Column)
	if e.Key == "" {
		return at + e.Message
	}
	return at + e.Key + ": " + e.Message
}

// DefaultPath is $XDG_CONFIG_HOME/aivm/config.toml, or ~/.config/aivm/config.toml.
// A relative XDG_CONFIG_HOME is ignored, as the XDG base directory
// specification asks.
func DefaultPath() (string, error) {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home := os.Getenv("HOME")
		if !filepath.IsAbs(home) {
			return "", ui.Refused("cannot tell where the config store is: neither XDG_CONFIG_HOME nor HOME is an absolute path").
				Hint(ui.Remark("pass --config PATH"))
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "aivm", "config.toml"), nil
}

// Load reads a store. An absent file is the defaults. What is not TOML, and
// values of the wrong type or shape, are one error with line and column (it
// wraps *FileError); unknown keys are warnings.
func Load(path string) (*Store, error) {
	raw, exists, err := readFile(path)
	if err != nil {
		return nil, err
	}
	s := &Store{Path: path, Exists: exists, Raw: raw, Config: DefaultConfig()}
	if !exists {
		return s, nil
	}
	c, b, err := decode(path, raw)
	if err != nil {
		return nil, err
	}
	s.Config = c
	s.Newer = c.SchemaVersion > Schema
	read := append(append([]Problem{}, b.unknown...), b.notes...)
	if s.Newer {
		// Another program's words: what we cannot read is not a mistake.
		read = append(read, b.problems...)
	} else if len(b.problems) > 0 {
		return nil, problemError(path, sortProblems(b.problems))
	}
	for _, p := range sortProblems(read) {
		s.Warnings = append(s.Warnings, Warning{Line: p.Line, Key: p.Key, Message: p.Message})
	}
	return s, nil
}

// Lint returns every unknown or ill-shaped key, or the one place where the
// file stops being TOML. An absent file is an error.
func Lint(path string) ([]Problem, error) {
	raw, exists, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, ui.Refused("config store not found: %s", path).Hint(ui.Cmd(command(path, "config init")))
	}
	_, b, err := decode(path, raw)
	var fe *FileError
	if errors.As(err, &fe) {
		return []Problem{{Line: fe.Line, Column: fe.Column, Key: fe.Key, Message: fe.Message}}, nil
	}
	if err != nil {
		return nil, err
	}
	return sortProblems(append(b.unknown, b.problems...)), nil
}

// decode parses and binds; the error is a ui.Error that wraps a *FileError.
func decode(path string, raw []byte) (Config, *binder, error) {
	doc, err := parse(raw)
	if err != nil {
		e := ui.Refused("cannot read the config store: %w", fileError(path, raw, err)).Hint(ui.Cmd(command(path, "config edit")))
		if prev := previous(path); prev != "" {
			e.Hint(ui.Remark("the version before aivm's last change is " + prev))
		}
		return Config{}, nil, e
	}
	c, b := bind(doc)
	return c, b, nil
}

// previous is the kept version before the last change, or "".
func previous(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		if _, err := os.Stat(target + ".prev"); err == nil {
			return target + ".prev"
		}
	}
	return ""
}

func fileError(path string, raw []byte, err error) *FileError {
	fe := &FileError{Path: path, Line: 1, Column: 1, Message: err.Error()}
	var se *syntaxError
	if errors.As(err, &se) {
		if se.offset < 0 {
			fe.Line, fe.Column = max(se.line, 1), max(se.column, 1)
		} else {
			fe.Line, fe.Column = position(raw, bomLen(raw), se.offset)
		}
	}
	return fe
}

func problemError(path string, ps []Problem) error {
	p := ps[0]
	e := ui.Refused("config store: %w", &FileError{Path: path, Line: p.Line, Column: p.Column, Key: p.Key, Message: p.Message}).
		Hint(ui.Cmd(command(path, "config edit")))
	if len(ps) > 1 {
		e.Hint(ui.Remark(fmt.Sprintf("%s (lists %d more)", command(path, "config lint"), len(ps)-1)))
	}
	return e
}

// command is the aivm command to type for this store.
func command(path, verb string) string {
	if def, err := DefaultPath(); err == nil && def == path {
		return "aivm " + verb
	}
	return "aivm " + verb + " --config " + shellescape.Quote(path)
}

// readFile reads a regular file; absent is not an error.
func readFile(path string) (raw []byte, exists bool, err error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, ui.Failed("cannot read the config store %s: %w", path, cause(err)).Hint(ui.Cmd("ls -l " + shellescape.Quote(path)))
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		return nil, false, ui.Refused("the config store %s is not a regular file", path).Hint(ui.Remark("pass --config PATH"))
	}
	if err == nil && info.Size() > maxSize {
		return nil, false, ui.Refused("the config store %s is larger than %d MiB", path, maxSize>>20).Hint(ui.Remark("pass --config PATH"))
	}
	if err == nil {
		raw, err = io.ReadAll(io.LimitReader(f, maxSize+1))
	}
	if err != nil {
		return nil, false, ui.Failed("cannot read the config store %s: %w", path, cause(err))
	}
	return raw, true, nil
}

// cause strips the path that package os puts before an error: it is in the
// sentence already.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}
