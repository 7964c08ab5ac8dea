// Package imagebuild has guest images built in a directory of root's and passes the
// finished file back as an open descriptor. It removes no directory in which
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

// Base is where images are built: root's own, on a disk and not in a
// memory file system.
const Base = "/var/cache/aivm/build"

// Build lets the builder work in an empty directory and hands back the
// open result. No name of it survives: the file lives as long as the
// descriptor.
func Build(ctx context.Context, build record.BuildFunc, o record.BuildImage, progress record.Progress) (res record.Result, err error) {
	if build == nil {
		return record.Result{}, ui.Refused("no image of %q can be built here", o.Distro)
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

	// Under the lock nobody else builds: what is here was left by a killed run.
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
		return record.Result{}, fmt.Errorf("the builder of %s answered with %q, which is not in its directory", o.Distro, path)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return record.Result{}, fmt.Errorf("opening the built image: %w", err)
	}
	return record.Result{File: os.NewFile(uintptr(fd), path), Note: strings.Join(notes, "; ")}, nil
}

// lockDir opens and locks a directory of root's that nobody else can enter.
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

// removeTree removes a build directory, unless something is mounted at or
// below it: what a builder's chroot had mounted may be the machine's own /dev.
func removeTree(dir string) error {
	real, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return err
	}
	real = filepath.Join(real, filepath.Base(dir))
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	held := append(mountinfo.At(ms, real), mountinfo.Below(ms, real)...)
	if len(held) > 0 {
		return fmt.Errorf("%s is left in place: %s is still mounted", dir, held[0].Point)
	}
	return os.RemoveAll(dir)
}
