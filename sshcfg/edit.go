package sshcfg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/fileattrs"
	"aivm.dev/aivm/internal/ui"
)

// edit applies change to the user's configuration. It holds this store's lock, and one next
// to the file that all stores use. Since text editors use no locks, the file is compared
// again before the rename, and the edit repeated if it has changed. Nothing is written if
// change returns the same bytes.
func (l Layout) edit(ctx context.Context, change func([]byte) ([]byte, error)) error {
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for range 50 {
		done, err := l.tryEdit(ctx, change)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return ui.Failed("another program keeps changing %s", l.sshConfig()).
		Hint(ui.Remark("close the file there and run the command again"))
}

// tryEdit does one try of edit; done is false if the file changed in between.
func (l Layout) tryEdit(ctx context.Context, change func([]byte) ([]byte, error)) (done bool, err error) {
	if err := l.Guarded(); err != nil {
		return false, err
	}
	f, err := readFile(l.sshConfig())
	if err != nil {
		return false, l.readOnly(err)
	}
	out, err := change(f.Data)
	if err != nil {
		return false, l.explain(err)
	}
	if bytes.Equal(out, f.Data) && (f.Exists || len(out) == 0) {
		return true, nil
	}
	if f.Blocked != nil {
		return false, l.readOnly(f.Blocked)
	}
	mode := fs.FileMode(0o600)
	made := l.readMade(f)
	var newDir bool
	if f.Exists {
		mode = f.Mode
		if err := createOwn(l.BackupPath(), f.Data, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	} else if dir := filepath.Dir(f.Target); filepath.Base(dir) == ".ssh" {
		err := os.Mkdir(dir, 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return false, l.readOnly(err)
		}
		newDir = err == nil
	}
	unlock, err := l.lockConfig(ctx, f.Target)
	if err != nil {
		return false, err
	}
	unlock = sync.OnceFunc(unlock)
	defer unlock()
	if made != nil && len(out) == 0 {
		return l.removeMade(f, *made, unlock)
	}
	if err := l.recordMade(f, newDir); err != nil {
		return false, err
	}
	t, err := tempFor(f.Target, out, mode)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return false, err // without the hints of readOnly: the user could not add the line either
	}
	if err != nil {
		return false, l.readOnly(err)
	}
	defer t.Cleanup() //nolint:errcheck // after the rename there is nothing to clean up
	if f.Exists {
		if err := errors.Join(keepOwner(t.File, f), fileattrs.Keep(t.File, f.Target)); err != nil {
			return false, l.readOnly(err)
		}
	}
	if err := t.Sync(); err != nil {
		return false, ui.Failed("writing %s: %w", f.Target, err)
	}
	if l.beforeSwap != nil {
		l.beforeSwap()
	}
	again, err := readFile(l.sshConfig())
	if err != nil || !unchanged(f, again) {
		return false, nil
	}
	if f.Exists {
		err = t.CloseAtomicallyReplace()
	} else {
		err = os.Link(t.Name(), f.Target) // unlike a rename, fails if the file was created in between
		if errors.Is(err, fs.ErrExist) {
			return false, nil
		}
	}
	if err != nil {
		return false, l.readOnly(err)
	}
	return true, syncDir(filepath.Dir(f.Target))
}

// made is the record that the user's configuration did not exist before aivm wrote it.
type made struct {
	Version int    `json:"version"`
	File    string `json:"file"` // links followed
	Dir     bool   `json:"dir"`  // its directory did not exist either
}

const madeVersion = 1

// readMade returns the record about f; nil if aivm did not make f, or a later aivm wrote the
// record.
func (l Layout) readMade(f File) *made {
	r, err := readFile(l.madePath())
	var m made
	if err != nil || !r.Exists || json.Unmarshal(r.Data, &m) != nil || m.Version != madeVersion || m.File != f.Target {
		return nil
	}
	return &m
}

// recordMade records that aivm makes f, before it does. A record about a file that exists
// without aivm's Include is of a run that was killed, or the user made the file again: it is
// removed.
func (l Layout) recordMade(f File, newDir bool) error {
	old := l.readMade(f)
	switch {
	case !f.Exists:
		data, err := json.Marshal(made{Version: madeVersion, File: f.Target, Dir: newDir || old != nil && old.Dir})
		if err != nil {
			return err
		}
		if r, err := readFile(l.madePath()); err == nil && r.Exists && old == nil && laterVersion(r.Data) {
			return nil
		}
		return replaceOwn(l.madePath(), append(data, '\n'))
	case old != nil:
		if own, err := l.storeIn(f.Data).ownBlocks(splitLines(f.Data)); err == nil && len(own) == 0 {
			return os.Remove(l.madePath())
		}
	}
	return nil
}

// laterVersion reports whether a later aivm wrote a record.
func laterVersion(data []byte) bool {
	var m made
	return json.Unmarshal(data, &m) == nil && m.Version > madeVersion
}

// removeMade removes the configuration that aivm made, if it is still as f, and then its
// directory if aivm made that and it is empty. done is as in tryEdit.
func (l Layout) removeMade(f File, m made, unlock func()) (done bool, err error) {
	if l.beforeSwap != nil {
		l.beforeSwap()
	}
	again, err := readFile(l.sshConfig())
	if err != nil || !unchanged(f, again) {
		return false, nil
	}
	if err := os.Remove(f.Target); err != nil {
		return false, l.readOnly(err)
	}
	if err := os.Remove(l.madePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, ui.Failed("removing %s: %w", l.madePath(), err)
	}
	dir := filepath.Dir(f.Target)
	if unlock(); m.Dir && filepath.Base(dir) == ".ssh" {
		if os.Remove(dir) == nil { // fails if it is not empty
			dir = filepath.Dir(dir)
		}
	}
	return true, syncDir(dir)
}

// unchanged reports whether two reads of a file found the same file and content.
func unchanged(a, b File) bool {
	return a.Exists == b.Exists && a.Target == b.Target && a.Mode == b.Mode &&
		a.dev == b.dev && a.ino == b.ino && bytes.Equal(a.Data, b.Data)
}

// keepOwner gives the new file the owner and group of the old one.
func keepOwner(t *os.File, f File) error {
	st, err := t.Stat()
	if err != nil {
		return err
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok || int(s.Uid) == f.uid && int(s.Gid) == f.gid {
		return nil
	}
	if err := t.Chown(f.uid, f.gid); err != nil {
		return err
	}
	return t.Chmod(f.Mode) // chown may have cleared mode bits
}
