package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/ui"
)

// Cache is the user's directory of images: $XDG_CACHE_HOME/aivm/images.
type Cache struct {
	Dir string
	Who string // the command of this run, shown to processes that wait for its lock
}

// Entry describes an image in the cache.
type Entry struct {
	Path        string
	SHA256      string
	Format      string // QCOW2 or Raw
	VirtualSize int64  // of the guest's disk, in bytes
	Size        int64  // of the file, in bytes
	Source      string // where it came from, as text
	Release     string // the day it was published or built, "" if unknown
	Verified    string // how it was verified, as text
	Added       string // when it was added to the cache, RFC 3339
}

// Progress receives what is being done; fraction is 0 to 1, or negative if unknown.
type Progress = func(line string, fraction float64)

// BuiltFromPackages is the Verified text of an image built from packages.
const BuiltFromPackages = "built on this machine from signed packages"

const (
	partPrefix    = ".part-"
	progressEvery = 200 * time.Millisecond // the shortest time between two reports
)

func (c Cache) entry(im indexed, source string) Entry {
	if im.Verified == "" && strings.HasPrefix(im.Source, KindPackages+":") {
		im.Verified = BuiltFromPackages // added by a version that did not record it
	}
	return Entry{
		Path: filepath.Join(c.Dir, im.SHA256+"."+im.Format), SHA256: im.SHA256, Format: im.Format,
		VirtualSize: im.VirtualSize, Size: im.Size, Source: source, Release: im.Release, Verified: im.Verified, Added: im.Added,
	}
}

// Lookup finds the cached image that ref names, without reading the image. A local file that
// changed since it was added is not found. A digest other than the one in ref is an error if
// nothing else can be fetched under that name.
func (c Cache) Lookup(ref Ref) (Entry, bool, error) {
	ix, err := c.loadIndex()
	if err != nil {
		return Entry{}, false, err
	}
	sum := ix.Sources[ref.source()]
	switch ref.Kind {
	case KindAuto:
		return Entry{}, false, nil
	case KindFile:
		st, err := os.Stat(ref.Path)
		if err != nil {
			return Entry{}, false, noFile(ref.Path, err)
		}
		sum = ""
		key := keyOf(ref.Path, st)
		for _, k := range ix.Files {
			if k.same(key) {
				sum = k.SHA256
			}
		}
	case KindCatalogue, KindURL:
		if ref.Pinned() {
			sum = ix.pinned(ref)
		}
	case KindLocal:
		if sum == "" {
			return Entry{}, false, ix.noLocal(ref.Name)
		}
	}
	if sum == "" {
		return Entry{}, false, nil
	}
	for _, im := range ix.Images {
		if im.SHA256 != sum {
			continue
		}
		e := c.entry(im, ref.String())
		st, err := os.Stat(e.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return Entry{}, false, nil
		case err != nil:
			return Entry{}, false, ui.Failed("reading the image cache: %w", err)
		case st.Size() != im.Size:
			return Entry{}, false, nil // damaged: the next Add replaces it
		}
		return e, true, ref.check(sum)
	}
	return Entry{}, false, nil
}

func (r Ref) check(sum string) error {
	if r.Kind != KindURL && r.Kind != KindCatalogue && r.SHA512 != "" {
		return ui.Refused("the cache knows the image %s by its SHA-256 only: give that digest", ui.Clean(r.String()))
	}
	if r.SHA256 != "" && !strings.EqualFold(r.SHA256, sum) {
		return ui.Refused("the image %s has another digest: its SHA-256 is %s, not %s", ui.Clean(r.String()), sum, ui.Clean(r.SHA256))
	}
	return nil
}

func noFile(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ui.Refused("there is no image file %s", ui.Clean(path)).Hint(ui.Remark("use an existing file, or --image auto"))
	}
	return ui.Refused("the image file cannot be read: %w", err).Hint(ui.Cmd("ls -l " + shellescape.Quote(path)))
}

// Add copies r into the cache and records it as the image that ref names. While another process
// adds an image, Add waits and reports it to progress. The digest is computed during the copy; the
// file appears complete or not at all. verified says, as text, why the image can be trusted.
func (c Cache) Add(ctx context.Context, r io.Reader, ref Ref, verified string, progress Progress) (Entry, error) {
	return c.add(ctx, r, ref, verified, nil, progress)
}

// CheckFile returns the error with which AddFile would refuse a local image, before anything else
// is done for it.
func CheckFile(ref Ref) error {
	f, _, err := openFile(ref)
	if err != nil {
		return err
	}
	return f.Close()
}

// AddFile copies a local image into the cache, so that later changes to the file do not matter.
func (c Cache) AddFile(ctx context.Context, ref Ref, progress Progress) (Entry, error) {
	f, before, err := openFile(ref)
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	key := keyOf(ref.Path, before)
	return c.add(ctx, f, ref, "a local file", &source{f: f, key: key}, progress)
}

// openFile opens a local image and checks that it is a regular file in a known format.
func openFile(ref Ref) (_ *os.File, st fs.FileInfo, err error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := os.OpenFile(ref.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, noFile(ref.Path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if st, err = f.Stat(); err != nil {
		return nil, nil, noFile(ref.Path, err)
	}
	if !st.Mode().IsRegular() {
		return nil, nil, ui.Refused("the image %s is not a regular file", ui.Clean(ref.Path)).Hint(ui.Cmd("ls -ld " + shellescape.Quote(ref.Path)))
	}
	if _, _, err := Inspect(f, st.Size()); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ui.Clean(ref.Path), err)
	}
	return f, st, nil
}

// source is a local file that must not change while it is copied.
type source struct {
	f   *os.File
	key fileKey
}

func (c Cache) add(ctx context.Context, r io.Reader, ref Ref, verified string, src *source, progress Progress) (e Entry, err error) {
	if progress == nil {
		progress = func(string, float64) {}
	}
	if err := c.makeDir(); err != nil {
		return e, ui.Failed("creating the image cache: %w", err)
	}
	unlock, err := c.lock(ctx, "add", progress)
	if err != nil {
		return e, err
	}
	defer unlock()
	c.sweep()

	tmp, err := os.CreateTemp(c.Dir, partPrefix)
	if err != nil {
		return e, ui.Failed("writing to the image cache: %w", err)
	}
	defer func() {
		tmp.Close()
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	size, sum, err := copySparse(ctx, tmp, r, progress)
	if err != nil {
		return e, writeErr(c.Dir, err)
	}
	if src != nil {
		after, err := src.f.Stat()
		if err != nil {
			return e, noFile(ref.Path, err)
		}
		if !keyOf(ref.Path, after).same(src.key) {
			return e, ui.Failed("the image %s changed while it was copied", ui.Clean(ref.Path))
		}
	}
	if err := ref.check(sum); err != nil {
		return e, err
	}
	format, virtual, err := Inspect(tmp, size)
	if err != nil {
		return e, err
	}
	now := time.Now().UTC()
	im := indexed{
		SHA256: sum, Format: format, VirtualSize: virtual, Size: size, Source: ref.source(),
		Verified: verified, Added: now.Format(time.RFC3339), Release: day(now),
	}
	if src != nil {
		im.Release = ""
	}
	return c.place(tmp, im, ref.source(), src)
}

// place renames a complete file in the cache's directory to its final name and records it in the
// index. The name is the digest, which is known only once the file is written; renameio would need
// the name first. The caller holds the lock "add".
func (c Cache) place(f *os.File, im indexed, name string, src *source) (Entry, error) {
	e := c.entry(im, name)
	if err := errors.Join(f.Chmod(0o400), f.Sync()); err != nil {
		return e, writeErr(c.Dir, err)
	}
	if err := os.Rename(f.Name(), e.Path); err != nil {
		return e, writeErr(c.Dir, err)
	}
	if err := syncDir(c.Dir); err != nil {
		return e, writeErr(c.Dir, err)
	}
	ix, err := c.loadIndex()
	if err != nil {
		return e, err
	}
	if src != nil {
		ix.record(im, name, &src.key)
	} else {
		ix.record(im, name, nil)
	}
	if err := c.saveIndex(ix); err != nil {
		return e, writeErr(c.Dir, err)
	}
	return e, nil
}

// Claim takes the right to make images, and then looks ref up: of several processes that want the
// same image one makes it, the others wait, report that, and find it. The caller calls release when
// it is done.
func (c Cache) Claim(ctx context.Context, ref Ref, progress Progress) (e Entry, found bool, release func(), err error) {
	if progress == nil {
		progress = func(string, float64) {}
	}
	if err := c.makeDir(); err != nil {
		return Entry{}, false, nil, ui.Failed("creating the image cache: %w", err)
	}
	if release, err = c.lock(ctx, "fetch", progress); err != nil {
		return Entry{}, false, nil, err
	}
	if e, found, err = c.Lookup(ref); err != nil {
		release()
		return Entry{}, false, nil, err
	}
	return e, found, release, nil
}

// lock takes one of the cache's two locks. Whoever needs both takes "fetch" before "add".
func (c Cache) lock(ctx context.Context, name string, progress Progress) (unlock func(), err error) {
	release, _, err := lockfile.Lock(ctx, filepath.Join(c.Dir, "."+name+".lock"), c.Who, func(holder string) func(error) {
		progress("waiting for "+holder+", which is fetching or building an image", -1)
		return func(error) {}
	})
	if err != nil {
		return nil, fmt.Errorf("locking the image cache: %w", err)
	}
	return release, nil
}

// sweep removes the temporary files of killed runs. The caller holds the lock "add", so no other
// process is writing one.
func (c Cache) sweep() {
	old, _ := filepath.Glob(filepath.Join(c.Dir, partPrefix+"*"))
	for _, p := range old {
		_ = os.Remove(p)
	}
}

// copySparse copies r to the empty file w, leaves holes for runs of zeros, and returns the size and
// the SHA-256 of what it read.
func copySparse(ctx context.Context, w *os.File, r io.Reader, progress Progress) (int64, string, error) {
	var total int64
	if f, ok := r.(*os.File); ok {
		if st, err := f.Stat(); err == nil {
			total = st.Size()
		}
	}
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	zero := make([]byte, len(buf))
	var done int64
	shown := time.Now()
	for {
		if err := ctx.Err(); err != nil {
			return 0, "", err
		}
		n, rerr := io.ReadFull(r, buf)
		b := buf[:n]
		_, _ = sum.Write(b)
		if !bytes.Equal(b, zero[:n]) {
			if _, err := w.WriteAt(b, done); err != nil {
				return 0, "", err
			}
		}
		done += int64(n)
		if now := time.Now(); now.Sub(shown) > progressEvery {
			shown = now
			fraction := -1.0
			if total > 0 {
				fraction = min(float64(done)/float64(total), 1)
			}
			progress("copying the image into the cache", fraction)
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return 0, "", fmt.Errorf("reading the image: %w", rerr)
		}
	}
	return done, hex.EncodeToString(sum.Sum(nil)), w.Truncate(done)
}

func writeErr(dir string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := ui.Failed("writing to the image cache: %w", err)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		e.Hint(ui.CmdFor("free up space there", "df -h "+shellescape.Quote(dir)))
	}
	return e
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
