// Package codeserver gets code-server, the browser editor, as one archive for
// the guest, and is the door between a browser here and that editor there.
//
// It owns the cache of archives ($XDG_CACHE_HOME/aivm/code-server) and the
// proxy on this machine's loopback. It decides nothing about consent, opens no
// connection to a guest (it is given a way to dial) and starts no browser.
//
// Invariants: an archive appears in the cache under its name only when it is
// whole; the proxy listens on loopback, answers only who knows its token, and
// only under its own name, so that no page on another address can reach the
// editor through the browser; the guest's editor asks for a password of its
// own, which no browser ever sees.
package codeserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/ui"
)

// Home is where code-server lies in the guest, below the home of its user, one
// directory a version.
const Home = ".local/share/aivm/code-server"

// Version is the release that is fetched or built; Node the major version it
// needs, which npm has as a package of its own.
const (
	Version = "4.139.1"
	Node    = "24"
)

// Source is where archives come from.
type Source struct {
	Dir      string // of the cache
	LookPath func(string) (string, error)
	Environ  []string
	// Release is the address of the release archive; it is not asked for if
	// empty.
	Release string
	Client  *http.Client
	// AnswerLimit is how long the release's server may take to begin its answer;
	// 20 s if 0.
	AnswerLimit time.Duration
}

const answerLimit = 20 * time.Second

// NewSource is the usual one, with its cache in dir.
func NewSource(dir string) Source {
	arch := map[string]string{"amd64": "amd64", "arm64": "arm64"}[runtime.GOARCH]
	return Source{
		Dir: dir, LookPath: exec.LookPath, Environ: os.Environ(), Client: http.DefaultClient,
		Release: "https://github.com/coder/code-server/releases/download/v" + Version + "/code-server-" + Version + "-linux-" + arch + ".tar.gz",
	}
}

// Path is where the archive lies in the cache, whether it is there or not.
func (s Source) Path() string {
	return filepath.Join(s.Dir, "code-server-"+Version+"-linux-"+runtime.GOARCH+".tar.gz")
}

// Cached reports whether the archive is there.
func (s Source) Cached() bool {
	st, err := os.Stat(s.Path())
	return err == nil && st.Mode().IsRegular()
}

// Progress is told what is being done; a fraction below 0 is unknown.
type Progress = func(detail string, fraction float64)

// Get sees to it that the archive is in the cache: the release where the
// internet can be reached, else the npm package, built here. One run at a time
// does it; what it made aside is removed whatever happens.
func (s Source) Get(ctx context.Context, progress Progress) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	release, _, err := lockfile.Lock(ctx, filepath.Join(s.Dir, "lock"), "it gets code-server", func(holder string) func(error) {
		progress("waiting for "+holder, -1)
		return func(error) {}
	})
	if err != nil {
		return err
	}
	defer release()
	if s.Cached() {
		return nil
	}
	work, err := os.MkdirTemp(s.Dir, "work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	out := filepath.Join(work, "archive")
	fetchErr := errors.New("no release is asked for")
	if s.Release != "" {
		fetchErr = s.fetch(ctx, out, progress)
	}
	if fetchErr != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.build(ctx, work, out, progress); err != nil {
			return ui.Failed("code-server could be neither fetched (%w) nor built: %w", fetchErr, err).
				Hint("fetch "+s.Release+" elsewhere, then: --code-server-archive FILE", "to build it: npm 10 or newer, a compiler, make and python3")
		}
	}
	if err := Check(out); err != nil {
		return err
	}
	return os.Rename(out, s.Path())
}

// fetch downloads the release.
func (s Source) fetch(ctx context.Context, out string, progress Progress) error {
	progress("fetching the release", -1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Release, nil)
	if err != nil {
		return err
	}
	// A network that swallows packets must not keep anybody from npm.
	limit := cmp.Or(s.AnswerLimit, answerLimit)
	late := time.AfterFunc(limit, cancel)
	res, err := s.Client.Do(req)
	if !late.Stop() {
		if err == nil {
			_ = res.Body.Close()
		}
		return fmt.Errorf("no answer in %v", limit)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the release page answers %s", res.Status)
	}
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, &counted{res.Body, res.ContentLength, 0, progress})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && res.ContentLength > 0 && n != res.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		_ = os.Remove(out)
	}
	return err
}

// counted reports how much of a stream has passed.
type counted struct {
	r           io.Reader
	total, done int64
	progress    Progress
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.total > 0 {
		c.progress(fmt.Sprintf("%d of %d MB", c.done>>20, c.total>>20), float64(c.done)/float64(c.total))
	}
	return n, err
}

// build makes the npm package with a Node of its own, then packs what a guest
// needs of it.
func (s Source) build(ctx context.Context, work, out string, progress Progress) error {
	npm, err := s.LookPath("npm")
	if err != nil {
		return errors.New("npm is not installed")
	}
	tree := filepath.Join(work, "tree")
	if err := os.MkdirAll(tree, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, "package.json"), []byte(`{"name":"aivm-code-server","version":"1.0.0","private":true}`), 0o600); err != nil {
		return err
	}
	env := withPath(s.Environ, filepath.Join(tree, "node_modules/.bin"), filepath.Join(tree, "node_modules/node/bin"))
	for _, step := range []struct {
		what string
		args []string
		may  bool // an npm that does not know it needs no approval
	}{
		{"fetching Node " + Node, []string{"install", "--no-audit", "--no-fund", "node@" + Node}, false},
		{"fetching code-server " + Version, []string{"install", "--no-audit", "--no-fund", "code-server@" + Version}, false},
		{"allowing its own build steps", []string{"install-scripts", "approve", "code-server", "argon2"}, true},
		{"building it", []string{"rebuild"}, false},
	} {
		progress(step.what, -1)
		cmd := exec.CommandContext(ctx, npm, step.args...)
		cmd.Dir, cmd.Env = tree, env
		cmd.WaitDelay = 5 * time.Second
		said, err := cmd.CombinedOutput()
		if err != nil && !step.may {
			return fmt.Errorf("npm %s: %w: %s", strings.Join(step.args, " "), err, lastLines(said))
		}
	}
	progress("packing it", -1)
	return pack(ctx, tree, out)
}

// withPath puts directories before the PATH.
func withPath(environ []string, dirs ...string) []string {
	var out []string
	path := strings.Join(dirs, ":")
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path += ":" + v
			continue
		}
		out = append(out, kv)
	}
	return append(out, "PATH="+path)
}

func lastLines(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return ui.CleanTo(strings.Join(lines[max(0, len(lines)-3):], " / "), 400)
}

// IsMissing reports whether an archive that was named is not there.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
