package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/fileattrs"
	"aivm.dev/aivm/internal/ui"
)

// edit applies change to the user's configuration: under this store's lock and
// the one beside the file against other runs of aivm, and compared once more
// before the rename against editors, which know no lock. Nothing is written when change changes nothing.
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
	return ui.Failed("%s is being changed by another program all the time", l.sshConfig()).
		Hint(ui.Remark("close it there and run the command again"))
}

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
	if f.Exists {
		mode = f.Mode
		if err := createOwn(l.BackupPath(), f.Data, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	} else if dir := filepath.Dir(f.Target); filepath.Base(dir) == ".ssh" {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return false, l.readOnly(err)
		}
	}
	unlock, err := l.lockBeside(ctx, f.Target)
	if err != nil {
		return false, err
	}
	defer unlock()
	t, err := tempFor(f.Target, out, mode)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return false, err // adding the line by hand would not work either
	}
	if err != nil {
		return false, l.readOnly(err)
	}
	defer t.Cleanup() //nolint:errcheck // after the rename there is nothing left to clean
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
	if err != nil || !same(f, again) {
		return false, nil
	}
	if f.Exists {
		err = t.CloseAtomicallyReplace()
	} else {
		err = os.Link(t.Name(), f.Target) // never over a file that just appeared
		if errors.Is(err, fs.ErrExist) {
			return false, nil
		}
	}
	if err != nil {
		return false, l.readOnly(err)
	}
	return true, syncDir(filepath.Dir(f.Target))
}

func same(a, b File) bool {
	return a.Exists == b.Exists && a.Target == b.Target && a.Mode == b.Mode &&
		a.dev == b.dev && a.ino == b.ino && bytes.Equal(a.Data, b.Data)
}

// keepOwner gives the new file the old one's owner and group.
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
	return t.Chmod(f.Mode) // chown may have cleared bits
}
