// Package imagebuild builds guest images in a directory of root's and passes the
// finished file back as an open descriptor. It never removes a directory in which
// something is mounted.
package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// Base is the directory in which images are built: root's own, and on a disk, not on a
// tmpfs.
const Base = "/var/cache/aivm/build"

// Build runs the builder in an empty directory and returns the open image. The file has
// no name afterwards: it exists as long as the descriptor.
func Build(ctx context.Context, build record.BuildFunc, o record.BuildImage, progress record.Progress) (res record.Result, err error) {
	if build == nil {
		return record.Result{}, ui.Refused("aivm cannot build images of %q", o.Distro)
	}
	if err := os.MkdirAll(filepath.Dir(Base), 0o755); err != nil {
		return record.Result{}, err
	}
	if err := os.Mkdir(Base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return record.Result{}, err
	}
	lock, err := lockDir(ctx, Base, progress)
	if err != nil {
		return record.Result{}, err
	}
	defer lock.Close()

	// Under the lock nobody else builds, so existing directories are of killed runs.
	var notes []string
	old, err := os.ReadDir(Base)
	if err != nil {
		return record.Result{}, err
	}
	for _, e := range old {
		if err := removeTree(filepath.Join(Base, e.Name())); err != nil {
			notes = append(notes, err.Error())
		}
	}
	dir, err := os.MkdirTemp(Base, "image-")
	if err != nil {
		return record.Result{}, err
	}
	defer func() {
		if rmErr := removeTree(dir); rmErr != nil {
			if err != nil {
				err = errors.Join(err, rmErr)
				return
			}
			res.Note = strings.Join(append(notes, rmErr.Error()), "; ")
		}
	}()
	path, err := build(ctx, dir, progress)
	if err != nil {
		return record.Result{}, err
	}
	if filepath.Dir(path) != dir {
		return record.Result{}, fmt.Errorf("the builder of %s returned %q, which is not in its directory", o.Distro, path)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return record.Result{}, fmt.Errorf("opening the built image: %w", err)
	}
	return record.Result{File: os.NewFile(uintptr(fd), path), Note: strings.Join(notes, "; ")}, nil
}

// lockDir opens and locks a directory that only root can enter.
func lockDir(ctx context.Context, dir string, progress record.Progress) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, err
	}
	if st.Uid != 0 {
		f.Close()
		return nil, ui.Refused("%s belongs to uid %d, not to root", dir, st.Uid)
	}
	if st.Mode&0o777 != 0o700 {
		if err := f.Chmod(0o700); err != nil {
			f.Close()
			return nil, err
		}
	}
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		progress("waiting for another image build to finish", -1)
		if err := pause.For(ctx, time.Second); err != nil {
			f.Close()
			return nil, err
		}
	}
}

// removeTree removes a build directory, unless something is mounted at or below it: a
// builder's chroot may have the machine's own /dev mounted.
func removeTree(dir string) error {
	resolved, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return err
	}
	resolved = filepath.Join(resolved, filepath.Base(dir))
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	mounted := append(mountinfo.At(ms, resolved), mountinfo.Below(ms, resolved)...)
	if len(mounted) > 0 {
		return fmt.Errorf("build directory %s was not removed: %s is still mounted", dir, mounted[0].Point)
	}
	return os.RemoveAll(dir)
}
