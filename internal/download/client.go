// Package download brings a file whose digest is known from a server onto the
// disk, over https only: what an earlier run left is gone on with, a silent or
// broken server is asked again and then given up for the next one, and nothing
// is larger than it was announced.
//
// It owns the parts of unfinished downloads in the directory it is given
// (Prefix), and removes nothing else there. It takes no lock, decides nothing
// about consent, and does not give a file its final name.
//
// Invariants: From returns nil only for a file with the wanted digest; a file
// that changed on the server is begun anew, never stitched together from two;
// an *Error means a server, an *ui.Error this machine.
package download

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

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

// Error is one server's failure.
type Error struct {
	Kind  string
	URL   string
	Code  int           // of Status
	After time.Duration // the server asked for so long a pause
	Err   error
	never bool // trying again changes nothing
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.what(), e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) what() string {
	from := ui.CleanTo(Host(e.URL), 100)
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

func (e *Error) short() string {
	switch e.Kind {
	case Network, Status:
		return "the connection to " + ui.CleanTo(Host(e.URL), 100) + " broke"
	}
	return e.what()
}

// final reports that the same server need not be asked again.
func (e *Error) final() bool {
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

// CheckURL accepts an https address of a file.
func CheckURL(s string) error {
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

// Host returns the host of an address, or the text itself if it has none.
func Host(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		return u.Host
	}
	return s
}

// failed turns the error of a request into what it means.
func failed(ctx context.Context, u string, err error, stall time.Duration) error {
	var plain *notHTTPS
	if errors.As(err, &plain) {
		return &Error{Kind: Redirect, URL: u, Err: plain}
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		return &Error{Kind: Stalled, URL: u, Err: fmt.Errorf("%w for %s", errStalled, stall)}
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // its text repeats the address
	}
	return &Error{Kind: Network, URL: u, Err: fmt.Errorf("%s", ui.CleanTo(err.Error(), 300))}
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

// Client asks servers for files, over https only. The zero value is ready; it
// must not be copied, nor changed after its first use.
type Client struct {
	TLS   *tls.Config
	Stall time.Duration                     // how long nothing may come; 0 = 30 s
	Pause func(time.Duration) time.Duration // changes how long is waited before the next try; for tests

	// OneTry gives a server up at its first failure, as long as nothing of the
	// file is here: for who has another way to what is in it.
	OneTry bool

	once sync.Once
	http *http.Client
}

func (c *Client) stall() time.Duration {
	if c.Stall > 0 {
		return c.Stall
	}
	return stallLimit
}

// HTTP returns the client that is used. It honours the environment's proxies;
// what it brings is not unpacked, so that ranges and lengths mean the file.
func (c *Client) HTTP() *http.Client {
	c.once.Do(func() {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DisableCompression = true
		if c.TLS != nil {
			t.TLSClientConfig = c.TLS
		}
		c.http = &http.Client{Transport: t, CheckRedirect: httpsOnly}
	})
	return c.http
}

// pause waits before the same server is asked again: half a second, doubled
// with each try that brought nothing, or as long as the server asked for.
func (c *Client) pause(ctx context.Context, idle int, after time.Duration) error {
	d := max(after, min(500*time.Millisecond<<idle, 15*time.Second))
	if idle == 0 && after == 0 {
		d = 200 * time.Millisecond
	}
	if c.Pause != nil {
		d = c.Pause(d)
	}
	return pause.For(ctx, d)
}

// List fetches a list of digests or a signature, at most 4 MiB, and asks up to
// three times.
func (c *Client) List(ctx context.Context, u string) ([]byte, error) {
	var last error
	for try := range 3 {
		b, err := c.ListOnce(ctx, u)
		if err == nil {
			return b, nil
		}
		last = err
		var e *Error
		if ctx.Err() != nil || !errors.As(err, &e) || e.final() {
			break
		}
		if err := c.pause(ctx, try, e.After); err != nil {
			return nil, err
		}
	}
	return nil, last
}

// ListOnce is List with one request.
func (c *Client) ListOnce(ctx context.Context, u string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.stall(), errStalled)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, &Error{Kind: Network, URL: u, Err: err, never: true}
	}
	resp, err := c.HTTP().Do(req)
	if err != nil {
		return nil, failed(ctx, u, err, c.stall())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refused(u, resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxListSize+1))
	if err != nil {
		return nil, failed(ctx, u, err, c.stall())
	}
	if len(b) > maxListSize {
		return nil, &Error{Kind: TooLarge, URL: u, Err: errors.New("more than a list of digests can be")}
	}
	return b, nil
}

// refused is the error of an answer with a status that brings no file.
func refused(u string, resp *http.Response) *Error {
	return &Error{Kind: Status, URL: u, Code: resp.StatusCode, After: retryAfter(resp), Err: fmt.Errorf("the server answers %s", ui.CleanTo(resp.Status, 60))}
}
