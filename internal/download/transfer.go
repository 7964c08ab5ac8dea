package download

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Digest is the expected digest of a file.
type Digest struct {
	Algo string // "sha256" or "sha512"
	Hex  string
}

// Progress is called with a progress line; fraction is 0 to 1, or negative if unknown.
type Progress = func(line string, fraction float64)

// Place is the directory for downloads and the words for messages about them.
type Place struct {
	Dir  string                // on the same file system as the final path
	What string                // what is downloaded, for messages: "the image"
	Err  func(err error) error // converts an error of the host's disk to a message
}

const (
	// Prefix is the prefix of the files in Place.Dir: the part of a download and its metadata, kept
	// for the next run.
	Prefix     = ".fetch-"
	metaSuffix = ".json"

	// keepParts is how long a part is kept for a run that resumes it.
	keepParts = 7 * 24 * time.Hour

	// maxFile is larger than any file aivm downloads: a server that sends more would fill the disk.
	maxFile = 64 << 30
	// idleTries is how many tries in a row may bring no new data before the next server is tried.
	idleTries = 5
)

// partMeta is what the server reported about the file that a part belongs to.
type partMeta struct {
	URL      string `json:"url"`
	ETag     string `json:"etag,omitempty"`
	Modified string `json:"modified,omitempty"`
	Total    int64  `json:"total"` // in bytes; -1: unknown
}

// validator returns the value for If-Range: a strong ETag, or the date (RFC 9110, 13.1.5).
func (m partMeta) validator() string {
	if m.ETag != "" && !strings.HasPrefix(m.ETag, "W/") {
		return m.ETag
	}
	return m.Modified
}

// Transfer downloads one file to the disk and hashes it at the same time. After a broken connection,
// with another server and in another process it resumes where the last one stopped; the digest of
// the complete file is checked at the end.
type Transfer struct {
	c        *Client
	place    Place
	want     Digest
	path     string
	file     *os.File
	meta     partMeta
	sum256   hash.Hash
	sum512   hash.Hash
	done     int64 // bytes in the file, all of them hashed
	best     int64 // the largest value done has had
	mixed    bool  // the bytes may be from different versions of the file
	changes  int   // how often the file changed on the server
	modified time.Time
	progress Progress
	meter    Meter
}

// Open opens the part that an earlier run left behind and hashes it, or creates a new one. The
// caller holds a lock, so that only one process does this at a time. The digest is complete and in
// hexadecimal.
func (c *Client) Open(ctx context.Context, at Place, want Digest, progress Progress) (_ *Transfer, err error) {
	t := &Transfer{c: c, place: at, want: want, path: filepath.Join(at.Dir, Prefix+want.Hex[:32]), progress: progress}
	if t.file, err = os.OpenFile(t.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, at.Err(err)
	}
	defer func() {
		if err != nil {
			t.file.Close()
		}
	}()
	t.resetHashes()
	if b, rerr := os.ReadFile(t.path + metaSuffix); rerr == nil {
		_ = json.Unmarshal(b, &t.meta) // if it is damaged, nothing is known about the part
	}
	st, err := t.file.Stat()
	if err != nil {
		return nil, err
	}
	t.mixed = t.meta.URL == ""
	buf := make([]byte, 1<<20)
	for t.done < st.Size() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, rerr := t.file.ReadAt(buf, t.done)
		t.hash(buf[:n])
		t.done += int64(n)
		if t.meter.Due() {
			progress("checking the part that an earlier run downloaded", float64(t.done)/float64(st.Size()))
		}
		if rerr != nil && !errors.Is(rerr, io.EOF) {
			return nil, at.Err(rerr)
		}
		if n == 0 {
			break
		}
	}
	t.best = t.done
	return t, nil
}

func (t *Transfer) hash(b []byte) {
	_, _ = t.sum256.Write(b)
	if t.sum512 != nil {
		_, _ = t.sum512.Write(b)
	}
}

// resetHashes sets the hashes to those of an empty file.
func (t *Transfer) resetHashes() {
	t.done, t.sum256 = 0, sha256.New()
	if t.want.Algo == "sha512" {
		t.sum512 = sha512.New()
	}
}

// reset discards the part and its metadata.
func (t *Transfer) reset() error {
	t.resetHashes()
	t.best, t.mixed, t.meta = 0, false, partMeta{Total: -1}
	_ = os.Remove(t.path + metaSuffix)
	if err := t.file.Truncate(0); err != nil {
		return t.place.Err(err)
	}
	return nil
}

// digest returns the digest of the part, of the wanted algorithm, in hexadecimal.
func (t *Transfer) digest() string {
	if t.want.Algo == "sha512" {
		return hex.EncodeToString(t.sum512.Sum(nil))
	}
	return hex.EncodeToString(t.sum256.Sum(nil))
}

// From downloads the file from the first of the URLs that delivers it with the wanted digest. If all
// servers fail, the error wraps an *Error.
func (t *Transfer) From(ctx context.Context, urls []string) error {
	var errs []error
	for _, u := range urls {
		for again := range 2 {
			err := t.fromServer(ctx, u)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil && t.digest() == t.want.Hex {
				return nil
			}
			var fatal *ui.Error
			if errors.As(err, &fatal) {
				return err // a failure of the host, not of the server
			}
			if err != nil {
				errs = append(errs, err)
				break
			}
			mixed := t.mixed
			err = &Error{Kind: Checksum, URL: u, Err: fmt.Errorf("its %s is %s, not %s", t.want.Algo, t.digest(), t.want.Hex)}
			if rerr := t.reset(); rerr != nil {
				return rerr
			}
			if !mixed || again == 1 {
				errs = append(errs, err)
				break
			}
			t.progress("the part from an earlier run does not match the file: starting over", -1)
		}
	}
	return errors.Join(errs...)
}

// fromServer sends requests to one server until the file is complete, the error is final, or
// idleTries tries in a row brought no new data.
func (t *Transfer) fromServer(ctx context.Context, u string) error {
	for idle := 0; ; {
		err := t.request(ctx, u)
		if err == nil || ctx.Err() != nil {
			return err
		}
		var te *Error
		if !errors.As(err, &te) || te.final() {
			return err
		}
		if t.done > t.best {
			t.best, idle = t.done, 0
		} else {
			idle++
		}
		if idle >= idleTries || t.c.OneTry && t.done == 0 {
			return err
		}
		t.progress(te.short()+"; retrying", t.fraction())
		if err := t.c.pause(ctx, idle, te.After); err != nil {
			return err
		}
	}
}

// request sends one request, for the bytes that are missing, and writes the response to the file.
func (t *Transfer) request(ctx context.Context, u string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return &Error{Kind: Network, URL: u, Err: err, never: true}
	}
	checked := false // whether If-Range ensures that the rest is of the same version as the part
	if t.done > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(t.done, 10)+"-")
		if v := t.meta.validator(); v != "" && t.meta.URL == u {
			req.Header.Set("If-Range", v)
			checked = true
		}
	}
	watch := time.AfterFunc(t.c.stall(), func() { cancel(errStalled) })
	defer watch.Stop()
	resp, err := t.c.HTTP().Do(req)
	if err != nil {
		return failed(ctx, u, err, t.c.stall())
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if t.done > 0 {
			best := t.best
			if err := t.reset(); err != nil {
				return err
			}
			t.best = best
		}
		t.meta = partMeta{URL: u, ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified"), Total: resp.ContentLength}
		t.keepMeta()
	case http.StatusPartialContent:
		start, total, ok := contentRange(resp.Header.Get("Content-Range"))
		tag := resp.Header.Get("ETag")
		switch {
		case !ok || start != t.done:
			return t.changed(u, "the server sent another range than requested")
		case t.meta.Total > 0 && total > 0 && total != t.meta.Total:
			return t.changed(u, fmt.Sprintf("it now has %d bytes, before %d", total, t.meta.Total))
		case checked && t.meta.ETag != "" && tag != "" && tag != t.meta.ETag:
			return t.changed(u, "its ETag changed")
		}
		t.mixed = t.mixed || !checked
		if total > 0 {
			t.meta.Total = total
		}
	case http.StatusRequestedRangeNotSatisfiable:
		_, total, _ := contentRange(resp.Header.Get("Content-Range"))
		if total == t.done {
			return nil // the file is complete; From checks the digest
		}
		return t.changed(u, "it is now shorter than the downloaded part")
	default:
		return refused(u, resp)
	}
	if at, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		t.modified = at
	}
	if t.meta.Total > maxFile {
		return &Error{Kind: TooLarge, URL: u, Err: fmt.Errorf("the server offers %d bytes", t.meta.Total)}
	}
	if err := t.checkSpace(); err != nil {
		return err
	}
	return t.body(ctx, u, resp.Body, watch)
}

// body writes the body of a response to the file and hashes it. It resets watch, which cancels the
// request, whenever data arrives.
func (t *Transfer) body(ctx context.Context, u string, r io.Reader, watch *time.Timer) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			watch.Reset(t.c.stall())
			if t.meta.Total >= 0 && t.done+int64(n) > t.meta.Total || t.done+int64(n) > maxFile {
				return &Error{Kind: TooLarge, URL: u, Err: fmt.Errorf("the server sends more than the %d bytes it announced", t.meta.Total)}
			}
			if _, werr := t.file.WriteAt(buf[:n], t.done); werr != nil {
				return t.place.Err(werr)
			}
			t.hash(buf[:n])
			t.done += int64(n)
			if t.meter.Due() {
				t.progress(t.meter.line(t.done, t.meta.Total), t.fraction())
			}
		}
		if errors.Is(err, io.EOF) {
			if t.done < t.meta.Total {
				return &Error{Kind: Truncated, URL: u, Err: fmt.Errorf("the connection ended after %d of %d bytes", t.done, t.meta.Total)}
			}
			return nil
		}
		if err != nil {
			return failed(ctx, u, err, t.c.stall())
		}
	}
}

func (t *Transfer) fraction() float64 {
	if t.meta.Total <= 0 {
		return -1
	}
	return float64(t.done) / float64(t.meta.Total)
}

// changed discards the part because the file changed on the server, and returns the error for it.
func (t *Transfer) changed(u, how string) error {
	if err := t.reset(); err != nil {
		return err
	}
	t.changes++
	return &Error{Kind: Changed, URL: u, Err: errors.New(how), never: t.changes > idleTries}
}

func (t *Transfer) keepMeta() {
	if b, err := json.Marshal(t.meta); err == nil {
		_ = renameio.WriteFile(t.path+metaSuffix, b, 0o600, renameio.WithTempDir(t.place.Dir)) // if this fails, the next run starts over on a checksum mismatch
	}
}

// checkSpace returns an error if the disk has too little free space for the rest of the file.
func (t *Transfer) checkSpace() error {
	var st unix.Statfs_t
	if t.meta.Total < 0 || unix.Fstatfs(int(t.file.Fd()), &st) != nil {
		return nil
	}
	free := int64(st.Bavail) * st.Bsize
	if need := t.meta.Total - t.done; need > free {
		return ui.Failed("%s needs %d MB more and %s has %d MB free", t.place.What, need>>20, t.place.Dir, free>>20).Hint(ui.CmdFor("free space there; to see it", "df -h "+shellescape.Quote(t.place.Dir)))
	}
	return nil
}

// File returns the file in Place.Dir, open for reading and writing. The caller renames it to its
// final name; Drop then removes the metadata of the part.
func (t *Transfer) File() *os.File { return t.file }

// Size returns the number of bytes downloaded.
func (t *Transfer) Size() int64 { return t.done }

// SHA256 returns the SHA-256 of the downloaded bytes in hexadecimal, whatever the algorithm of the
// wanted digest.
func (t *Transfer) SHA256() string { return hex.EncodeToString(t.sum256.Sum(nil)) }

// Modified returns the Last-Modified time reported by the server, zero if it reported none.
func (t *Transfer) Modified() time.Time { return t.modified }

// Close closes the file and keeps the part for the next run; an empty part is removed.
func (t *Transfer) Close() {
	t.file.Close()
	if t.done == 0 {
		t.Drop()
	}
}

// Drop removes the part, unless it was renamed, and its metadata.
func (t *Transfer) Drop() {
	_ = os.Remove(t.path)
	_ = os.Remove(t.path + metaSuffix)
}

// Sweep removes parts that were not written for a week.
func Sweep(dir string, now time.Time) {
	for _, p := range Parts(dir) {
		if st, err := os.Lstat(p); err == nil && now.Sub(st.ModTime()) > keepParts {
			_ = os.Remove(p)
		}
	}
}

// Parts returns the paths of the files of unfinished downloads in dir.
func Parts(dir string) []string {
	all, _ := filepath.Glob(filepath.Join(dir, Prefix+"*"))
	return all
}

// contentRange parses a Content-Range header: "bytes 10-19/20", "bytes 10-19/*" or "bytes */20". ok
// is true if it has a valid range; total is -1 if unknown.
func contentRange(s string) (start, total int64, ok bool) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, -1, false
	}
	span, size, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, -1, false
	}
	total = -1
	if size != "*" {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n < 0 {
			return 0, -1, false
		}
		total = n
	}
	if span == "*" {
		return 0, total, false
	}
	first, last, ok := strings.Cut(span, "-")
	a, err := strconv.ParseInt(first, 10, 64)
	b, err2 := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || err2 != nil || a < 0 || b < a || total >= 0 && b >= total {
		return 0, total, false
	}
	return a, total, true
}
