package template

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/bootdisk"
	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/qemu"
)

// Files of a template.
const (
	metaFile   = "meta.json"
	ramFile    = "ram"
	stateFile  = "state"
	diskFile   = "disk.qcow2"
	baseFile   = "base.img"
	draftMark  = ".draft-"
	removeMark = ".removed-"
	lockMark   = ".lock-"
)

// OldAge is the age at which a template is called old: what it has installed is not
// updated.
const OldAge = 30 * 24 * time.Hour

// maxMeta bounds meta.json.
const maxMeta = 1 << 20

var (
	// NameForm is the form of a template's name.
	NameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	keyForm  = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Store is a directory of templates. It must not be on a tmpfs (see CheckDir).
type Store struct{ Dir string }

// Meta is what is recorded about a template.
type Meta struct {
	Key     Key            `json:"key"`
	Program qemu.Program   `json:"program"`
	Boot    bootdisk.Boot  `json:"boot"` // paths are relative to the template
	Created time.Time      `json:"created"`
	Base    bootdisk.Image `json:"base"`
	// Sizes and digest with which a truncated template is found.
	DiskBytes   int64  `json:"disk_bytes"`
	StateDigest string `json:"state_digest"`
	// Notes are the caller's: versions of what is installed, where it comes from.
	Notes map[string]string `json:"notes,omitempty"`
}

// Template is a published template.
type Template struct {
	Meta
	Dir string
	// Damaged says why it cannot be used, or is "".
	Damaged string
}

// Old reports whether the template is older than OldAge.
func (t Template) Old(now time.Time) bool { return now.Sub(t.Created) > OldAge }

// Stale says why the template is not the wanted one; nothing if it is.
func (t Template) Stale(wanted Key) []string {
	if t.Damaged != "" {
		return []string{t.Damaged}
	}
	return t.Key.Differences(wanted)
}

// Bytes is the space that the template takes on the disk. What it shares with the
// image cache counts too.
func (t Template) Bytes() int64 {
	var n int64
	for _, name := range []string{ramFile, stateFile, diskFile, baseFile, "vmlinuz", "initrd"} {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(t.Dir, name), &st) == nil {
			n += st.Blocks * 512
		}
	}
	return n
}

// List returns the templates, the newest first. One that cannot be read is listed
// with Damaged set.
func (s Store) List() ([]Template, error) {
	ents, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Template
	for _, e := range ents {
		if keyForm.MatchString(e.Name()) && e.IsDir() {
			out = append(out, read(filepath.Join(s.Dir, e.Name())))
		}
	}
	slices.SortFunc(out, func(a, b Template) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Find returns the newest template of a name; ok is false if there is none.
func (s Store) Find(name string) (t Template, ok bool, err error) {
	all, err := s.List()
	for _, t := range all {
		if t.Key.Name == name {
			return t, true, nil
		}
	}
	return Template{}, false, err
}

// read reads a template and compares the sizes of its files with what is recorded.
func read(dir string) Template {
	t := Template{Dir: dir}
	b, err := readBounded(filepath.Join(dir, metaFile), maxMeta)
	if err == nil {
		err = json.Unmarshal(b, &t.Meta)
	}
	switch {
	case err != nil:
		t.Damaged = fmt.Sprintf("%s cannot be read: %v", metaFile, err)
	case t.Key.Digest() != filepath.Base(dir):
		t.Damaged = metaFile + " belongs to another template or another version of aivm"
	case !sizeIs(dir, ramFile, int64(t.Key.MemoryMiB)<<20):
		t.Damaged = "the file of its memory is missing or truncated"
	case !sizeIs(dir, diskFile, t.DiskBytes):
		t.Damaged = "the file of its disk is missing or truncated"
	}
	return t
}

func sizeIs(dir, name string, n int64) bool {
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && st.Mode().IsRegular() && st.Size() == n
}

func readBounded(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%d bytes, more than %d", st.Size(), limit)
	}
	return os.ReadFile(path)
}

// Remove deletes a template. Runs that use it keep what they have open.
func (s Store) Remove(t Template) error {
	if filepath.Dir(t.Dir) != filepath.Clean(s.Dir) || !keyForm.MatchString(filepath.Base(t.Dir)) {
		return fmt.Errorf("%s is not a template of %s", t.Dir, s.Dir)
	}
	return s.discard(t.Dir)
}

// discard renames a directory away and deletes it, so that nobody finds a half of it.
func (s Store) discard(dir string) error {
	tmp, err := os.MkdirTemp(s.Dir, removeMark)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(tmp, "t")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(tmp)
		return err
	}
	return os.RemoveAll(tmp)
}

// Reap deletes what killed runs left in the store: drafts that nobody fills, and
// templates whose deletion was interrupted.
func (s Store) Reap() error {
	ents, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range ents {
		path := filepath.Join(s.Dir, e.Name())
		name, draft := strings.CutPrefix(e.Name(), draftMark)
		if draft && !lockfile.Held(s.lockPath(name)) || strings.HasPrefix(e.Name(), removeMark) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(append(errs, err)...)
}

func (s Store) lockPath(name string) string { return filepath.Join(s.Dir, lockMark+name) }

// Lock takes the lock for building the template of a name; see lockfile.Lock.
func (s Store) Lock(ctx context.Context, name, who string, waiting func(holder string) (over func(error))) (release func(), waited bool, err error) {
	if !NameForm.MatchString(name) {
		return nil, false, fmt.Errorf("%q is not a name of a template", name)
	}
	return lockfile.Lock(ctx, s.lockPath(name), who, waiting)
}

// Building reports whether the lock of a name is held: its template is being built.
func (s Store) Building(name string) bool {
	return NameForm.MatchString(name) && lockfile.Held(s.lockPath(name))
}

// CheckDir makes the store's directory and refuses one in memory: pages of a saved
// memory that runs only read would be allocated in it.
func (s Store) CheckDir() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.Dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: s.Dir, Err: err}
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is a file system in memory; templates need one on a disk", s.Dir)
	}
	return nil
}
