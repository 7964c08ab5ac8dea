package image

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/download"
	"aivm.dev/aivm/internal/ui"
)

// pinned returns the SHA-256 of the image with the digest in ref, or "".
func (ix *index) pinned(ref Ref) string {
	for _, im := range ix.Images {
		if ref.SHA256 != "" && im.SHA256 == ref.SHA256 || ref.SHA512 != "" && im.SHA512 == ref.SHA512 {
			return im.SHA256
		}
	}
	return ""
}

// noLocal returns the error for a name that is neither in the catalogue nor that of a local image.
func (ix *index) noLocal(name string) error {
	e := ui.Usage("unknown image %q", name)
	if made := ix.locals(); len(made) > 0 {
		e.Hint(ui.Remark("local images: " + strings.Join(made, ", ")))
	}
	return unknown(e, name)
}

func (ix *index) locals() []string {
	var out []string
	for s := range ix.Sources {
		if n, ok := strings.CutPrefix(s, localSource); ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// CachedImage is an image of the cache with the names that refer to it. An image without a name is
// an older release that no new VM uses.
type CachedImage struct {
	Entry
	Names    []string
	Complete bool // the file exists and has the recorded size
}

// List returns all images of the cache, sorted by name, without reading any.
func (c Cache) List() ([]CachedImage, error) {
	ix, err := c.loadIndex()
	if err != nil {
		return nil, err
	}
	var out []CachedImage
	for _, im := range ix.Images {
		k := CachedImage{Entry: c.entry(im, strings.TrimPrefix(im.Source, localSource)), Names: ix.names(im.SHA256)}
		st, err := os.Stat(k.Path)
		k.Complete = err == nil && st.Size() == im.Size
		out = append(out, k)
	}
	slices.SortStableFunc(out, func(a, b CachedImage) int { return strings.Compare(a.label(), b.label()) })
	return out, nil
}

func (k CachedImage) label() string {
	if len(k.Names) > 0 {
		return k.Names[0]
	}
	return k.Source + "\x00" + k.SHA256
}

func (ix *index) names(sum string) []string {
	var out []string
	for s, of := range ix.Sources {
		if of == sum {
			out = append(out, strings.TrimPrefix(s, localSource))
		}
	}
	slices.Sort(out)
	var paths []string
	for _, k := range ix.Files {
		if k.SHA256 == sum {
			paths = append(paths, k.Path)
		}
	}
	slices.Sort(paths)
	return append(out, paths...)
}

// Names returns the names of the cache's images, for completion.
func (c Cache) Names() []string {
	ks, err := c.List()
	if err != nil {
		return nil
	}
	var out []string
	for _, k := range ks {
		out = append(out, k.Names...)
	}
	return out
}

// Select finds images of the cache by name, or by at least eight digits of their digest.
func (c Cache) Select(word string) ([]CachedImage, error) {
	ks, err := c.List()
	if err != nil {
		return nil, err
	}
	name := word
	if r, err := Parse(word); err == nil {
		name = r.String()
	}
	var out []CachedImage
	for _, k := range ks {
		if slices.Contains(k.Names, name) || k.Source == name || len(word) >= 8 && strings.HasPrefix(k.SHA256, strings.ToLower(word)) {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, ui.Refused("there is no image %s in the cache", ui.Clean(word)).Hint(ui.Cmd("aivm image list"))
	}
	return out, nil
}

// ErrDamaged is the error of Verify for a file that is missing or has another digest.
var ErrDamaged = errors.New("damaged")

// Verify reads an image of the cache and compares its digest.
func (c Cache) Verify(ctx context.Context, e Entry, progress Progress) error {
	return c.verify(ctx, e, "", progress)
}

func (c Cache) verify(ctx context.Context, e Entry, sum512 string, progress Progress) error {
	if progress == nil {
		progress = func(string, float64) {}
	}
	f, err := os.Open(e.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the file is missing", ErrDamaged)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h, h512 := sha256.New(), hash.Hash(sha512.New())
	to := io.Writer(h)
	if sum512 != "" {
		to = io.MultiWriter(h, h512)
	}
	var done int64
	var m download.Meter
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		_, _ = to.Write(buf[:n])
		done += int64(n)
		if m.Due() {
			progress("reading the image", float64(done)/float64(max(e.Size, 1)))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != e.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s", ErrDamaged, got)
	}
	if sum512 != "" && hex.EncodeToString(h512.Sum(nil)) != sum512 {
		return fmt.Errorf("%w: its SHA-512 is another one", ErrDamaged)
	}
	return nil
}

// refresh verifies the cached image with the wanted digest and records how it was verified; it
// returns false if the cache has no such image or a damaged one, so that it must be fetched.
func (c Cache) refresh(ctx context.Context, ref Ref, got resolved, progress Progress) (Entry, bool, error) {
	ix, err := c.loadIndex()
	if err != nil {
		return Entry{}, false, err
	}
	want := Ref{SHA256: got.want.Hex}
	if got.want.Algo == "sha512" {
		want = Ref{SHA512: got.want.Hex}
	}
	sum := ix.pinned(want)
	at := slices.IndexFunc(ix.Images, func(im indexed) bool { return sum != "" && im.SHA256 == sum })
	if at < 0 {
		return Entry{}, false, nil
	}
	im := ix.Images[at]
	e := c.entry(im, ref.String())
	progress("verifying the cached image", -1)
	if err := c.verify(ctx, e, im.SHA512, progress); errors.Is(err, ErrDamaged) {
		return Entry{}, false, nil
	} else if err != nil {
		return Entry{}, false, err
	}
	unlock, err := c.lock(ctx, "add", progress)
	if err != nil {
		return Entry{}, false, err
	}
	defer unlock()
	if ix, err = c.loadIndex(); err != nil {
		return Entry{}, false, err
	}
	im.Verified, im.Signed = got.verified, max(im.Signed, unixOf(got.signed))
	ix.record(im, ref.source(), nil)
	if err := c.saveIndex(ix); err != nil {
		return Entry{}, false, writeErr(c.Dir, err)
	}
	return c.entry(im, ref.String()), true, nil
}

// Remove deletes an image and its names from the cache.
func (c Cache) Remove(ctx context.Context, sha string, progress Progress) error {
	if progress == nil {
		progress = func(string, float64) {}
	}
	unlock, err := c.lock(ctx, "add", progress)
	if err != nil {
		return err
	}
	defer unlock()
	ix, err := c.loadIndex()
	if err != nil {
		return err
	}
	for _, im := range ix.Images {
		if im.SHA256 != sha {
			continue
		}
		// Delete the file first: the next run corrects an index that names a missing file, but
		// nothing would ever delete a file that no index names.
		if err := os.Remove(c.entry(im, "").Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ui.Failed("removing an image from the cache: %w", err)
		}
	}
	ix.Images = slices.DeleteFunc(ix.Images, func(im indexed) bool { return im.SHA256 == sha })
	ix.Files = slices.DeleteFunc(ix.Files, func(k fileKey) bool { return k.SHA256 == sha })
	for s, of := range ix.Sources {
		if of == sha {
			delete(ix.Sources, s)
		}
	}
	return c.saveIndex(ix)
}

// Parts returns the files of unfinished downloads and their total size.
func (c Cache) Parts() (paths []string, bytes int64) {
	for _, p := range download.Parts(c.Dir) {
		if st, err := os.Lstat(p); err == nil {
			paths, bytes = append(paths, p), bytes+st.Size()
		}
	}
	return paths, bytes
}

// DropParts deletes the files of unfinished downloads, once no other process fetches.
func (c Cache) DropParts(ctx context.Context, progress Progress) error {
	if progress == nil {
		progress = func(string, float64) {}
	}
	unlock, err := c.lock(ctx, "fetch", progress)
	if err != nil {
		return err
	}
	defer unlock()
	paths, _ := c.Parts()
	var errs []error
	for _, p := range paths {
		errs = append(errs, os.Remove(p))
	}
	return errors.Join(errs...)
}

// LockFetch takes the right to make images, as Claim does, without looking up an image. The caller
// calls release when it is done.
func (c Cache) LockFetch(ctx context.Context, progress Progress) (release func(), err error) {
	if progress == nil {
		progress = func(string, float64) {}
	}
	if err := c.makeDir(); err != nil {
		return nil, ui.Failed("creating the image cache: %w", err)
	}
	return c.lock(ctx, "fetch", progress)
}

// Has reports whether the cache knows an image under the name of ref.
func (c Cache) Has(ref Ref) bool {
	ix, err := c.loadIndex()
	return err == nil && ix.Sources[ref.source()] != ""
}
