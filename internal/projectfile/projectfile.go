package projectfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/ui"
)

// Name is the name of a project's file.
const Name = ".aivm.toml"

const (
	maxSize     = 64 << 10
	maxPackages = 100
	maxShown    = 8 // remarks
	minMemoryMB = 128
)

// Options are the limits of what a project's file can ask for; 0 means the ones below. Trusted is the
// path of the user's config, for remarks.
type Options struct {
	Trusted              string
	MaxMemoryMB, MaxCPUs int
}

const (
	maxMemoryMB = 64 << 10
	maxCPUs     = 64
)

// Wants is what a project asks for: 0 or nil where it asks for nothing. Files are the files it was
// read from.
type Wants struct {
	MemoryMB int
	CPUs     int
	Packages []string
	Files    []string
	Ignored  []Ignored
}

// Ignored is a key of a project's file, or the entire file if Key is "", that has no effect.
type Ignored struct {
	Key  string `json:"key"`
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Why  string `json:"why"`
}

// String returns the remark on one line, safe for a terminal.
func (i Ignored) String() string {
	at := i.File
	if i.Line > 0 {
		at = fmt.Sprintf("%s:%d", at, i.Line)
	}
	if i.Key != "" {
		at += ": " + i.Key
	}
	verb := " is ignored: "
	if strings.Contains(i.Key, ", ") {
		verb = " are ignored: "
	}
	return ui.Clean(at + verb + i.Why)
}

// Remarks returns one line for each ignored key, at most 9.
func (w Wants) Remarks() []string {
	var out []string
	for i, g := range w.Ignored {
		if i == maxShown {
			return append(out, fmt.Sprintf("%d more keys are ignored", len(w.Ignored)-maxShown))
		}
		out = append(out, g.String())
	}
	return out
}

// Ignore adds a remark.
func (w *Wants) Ignore(file string, line int, key, format string, args ...any) {
	w.Ignored = append(w.Ignored, Ignored{Key: ui.CleanTo(key, 160), File: file, Line: line, Why: ui.CleanTo(fmt.Sprintf(format, args...), 300)})
}

// Or returns w, with what it does not ask for taken from other.
func (w Wants) Or(other Wants) Wants {
	if w.MemoryMB == 0 {
		w.MemoryMB = other.MemoryMB
	}
	if w.CPUs == 0 {
		w.CPUs = other.CPUs
	}
	if w.Packages == nil {
		w.Packages = other.Packages
	}
	w.Files = slices.Concat(w.Files, other.Files)
	w.Ignored = slices.Concat(w.Ignored, other.Ignored)
	return w
}

// Read reads ".aivm.toml" in folder, a path without links. The zero Wants means that there is none.
func Read(folder string, o Options) Wants {
	var w Wants
	path := filepath.Join(folder, Name)
	text, err := Content(folder, Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return w
	case err != nil:
		w.Ignore(path, 0, "", "%v", err)
		return w
	}
	entries, err := config.Entries(path, text)
	if err != nil {
		var fe *config.FileError
		if errors.As(err, &fe) {
			w.Ignore(path, fe.Line, "", "%s", fe.Message)
		} else {
			w.Ignore(path, 0, "", "%v", err)
		}
		return w
	}
	w.Files = []string{path}
	for _, e := range entries {
		w.take(path, e, o)
	}
	return w
}

// take takes one value over, or remarks why not.
func (w *Wants) take(path string, e config.Entry, o Options) {
	key := e.Key
	if len(key) == 2 && key[0] == "run" {
		key = key[1:]
	}
	name := ""
	if len(key) == 1 {
		name = key[0]
	}
	switch name {
	case "memory_mb":
		w.SetMemory(path, e.Line, e.Name(), e.Value, o)
	case "cpus":
		w.SetCPUs(path, e.Line, e.Name(), e.Value, o)
	case "packages":
		w.AddPackages(path, e.Line, e.Name(), e.Value)
	default:
		if e.Key[0] == "run" && len(e.Key) == 1 && e.Value == nil {
			return // an empty [run]
		}
		w.Ignore(path, e.Line, e.Name(), "%s", o.instead(e.Key))
	}
}

// instead names the key of the user's config that has the effect of a key that a project cannot set.
func (o Options) instead(key []string) string {
	const only = "a project can only set memory_mb, cpus and packages"
	for _, k := range [][]string{key, append([]string{"run"}, key...)} {
		if config.Known(k) {
			return fmt.Sprintf("%s; the key %s of %s has this effect", only, config.Entry{Key: k}.Name(), o.trusted())
		}
	}
	return only + "; " + o.trusted() + " has no such key either"
}

func (o Options) trusted() string {
	if o.Trusted == "" {
		return "the config"
	}
	return o.Trusted
}

// SetMemory sets MemoryMB to value, an integer within the limits, or remarks why not.
func (w *Wants) SetMemory(file string, line int, key string, value any, o Options) {
	w.size(&w.MemoryMB, file, line, key, value, minMemoryMB, o.MaxMemoryMB, maxMemoryMB, "memory_mb", o)
}

// SetCPUs sets CPUs to value, an integer within the limits, or remarks why not.
func (w *Wants) SetCPUs(file string, line int, key string, value any, o Options) {
	w.size(&w.CPUs, file, line, key, value, 1, o.MaxCPUs, maxCPUs, "cpus", o)
}

func (w *Wants) size(to *int, file string, line int, key string, value any, least, most, general int, trustedKey string, o Options) {
	if most <= 0 || most > general {
		most = general
	}
	n, ok := value.(int64)
	switch {
	case !ok:
		w.Ignore(file, line, key, "it is not an integer")
	case n < int64(least):
		w.Ignore(file, line, key, "%d is less than %d", n, least)
	case n > int64(most):
		w.Ignore(file, line, key, "%d is more than a project can ask for here (%d); %s in [run] of %s can be more", n, most, trustedKey, o.trusted())
	default:
		*to = int(n)
	}
}

// AddPackages adds value, a list of names of Debian packages, or remarks why not.
func (w *Wants) AddPackages(file string, line int, key string, value any) {
	list, ok := value.([]any)
	if !ok {
		w.Ignore(file, line, key, "it is not a list of package names")
		return
	}
	names := []string{}
	for _, v := range list {
		s, isString := v.(string)
		if !isString || config.ValidatePackage(s) != nil {
			w.Ignore(file, line, key, "%s is not a package name", ui.CleanTo(fmt.Sprintf("%#v", v), 80))
			return
		}
		if !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	if len(names) > maxPackages {
		w.Ignore(file, line, key, "it has %d packages, more than %d", len(names), maxPackages)
		return
	}
	slices.Sort(names)
	w.Packages = names
}

// Content returns the content of the regular file name in folder, at most 64 KiB. It follows no link,
// and opens no FIFO or device. The error is fs.ErrNotExist if there is no such file.
func Content(folder, name string) ([]byte, error) {
	dir, err := hostfile.OpenFollowed(folder)
	if err != nil {
		return nil, reason(err)
	}
	defer dir.Close()
	h, err := hostfile.At(dir, name)
	if err != nil {
		return nil, reason(err)
	}
	defer h.Close()
	if st, err := h.Stat(); err == nil && st.Mode()&fs.ModeSymlink != 0 {
		return nil, errors.New("it is a link, which is not followed")
	}
	f, _, err := hostfile.Reopen(h)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(b) > maxSize {
		return nil, fmt.Errorf("it is larger than %d KiB", maxSize>>10)
	}
	return b, reason(err)
}

// reason returns the cause of err without the path.
func reason(err error) error {
	var pe *fs.PathError
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return err
	case errors.Is(err, hostfile.ErrNotRegular):
		return errors.New("it is not a regular file")
	case errors.As(err, &pe):
		return errors.New("it cannot be read: " + strings.TrimSpace(pe.Err.Error()))
	}
	return err
}

// Owner returns the user id of the owner of name in folder, of whatever type; ok is false if there is
// none.
func Owner(folder, name string) (uid int, ok bool) {
	st, err := os.Lstat(filepath.Join(folder, name))
	if err != nil {
		return 0, false
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}
