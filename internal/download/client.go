// Package download fetches a file with a known digest from a server to the disk, over https only. It
// resumes the download of an earlier run, retries a server that stalls or fails and then tries the
// next one, and never writes more bytes than the server announced.
//
// It owns the files of unfinished downloads (parts, see Prefix) in the directory it is given, and
// removes nothing else there. It takes no lock, asks for no consent, and does not give a file its
// final name.
//
// Invariants: From returns nil only for a file with the wanted digest; if the file changes on the
// server, the download starts over, so that two versions are never combined; an *Error is a failure
// of a server, a *ui.Error one of the host.
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

// Kinds of failures of a server.
const (
	Network   = "network"   // no connection, or it broke
	Stalled   = "stalled"   // no data for Client.Stall
	Truncated = "truncated" // the file ends before the announced length
	TooLarge  = "too large" // the file is longer than announced, or than allowed
	Changed   = "changed"   // the file changed since the download began
	Checksum  = "checksum"  // the file is complete, but has a wrong digest
	Redirect  = "redirect"  // a redirect to a URL that is not https
	Status    = "status"    // an HTTP status other than success
)

// Error is the failure of one server.
type Error struct {
	Kind  string
	URL   string
	Code  int           // the HTTP status, of kind Status
	After time.Duration // the pause requested by the server (Retry-After)
	Err   error
	never bool // a retry is useless
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.what(), e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) what() string {
	from := ui.CleanTo(Host(e.URL), 100)
	switch e.Kind {
	case Checksum:
		return "checksum mismatch: the file from " + from + " is not the expected one"
	case Changed:
		return "the file on " + from + " changed during the download"
	case Truncated:
		return "the file from " + from + " is truncated"
	case TooLarge:
		return "the file from " + from + " is too large"
	case Stalled:
		return "the download from " + from + " stalled"
	case Redirect:
		return from + " redirects to a URL that is not https"
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

// final reports whether a retry with the same server is useless.
func (e *Error) final() bool {
	switch e.Kind {
	case Redirect, TooLarge, Checksum:
		return true
	case Status:
		return e.Code < 500 && e.Code != http.StatusTooManyRequests && e.Code != http.StatusRequestTimeout
	}
	return e.never
}

var errStalled = errors.New("no data received")

// notHTTPS is the error of a redirect to a URL that is not https.
type notHTTPS struct{ to string }

func (e *notHTTPS) Error() string { return "the target is " + ui.CleanTo(e.to, 200) }

func httpsOnly(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme != "https" {
		return &notHTTPS{req.URL.Redacted()}
	}
	if len(via) >= 10 {
		return errors.New("more than ten redirects")
	}
	return nil
}

// CheckURL returns an error unless s is an https URL of a file, without a fragment.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https" || u.Host == "":
		return errors.New("the URL must be https://HOST/PATH")
	case strings.Contains(s, "#"): // also an empty fragment
		return errors.New("the part after # must be sha256=HEX or sha512=HEX")
	}
	return nil
}

// Host returns the host of a URL, or the text itself if it has none.
func Host(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		return u.Host
	}
	return s
}

// failed converts the error of a request to an *Error.
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
		err = ue.Err // the text of ue repeats the URL
	}
	return &Error{Kind: Network, URL: u, Err: fmt.Errorf("%s", ui.CleanTo(err.Error(), 300))}
}

// retryAfter returns the duration in the Retry-After header (only the form in seconds), at most a
// minute.
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

// Client fetches files from servers, over https only. The zero value is ready to use; it must not be
// copied, nor changed after its first use.
type Client struct {
	TLS   *tls.Config
	Stall time.Duration                     // longest time without data; 0 = 30 s
	Pause func(time.Duration) time.Duration // changes the pause before the next try; for tests

	// OneTry gives up a server at its first failure if nothing of the file was downloaded yet, for
	// callers that can get the content in another way.
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

// HTTP returns the HTTP client in use. It uses the proxies set in the environment and does not
// request compression, so that ranges and lengths refer to the file's own bytes.
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

// pause waits before the next request to the same server: 500 ms doubled for each of the idle tries
// (those that brought no new data), at most 15 s, or 200 ms if there were none; at least after, the
// pause that the server requested.
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

// List fetches a list of digests or a signature, at most 4 MiB, with up to three tries.
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

// ListOnce is List with one try.
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
		return nil, &Error{Kind: TooLarge, URL: u, Err: fmt.Errorf("a list of digests has at most %d bytes", maxListSize)}
	}
	return b, nil
}

// refused returns the error for a response whose status is not a success.
func refused(u string, resp *http.Response) *Error {
	return &Error{Kind: Status, URL: u, Code: resp.StatusCode, After: retryAfter(resp), Err: fmt.Errorf("the server answered %s", ui.CleanTo(resp.Status, 60))}
}
