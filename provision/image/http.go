package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/ui"
)

// What can go wrong between a server and the disk.
const (
	Network   = "network"   // no connection, or it broke
	Stalled   = "stalled"   // nothing came for a while
	Truncated = "truncated" // it ends before the length it announced
	TooLarge  = "too large" // it does not end at that length
	Changed   = "changed"   // another file than when the download began
	Checksum  = "checksum"  // complete, and not what it has to be
	Redirect  = "redirect"  // to a place that is not https
	Status    = "status"    // the server refuses
)

// TransferError is one server's failure.
type TransferError struct {
	Kind  string
	URL   string
	Code  int           // of Status
	After time.Duration // the server asked for so long a pause
	Err   error
	never bool // trying again changes nothing
}

func (e *TransferError) Error() string {
	return fmt.Sprintf("%s: %s", e.what(), e.Err)
}

func (e *TransferError) Unwrap() error { return e.Err }

func (e *TransferError) what() string {
	from := ui.CleanTo(hostOf(e.URL), 100)
	switch e.Kind {
	case Checksum:
		return "checksum mismatch, the file of " + from + " is not the one it should be"
	case Changed:
		return "the file on " + from + " changed during the download"
	case Truncated:
		return "the file of " + from + " is truncated"
	case TooLarge:
		return "the file of " + from + " is larger than it may be"
	case Stalled:
		return "the download from " + from + " stalled"
	case Redirect:
		return from + " redirects to a place that is not https"
	}
	return from
}

func (e *TransferError) short() string {
	switch e.Kind {
	case Network, Status:
		return "the connection to " + ui.CleanTo(hostOf(e.URL), 100) + " broke"
	}
	return e.what()
}

// final reports that the same server need not be asked again.
func (e *TransferError) final() bool {
	switch e.Kind {
	case Redirect, TooLarge, Checksum:
		return true
	case Status:
		return e.Code < 500 && e.Code != http.StatusTooManyRequests && e.Code != http.StatusRequestTimeout
	}
	return e.never
}

var errStalled = errors.New("nothing came")

// notHTTPS stops a redirect out of https.
type notHTTPS struct{ to string }

func (e *notHTTPS) Error() string { return "it leads to " + ui.CleanTo(e.to, 200) }

func httpsOnly(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme != "https" {
		return &notHTTPS{req.URL.Redacted()}
	}
	if len(via) >= 10 {
		return errors.New("ten redirects, one after the other")
	}
	return nil
}

// checkURL accepts an https address of a file.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https" || u.Host == "":
		return errors.New("want https://HOST/PATH")
	case strings.Contains(s, "#"): // also one with nothing behind it
		return errors.New("what stands behind # is neither sha256=HEX nor sha512=HEX")
	}
	return nil
}

func hostOf(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		return u.Host
	}
	return s
}

// failed turns the error of a request into what it means.
func failed(ctx context.Context, u string, err error, stall time.Duration) error {
	var plain *notHTTPS
	if errors.As(err, &plain) {
		return &TransferError{Kind: Redirect, URL: u, Err: plain}
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		return &TransferError{Kind: Stalled, URL: u, Err: fmt.Errorf("%w for %s", errStalled, stall)}
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // its text repeats the address
	}
	return &TransferError{Kind: Network, URL: u, Err: fmt.Errorf("%s", ui.CleanTo(err.Error(), 300))}
}

// retryAfter reads the header of that name, in seconds, up to a minute.
func retryAfter(r *http.Response) time.Duration {
	n, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Minute)
}

const (
	stallLimit  = 30 * time.Second
	maxListSize = 4 << 20
)

func (f *Fetcher) stall() time.Duration {
	if f.Stall > 0 {
		return f.Stall
	}
	return stallLimit
}

// client honours the environment's proxies; what it brings is not unpacked, so
// that ranges and lengths mean the file.
func (f *Fetcher) client() *http.Client {
	f.once.Do(func() {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DisableCompression = true
		if f.TLS != nil {
			t.TLSClientConfig = f.TLS
		}
		f.http = &http.Client{Transport: t, CheckRedirect: httpsOnly}
	})
	return f.http
}

// pause waits before the same server is asked again: half a second, doubled
// with each try that brought nothing, or as long as the server asked for.
func (f *Fetcher) pause(ctx context.Context, idle int, after time.Duration) error {
	d := max(after, min(500*time.Millisecond<<idle, 15*time.Second))
	if idle == 0 && after == 0 {
		d = 200 * time.Millisecond
	}
	if f.Pause != nil {
		d = f.Pause(d)
	}
	return pause.For(ctx, d)
}

// small fetches a list or a signature.
func (f *Fetcher) small(ctx context.Context, u string) ([]byte, error) {
	var last error
	for try := range 3 {
		b, err := f.smallOnce(ctx, u)
		if err == nil {
			return b, nil
		}
		last = err
		var te *TransferError
		if ctx.Err() != nil || !errors.As(err, &te) || te.final() {
			break
		}
		if err := f.pause(ctx, try, te.After); err != nil {
			return nil, err
		}
	}
	return nil, last
}

func (f *Fetcher) smallOnce(ctx context.Context, u string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.stall(), errStalled)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, &TransferError{Kind: Network, URL: u, Err: err, never: true}
	}
	resp, err := f.client().Do(req)
	if err != nil {
		return nil, failed(ctx, u, err, f.stall())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &TransferError{Kind: Status, URL: u, Code: resp.StatusCode, After: retryAfter(resp), Err: fmt.Errorf("the server answers %s", ui.CleanTo(resp.Status, 60))}
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxListSize+1))
	if err != nil {
		return nil, failed(ctx, u, err, f.stall())
	}
	if len(b) > maxListSize {
		return nil, &TransferError{Kind: TooLarge, URL: u, Err: errors.New("more than a list of digests can be")}
	}
	return b, nil
}

// meter says how much, how fast and how long. The rate is that of the last
// seconds, since a resumed download begins with what it did not fetch.
type meter struct {
	said  time.Time
	since time.Time
	from  int64
	rate  float64
}

const meterSpan = 3 * time.Second

func (m *meter) due() bool {
	if now := time.Now(); now.Sub(m.said) >= sayEvery {
		m.said = now
		return true
	}
	return false
}

func (m *meter) line(done, total int64) string {
	now := time.Now()
	if m.since.IsZero() || done < m.from {
		m.since, m.from, m.rate = now, done, 0
	}
	if dt := now.Sub(m.since); dt >= meterSpan || m.rate == 0 && dt >= 500*time.Millisecond {
		m.rate = float64(done-m.from) / dt.Seconds()
		m.since, m.from = now, done
	}
	parts := []string{humanize.Bytes(uint64(done))}
	if total > 0 {
		parts[0] += " of " + humanize.Bytes(uint64(total))
	}
	if m.rate > 0 {
		parts = append(parts, humanize.Bytes(uint64(m.rate))+"/s")
		if total > done {
			left := time.Duration(float64(total-done) / m.rate * float64(time.Second))
			parts = append(parts, left.Round(time.Second).String()+" left")
		}
	}
	return strings.Join(parts, ", ")
}
