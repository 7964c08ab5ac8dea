package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"aivm.dev/aivm/internal/download"
	"aivm.dev/aivm/internal/ui"
)

// Fetcher fetches images over https into the cache. The zero value with a Cache is ready to use;
// the other fields are for mirrors and for tests.
type Fetcher struct {
	Cache   Cache
	Mirrors []string // tried in order, before the publisher's own server
	Arch    string   // "" = the host's
	TLS     *tls.Config
	Stall   time.Duration // longest time without data; 0 = 30 s
	Pause   func(time.Duration) time.Duration
	Keys    func() (openpgp.EntityList, error) // nil = Ubuntu's keys
	Now     func() time.Time
	Origin  string // replaces the publisher's server

	once      sync.Once
	client    *download.Client
	answersIn time.Duration // how long DefaultReachable waits for a server; 0 = answerLimit
}

// web returns the HTTP client, made at the first call.
func (f *Fetcher) web() *download.Client {
	f.once.Do(func() { f.client = &download.Client{TLS: f.TLS, Stall: f.Stall, Pause: f.Pause} })
	return f.client
}

func (f *Fetcher) arch() string {
	if f.Arch != "" {
		return f.Arch
	}
	return Arch()
}

func (f *Fetcher) now() time.Time {
	if f.Now != nil {
		return f.Now()
	}
	return time.Now()
}

// bases returns the servers to fetch a release from, in order: the mirrors, then the publisher's.
func (f *Fetcher) bases(r Release) []string {
	origin := r.Origin
	if f.Origin != "" {
		origin = f.Origin
	}
	var out []string
	for _, b := range append(slices.Clone(f.Mirrors), origin) {
		if b = strings.TrimRight(b, "/"); !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// DownloadURL returns the URL of a download for display, without its password.
func (f *Fetcher) DownloadURL(ref Ref) string {
	if r, ok := Find(ref.Name); ref.Kind == KindCatalogue && ok {
		return f.bases(r)[0] + r.Dir + "/" + r.FileName(f.arch())
	}
	if u, err := url.Parse(ref.URL); err == nil {
		return u.Redacted()
	}
	return ref.URL
}

// Host returns the name of the server that is tried first.
func (f *Fetcher) Host(ref Ref) string { return ui.CleanTo(download.Host(f.DownloadURL(ref)), 100) }

// Check returns the error with which Fetch would refuse ref, before any server is contacted.
func (f *Fetcher) Check(ref Ref) error {
	switch ref.Kind {
	case KindURL:
		if !ref.Pinned() {
			return ui.Refused("the image %s needs a digest to verify it", ui.Clean(ref.URL)).
				Hint(ui.Remark("append it to the URL: --image '"+ui.Clean(ref.URL)+"#sha256=HEX'"), ui.Remark("or set image.sha256 or image.sha512 in the config"))
		}
	case KindCatalogue:
		r, ok := Find(ref.Name)
		if !ok {
			return unknown(ui.Usage("unknown image %q", ref.Name), ref.Name)
		}
		if !r.For(f.arch()) {
			return ui.Refused("there is no image %s for %s", r.Name, f.arch()).Hint(ui.Cmd("aivm image list"))
		}
	}
	for _, m := range f.Mirrors {
		if err := download.CheckURL(m); err != nil {
			return ui.Refused("image.mirror %q: %w", m, err).Hint(ui.Cmd("aivm config edit"))
		}
	}
	return nil
}

// answerLimit is how long DefaultReachable waits for a server.
const answerLimit = 5 * time.Second

// DefaultReachable reports whether the newest build of the default image is available: whether one
// of its servers returns a list of digests that names it, within five seconds.
func (f *Fetcher) DefaultReachable(ctx context.Context) bool {
	r, _ := Find(Default)
	if f.Check(Ref{Kind: KindCatalogue, Name: r.Name}) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.answersIn, answerLimit))
	defer cancel()
	bases := f.bases(r)
	seen := make(chan bool, len(bases))
	for _, b := range bases {
		go func() {
			list, err := f.web().ListOnce(ctx, b+r.Dir+"/"+r.Sums)
			if err == nil {
				_, err = sumOf(list, r.FileName(f.arch()), r.digits())
			}
			seen <- err == nil
		}()
	}
	for range bases {
		if <-seen {
			return true
		}
	}
	return false
}

func (r Release) digits() int {
	if strings.HasPrefix(r.Sums, "SHA512") {
		return 128
	}
	return 64
}

func (r Ref) digest() download.Digest {
	if r.SHA512 != "" {
		return download.Digest{Algo: "sha512", Hex: r.SHA512}
	}
	return download.Digest{Algo: "sha256", Hex: r.SHA256}
}

// resolved says what to fetch, from where, and how it is verified.
type resolved struct {
	urls     []string
	want     download.Digest
	verified string
	signed   time.Time // when the list was signed; zero if it is not signed
}

// resolve finds the newest build of a release. It uses the first server with a valid list, and puts
// that server first in the URLs of the file.
func (f *Fetcher) resolve(ctx context.Context, ref Ref, progress Progress) (resolved, error) {
	if ref.Kind == KindURL {
		d := ref.digest()
		return resolved{urls: []string{ref.URL}, want: d, verified: "the " + d.Algo + " given with it"}, nil
	}
	r, _ := Find(ref.Name)
	bases := f.bases(r)
	var errs []error
	for i, b := range bases {
		progress("looking up the newest "+r.Name+" on "+download.Host(b), -1)
		got, err := f.newest(ctx, r, b, ref.Pinned())
		if ctx.Err() != nil {
			return resolved{}, ctx.Err()
		}
		if err != nil {
			if te := (*download.Error)(nil); !errors.As(err, &te) {
				err = fmt.Errorf("%s: %w", download.Host(b), err)
			}
			errs = append(errs, err)
			continue
		}
		for j := range bases {
			got.urls = append(got.urls, bases[(i+j)%len(bases)]+r.Dir+"/"+r.FileName(f.arch()))
		}
		return pin(got, ref, r)
	}
	if ref.Pinned() {
		// A digest is enough: no list is needed, only the file.
		got := resolved{want: ref.digest()}
		for _, b := range bases {
			got.urls = append(got.urls, b+r.Dir+"/"+r.FileName(f.arch()))
		}
		return pin(got, ref, r)
	}
	return resolved{}, ui.Failed("cannot look up the newest build of %s: %w", r.Name, errors.Join(errs...)).
		Hint(ui.CmdFor("try again", "aivm image fetch "+r.Name), ui.Remark("to build an image without that server: --image "+KindPackages+":"+Debian12), ui.CmdFor("to use another server, set image.mirror in the config", "aivm config edit"))
}

// pin makes the digest in ref the wanted one, and refuses it before the download if the newest
// build has another digest.
func pin(got resolved, ref Ref, r Release) (resolved, error) {
	if !ref.Pinned() {
		return got, nil
	}
	d := ref.digest()
	if got.want.Algo == d.Algo && got.want.Hex != "" && got.want.Hex != d.Hex {
		return got, ui.Refused("the newest build of %s has the %s %s, not %s: a newer build was published", r.Name, d.Algo, got.want.Hex, d.Hex).
			Hint(ui.Remark("for the newest build: leave the digest out"), ui.Remark("for the build with your digest: give its own URL, --image 'https://"+r.Host()+"/...#"+d.Algo+"="+d.Hex+"'"))
	}
	got.want, got.verified = d, "the "+d.Algo+" given with it"
	return got, nil
}

// newest reads the list of digests on one server. With a pinned digest the list need not be signed:
// it serves only to report a newer build early.
func (f *Fetcher) newest(ctx context.Context, r Release, base string, pinned bool) (resolved, error) {
	u := base + r.Dir + "/" + r.Sums
	list, err := f.web().List(ctx, u)
	if err != nil {
		return resolved{}, err
	}
	var got resolved
	switch {
	case pinned:
	case r.Signed:
		sig, err := f.web().List(ctx, u+".gpg")
		if err != nil {
			return resolved{}, fmt.Errorf("the signature of its list of digests: %w", err)
		}
		keys := f.Keys
		if keys == nil {
			keys = ubuntuKeys
		}
		ring, err := keys()
		if err != nil {
			return resolved{}, err
		}
		s, err := checkSignature(ring, list, sig, f.now)
		if err != nil {
			return resolved{}, err
		}
		if err := f.Cache.notOlder(r.Name, s.At); err != nil {
			return resolved{}, err
		}
		got.signed, got.verified = s.At, "signed by "+s.Fingerprint
	default:
		got.verified = r.Sums + " of " + download.Host(base) + ", over https, not signed"
	}
	sum, err := sumOf(list, r.FileName(f.arch()), r.digits())
	if err != nil {
		return resolved{}, err
	}
	got.want = download.Digest{Algo: strings.ToLower(r.Sums[:6]), Hex: sum}
	return got, nil
}

// Fetch adds an image of the catalogue or of a URL to the cache. The caller holds the lock that
// Claim returns. If the cache already has the image, Fetch verifies its digest instead of fetching
// it; changed reports whether a new file was added.
func (f *Fetcher) Fetch(ctx context.Context, ref Ref, progress Progress) (e Entry, changed bool, err error) {
	if progress == nil {
		progress = func(string, float64) {}
	}
	if err := f.Check(ref); err != nil {
		return e, false, err
	}
	if err := f.Cache.makeDir(); err != nil {
		return e, false, ui.Failed("creating the image cache: %w", err)
	}
	download.Sweep(f.Cache.Dir, f.now())
	var last download.Digest
	for {
		got, err := f.resolve(ctx, ref, progress)
		if err != nil {
			return e, false, err
		}
		if e, ok, err := f.Cache.refresh(ctx, ref, got, progress); ok || err != nil {
			return e, false, err
		}
		e, err := f.download(ctx, ref, got, progress)
		var te *download.Error
		// A new build was published during this run, so the list names another file.
		if errors.As(err, &te) && te.Kind == download.Checksum && ref.Kind == KindCatalogue && !ref.Pinned() && last.Hex == "" {
			if again, rerr := f.resolve(ctx, ref, progress); rerr == nil && again.want != got.want {
				last = got.want
				continue
			}
		}
		return e, err == nil, explain(err, ref)
	}
}

func explain(err error, ref Ref) error {
	var te *download.Error
	if err == nil || !errors.As(err, &te) {
		return err
	}
	e := ui.Failed("fetching the image %s: %w", ui.Clean(ref.String()), err)
	switch te.Kind {
	case download.Checksum:
		e.Hint(ui.CmdFor("the download was deleted; to use another server, set image.mirror in the config", "aivm config edit"))
	case download.Redirect:
		e.Hint(ui.Remark("give the URL it redirects to, with https, or use another server"))
	default:
		e.Hint(ui.CmdFor("resume the download", "aivm image fetch '"+ui.Clean(ref.Full())+"'"))
	}
	return e
}

// download fetches the file and gives it its final name in the cache.
func (f *Fetcher) download(ctx context.Context, ref Ref, got resolved, progress Progress) (Entry, error) {
	c := f.Cache
	t, err := f.web().Open(ctx, download.Place{Dir: c.Dir, What: "the image", Err: func(err error) error { return writeErr(c.Dir, err) }}, got.want, progress)
	if err != nil {
		return Entry{}, err
	}
	defer t.Close()
	if err := t.From(ctx, got.urls); err != nil {
		return Entry{}, err
	}
	format, virtual, err := Inspect(t.File(), t.Size())
	if err != nil {
		t.Drop() // the digest is right, so fetching it again would not help
		return Entry{}, fmt.Errorf("%s: %w", ui.Clean(ref.String()), err)
	}
	release := got.signed
	if release.IsZero() {
		release = t.Modified()
	}
	im := indexed{
		SHA256: t.SHA256(), Format: format, VirtualSize: virtual, Size: t.Size(), Source: ref.source(),
		Release: day(release), Verified: got.verified, Added: f.now().UTC().Format(time.RFC3339), Signed: unixOf(got.signed),
	}
	if got.want.Algo == "sha512" {
		im.SHA512 = got.want.Hex
	}
	unlock, err := c.lock(ctx, "add", progress)
	if err != nil {
		return Entry{}, err
	}
	defer unlock()
	e, err := c.place(t.File(), im, ref.source(), nil)
	if err == nil {
		t.Drop()
	}
	return e, err
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// notOlder refuses a list that was signed before the one a cached image came from: a server that
// serves an old list would keep fixed vulnerabilities open.
func (c Cache) notOlder(source string, at time.Time) error {
	ix, err := c.loadIndex()
	if err != nil {
		return err
	}
	for _, im := range ix.Images {
		if im.Source == source && im.Signed > at.Unix() {
			return ui.Failed("the list of digests is older than one seen before: signed on %s, the earlier one on %s", day(at), day(time.Unix(im.Signed, 0)))
		}
	}
	return nil
}
