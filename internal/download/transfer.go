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

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Digest is what a file has to have.
type Digest struct {
	Algo string // "sha256" or "sha512"
	Hex  string
}

// Progress is told what is being done; the fraction is 0 to 1, or less than 0
// when it is unknown.
type Progress = func(line string, fraction float64)

// Place is where downloads go.
type Place struct {
	Dir  string                // on the file system of the final place
	What string                // what is fetched, in a message: "the image"
	Err  func(err error) error // words for an error of this machine's disk
}

const (
	// Prefix begins the names of the files in Place.Dir: a part of a download
	// and what is known of it, kept for the next run.
	Prefix     = ".fetch-"
	metaSuffix = ".json"

	// keepParts is how long a part waits for a run that goes on with it.
	keepParts = 7 * 24 * time.Hour

	// maxFile is beyond any file we want: whoever sends more fills the disk.
	maxFile = 64 << 30
	// idleTries is how often a connection may bring nothing new before the
	// next server is tried.
	idleTries = 5
)

// partMeta is what a server said about the file a part was taken from.
type partMeta struct {
	URL      string `json:"url"`
	ETag     string `json:"etag,omitempty"`
	Modified string `json:"modified,omitempty"`
	Total    int64  `json:"total"` // -1: not said
}

// validator is what If-Range may carry: a strong ETag, or the date (RFC 9110,
// 13.1.5).
func (m partMeta) validator() string {
	if m.ETag != "" && !strings.HasPrefix(m.ETag, "W/") {
		return m.ETag
	}
	return m.Modified
}

// Transfer brings one file onto the disk and hashes it on the way. A cut
// connection, another server and another process go on where the last one
// stopped; what decides in the end is the digest of the whole file.
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
	best     int64 // the most there ever were
	mixed    bool  // not surely of one version of the file
	changes  int   // how often another one was found on the server
	modified time.Time
	progress Progress
	meter    Meter
}

// Open opens the part an earlier run left, and hashes it, or a new one. Of
// several processes one may do so at a time: the caller holds a lock. The digest
// is a whole one, in hexadecimal.
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
	t.forget()
	if b, rerr := os.ReadFile(t.path + metaSuffix); rerr == nil {
		_ = json.Unmarshal(b, &t.meta) // damaged: then nothing is known of the part
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
			progress("reading what an earlier run fetched", float64(t.done)/float64(st.Size()))
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

// forget starts the hashes anew.
func (t *Transfer) forget() {
	t.done, t.sum256 = 0, sha256.New()
	if t.want.Algo == "sha512" {
		t.sum512 = sha512.New()
	}
}

// reset throws away what is there.
func (t *Transfer) reset() error {
	t.forget()
	t.best, t.mixed, t.meta = 0, false, partMeta{Total: -1}
	_ = os.Remove(t.path + metaSuffix)
	if err := t.file.Truncate(0); err != nil {
		return t.place.Err(err)
	}
	return nil
}

func (t *Transfer) got() string {
	if t.want.Algo == "sha512" {
		return hex.EncodeToString(t.sum512.Sum(nil))
	}
	return hex.EncodeToString(t.sum256.Sum(nil))
}

// From fetches the file from the first server that has it as it has to be. An
// *Error is in the chain of the error if the servers are to blame.
func (t *Transfer) From(ctx context.Context, urls []string) error {
	var errs []error
	for _, u := range urls {
		for again := range 2 {
			err := t.whole(ctx, u)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil && t.got() == t.want.Hex {
				return nil
			}
			var fatal *ui.Error
			if errors.As(err, &fatal) {
				return err // of this machine, not of the server
			}
			if err != nil {
				errs = append(errs, err)
				break
			}
			stitched := t.mixed
			err = &Error{Kind: Checksum, URL: u, Err: fmt.Errorf("its %s is %s, not %s", t.want.Algo, t.got(), t.want.Hex)}
			if rerr := t.reset(); rerr != nil {
				return rerr
			}
			if !stitched || again == 1 {
				errs = append(errs, err)
				break
			}
			t.progress("what an earlier run left does not fit: once more from the start", -1)
		}
	}
	return errors.Join(errs...)
}

// whole asks one server until the file is complete, or it brings nothing new.
func (t *Transfer) whole(ctx context.Context, u string) error {
	for idle := 0; ; {
		err := t.once(ctx, u)
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
		t.progress(te.short()+"; going on", t.fraction())
		if err := t.c.pause(ctx, idle, te.After); err != nil {
			return err
		}
	}
}

// once is one request.
func (t *Transfer) once(ctx context.Context, u string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return &Error{Kind: Network, URL: u, Err: err, never: true}
	}
	checked := false // that the rest belongs to what is here
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
			return t.changed(u, "it sent another part than was asked for")
		case t.meta.Total > 0 && total > 0 && total != t.meta.Total:
			return t.changed(u, fmt.Sprintf("it has %d bytes now, and had %d", total, t.meta.Total))
		case checked && t.meta.ETag != "" && tag != "" && tag != t.meta.ETag:
			return t.changed(u, "it has another ETag now")
		}
		t.mixed = t.mixed || !checked
		if total > 0 {
			t.meta.Total = total
		}
	case http.StatusRequestedRangeNotSatisfiable:
		_, total, _ := contentRange(resp.Header.Get("Content-Range"))
		if total == t.done {
			return nil // all of it is here; the digest decides
		}
		return t.changed(u, "it is shorter now than what was fetched")
	default:
		return refused(u, resp)
	}
	if at, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		t.modified = at
	}
	if t.meta.Total > maxFile {
		return &Error{Kind: TooLarge, URL: u, Err: fmt.Errorf("the server offers %d bytes", t.meta.Total)}
	}
	if err := t.room(); err != nil {
		return err
	}
	return t.body(ctx, u, resp.Body, watch)
}

// body writes what comes.
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

// changed starts over, since the file on the server is another one.
func (t *Transfer) changed(u, how string) error {
	if err := t.reset(); err != nil {
		return err
	}
	t.changes++
	return &Error{Kind: Changed, URL: u, Err: errors.New(how), never: t.changes > idleTries}
}

func (t *Transfer) keepMeta() {
	if b, err := json.Marshal(t.meta); err == nil {
		_ = renameio.WriteFile(t.path+metaSuffix, b, 0o600, renameio.WithTempDir(t.place.Dir)) // without it the part is only trusted less
	}
}

// room refuses a download there is no room for, before it fills the disk.
func (t *Transfer) room() error {
	var st unix.Statfs_t
	if t.meta.Total < 0 || unix.Fstatfs(int(t.file.Fd()), &st) != nil {
		return nil
	}
	free := int64(st.Bavail) * st.Bsize
	if need := t.meta.Total - t.done; need > free {
		return ui.Failed("%s needs %d MB more and %s has %d MB free", t.place.What, need>>20, t.place.Dir, free>>20).Hint(ui.Cmd("make room there: df -h " + t.place.Dir))
	}
	return nil
}

// File is the file in Place.Dir, open for reading and writing. Its reader gives
// it its final name; Drop then removes what was known of the part.
func (t *Transfer) File() *os.File { return t.file }

// Size is how much of the file is here.
func (t *Transfer) Size() int64 { return t.done }

// SHA256 is the digest of what is here, in hexadecimal, whatever kind was asked
// for.
func (t *Transfer) SHA256() string { return hex.EncodeToString(t.sum256.Sum(nil)) }

// Modified is when the server says that the file was changed; zero if it does not.
func (t *Transfer) Modified() time.Time { return t.modified }

// Close closes the file and keeps the part for the next run. It removes one
// with nothing in it.
func (t *Transfer) Close() {
	t.file.Close()
	if t.done == 0 {
		t.Drop()
	}
}

// Drop removes the part, unless it was renamed, and what was known of it.
func (t *Transfer) Drop() {
	_ = os.Remove(t.path)
	_ = os.Remove(t.path + metaSuffix)
}

// Sweep removes parts that nobody has gone on with for a week.
func Sweep(dir string, now time.Time) {
	for _, p := range Parts(dir) {
		if st, err := os.Lstat(p); err == nil && now.Sub(st.ModTime()) > keepParts {
			_ = os.Remove(p)
		}
	}
}

// Parts returns the files of unfinished downloads.
func Parts(dir string) []string {
	all, _ := filepath.Glob(filepath.Join(dir, Prefix+"*"))
	return all
}

// contentRange reads "bytes 10-19/20", "bytes 10-19/*" and "bytes */20".
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
