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

// maxSize is far above the size of any real config file; it keeps a wrong --config (a disk image, a
// device) from being read into memory.
const maxSize = 16 << 20

// A Store is the content of a config file.
type Store struct {
	Path     string
	Exists   bool // false: Config is DefaultConfig, nothing was created
	Newer    bool // a higher schema_version: Update refuses it
	Config   Config
	Warnings []Warning
	Raw      []byte
}

// FileError reports a mistake in a config file and its position.
type FileError struct {
	Path         string
	Line, Column int    // from 1; columns count characters
	Key          string // "" for a TOML syntax error
	Message      string
}

func (e *FileError) Error() string {
	at := fmt.Sprintf("%s:%d:%d: ", e.Path, e.Line, e.Column)
	if e.Key == "" {
		return at + e.Message
	}
	return at + e.Key + ": " + e.Message
}

// DefaultPath returns $XDG_CONFIG_HOME/aivm/config.toml, or ~/.config/aivm/config.toml. A relative
// XDG_CONFIG_HOME is ignored, as the XDG base directory specification requires.
func DefaultPath() (string, error) {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home := os.Getenv("HOME")
		if !filepath.IsAbs(home) {
			return "", ui.Refused("cannot find the config: neither XDG_CONFIG_HOME nor HOME is an absolute path").
				Hint(ui.Remark("pass --config PATH"))
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "aivm", "config.toml"), nil
}

// Load reads the config file at path. If it does not exist, Load returns the defaults. A TOML syntax
// error or values of a wrong type or form give one error with line and column (it wraps
// *FileError); unknown keys are warnings.
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
		// A newer aivm wrote the file: values this one cannot read are not mistakes.
		read = append(read, b.problems...)
	} else if len(b.problems) > 0 {
		return nil, problemError(path, sortProblems(b.problems))
	}
	for _, p := range sortProblems(read) {
		s.Warnings = append(s.Warnings, Warning{Line: p.Line, Key: p.Key, Message: p.Message, Used: p.used})
	}
	return s, nil
}

// Lint returns every unknown key and every invalid value, or the first TOML syntax error. A file
// that does not exist is an error.
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

// decode parses raw and binds it to a Config. A syntax error is a ui.Error that wraps a *FileError;
// the binder holds all other problems.
func decode(path string, raw []byte) (Config, *binder, error) {
	doc, err := parse(raw)
	if err != nil {
		e := ui.Refused("cannot read the config: %w", fileError(path, raw, err)).Hint(ui.Cmd(command(path, "config edit")))
		if prev := previous(path); prev != "" {
			e.Hint(ui.Remark("aivm kept the version before its last change in " + prev))
		}
		return Config{}, nil, e
	}
	c, b := bind(doc)
	return c, b, nil
}

// previous returns the path of the version kept before the last change, or "".
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
	e := ui.Refused("invalid config: %w", &FileError{Path: path, Line: p.Line, Column: p.Column, Key: p.Key, Message: p.Message}).
		Hint(ui.Cmd(command(path, "config edit")))
	if len(ps) > 1 {
		e.Hint(ui.CmdFor(fmt.Sprintf("to list all problems (%d more)", len(ps)-1), command(path, "config lint")))
	}
	return e
}

// command returns the command line "aivm VERB" for the store at path; --config is left out for the
// default path.
func command(path, verb string) string {
	if def, err := DefaultPath(); err == nil && def == path {
		return "aivm " + verb
	}
	return "aivm " + verb + " --config " + shellescape.Quote(path)
}

// readFile reads a regular file. If it does not exist, exists is false and err is nil.
func readFile(path string) (raw []byte, exists bool, err error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, ui.Failed("cannot read the config %s: %w", path, cause(err)).Hint(ui.Cmd("ls -l " + shellescape.Quote(path)))
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		return nil, false, ui.Refused("the config %s is not a regular file", path).Hint(ui.Remark("pass --config PATH"))
	}
	if err == nil && info.Size() > maxSize {
		return nil, false, ui.Refused("the config %s is larger than %d MiB", path, maxSize>>20).Hint(ui.Remark("pass --config PATH"))
	}
	if err == nil {
		raw, err = io.ReadAll(io.LimitReader(f, maxSize+1))
	}
	if err != nil {
		return nil, false, ui.Failed("cannot read the config %s: %w", path, cause(err))
	}
	return raw, true, nil
}

// cause strips the path that package os puts before an error, for messages that already name it.
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
