package templates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/ui"
)

// layerStore is the directory of finished steps. Each is a directory named after the digest of
// everything that it was made from.
type layerStore struct{ Dir string }

// layer describes a finished step: layer.json in its directory, beside the disk.
type layer struct {
	Schema   int               `json:"schema"`
	Step     string            `json:"step"`
	Created  time.Time         `json:"created"`
	Size     int64             `json:"size"` // of the disk's file
	Mirrors  []string          `json:"mirrors,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
}

const (
	layerSchema = 1
	layerFile   = "layer.json"
	layerDisk   = "disk.qcow2"
	tmpPrefix   = ".tmp-"
	// keepLayer is how long a layer that no template uses is kept: it may belong to a setup that was
	// interrupted.
	keepLayer = 7 * 24 * time.Hour
	maxMeta   = 1 << 20 // of a JSON file in bytes
)

var digestName = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (s layerStore) path(digest string) string { return filepath.Join(s.Dir, digest) }

// disk returns the path of the disk after a step.
func (s layerStore) disk(digest string) string { return filepath.Join(s.path(digest), layerDisk) }

// find reads the layer with this digest. A directory whose disk is missing or has another size, or of
// another schema, is not found.
func (s layerStore) find(digest string) (l layer, ok bool, err error) {
	f, err := os.Open(filepath.Join(s.path(digest), layerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return layer{}, false, nil
	}
	var b []byte
	if err == nil {
		defer f.Close()
		b, err = io.ReadAll(io.LimitReader(f, maxMeta))
	}
	if err != nil {
		return layer{}, false, ui.Failed("reading a finished step of setup: %w", err).Hint(ui.Cmd("ls -l " + shellescape.Quote(s.path(digest))))
	}
	if json.Unmarshal(b, &l) != nil || l.Schema != layerSchema {
		return layer{}, false, nil
	}
	if st, err := os.Stat(s.disk(digest)); err != nil || !st.Mode().IsRegular() || st.Size() != l.Size {
		return layer{}, false, nil
	}
	return l, true, nil
}

// make creates the layer with this digest; fill writes its disk to a path. Then the directory gets its
// name, in place of an earlier one.
func (s layerStore) make(ctx context.Context, digest, who string, l layer, fill func(disk string) error) error {
	release, _, err := lockfile.Lock(ctx, filepath.Join(s.Dir, ".lock"), who, nil)
	if err != nil {
		return fmt.Errorf("locking the finished steps of setup: %w", err)
	}
	defer release()
	s.sweep()
	tmp, err := os.MkdirTemp(s.Dir, tmpPrefix)
	if err != nil {
		return writeError(s.Dir, err)
	}
	defer os.RemoveAll(tmp)
	disk := filepath.Join(tmp, layerDisk)
	if err := fill(disk); err != nil {
		return writeError(s.Dir, err)
	}
	st, err := os.Stat(disk)
	if err != nil {
		return writeError(s.Dir, err)
	}
	l.Schema, l.Size = layerSchema, st.Size()
	if err := errors.Join(seal(disk), writeJSON(filepath.Join(tmp, layerFile), l), syncDir(tmp)); err != nil {
		return writeError(s.Dir, err)
	}
	if err := os.RemoveAll(s.path(digest)); err != nil {
		return writeError(s.Dir, err)
	}
	if err := errors.Join(os.Rename(tmp, s.path(digest)), syncDir(s.Dir)); err != nil {
		return writeError(s.Dir, err)
	}
	return nil
}

// sweep removes what a killed setup left unfinished. The caller holds the lock.
func (s layerStore) sweep() {
	old, _ := filepath.Glob(filepath.Join(s.Dir, tmpPrefix+"*"))
	for _, p := range old {
		_ = os.RemoveAll(p)
	}
}

// prune removes the layers that no template uses and that are older than keepLayer, and damaged ones.
func (s layerStore) prune(ctx context.Context, who string, used map[string]bool, now time.Time) {
	release, _, err := lockfile.Lock(ctx, filepath.Join(s.Dir, ".lock"), who, nil)
	if err != nil {
		return
	}
	defer release()
	s.sweep()
	es, _ := os.ReadDir(s.Dir)
	for _, e := range es {
		if !digestName.MatchString(e.Name()) || used[e.Name()] {
			continue
		}
		if l, ok, err := s.find(e.Name()); err == nil && (!ok || now.Sub(l.Created) > keepLayer) {
			_ = os.RemoveAll(s.path(e.Name()))
		}
	}
}

// copyFile copies a file into a new one, as a reflink where the file system has them, and without the
// holes.
func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	_, err = io.Copy(dst, src)
	return err
}

// seal makes a finished file read-only and syncs it.
func seal(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(f.Chmod(0o400), f.Sync())
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeError describes an error of writing below the templates' directory.
func writeError(dir string, err error) error {
	e := ui.Failed("writing a template: %w", err)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || strings.Contains(err.Error(), "no space left") {
		e.Hint(ui.CmdFor("free up space there", "df -h "+shellescape.Quote(dir)))
	}
	return e
}
