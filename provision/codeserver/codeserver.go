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
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"aivm.dev/aivm/internal/download"
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

// digests are the SHA-256 of Version's release archives, by architecture, as
// GitHub's API shows them (releases/tags/vVERSION, assets[].digest).
var digests = map[string]string{
	"amd64": "53029be6c5781b7bca49b815fcc9a2a3fc111813ad8c9965b2c0f0d2985a0674",
	"arm64": "0edb4b60d9c4744b2dd14b0911e3c2e6dd8c6f3c13bd58bda23ae744e59e7df1",
}

// Source is where archives come from.
type Source struct {
	Dir      string // of the cache
	LookPath func(string) (string, error)
	Environ  []string
	Release  string // address of the release archive
	SHA256   string // of that archive; without it the release is not fetched
	Client   *download.Client
}

// silent is how long the release's server may send nothing.
const silent = 20 * time.Second

// NewSource is the usual one, with its cache in dir.
func NewSource(dir string) Source {
	return Source{
		Dir: dir, LookPath: exec.LookPath, Environ: os.Environ(),
		// A network that swallows packets must not keep anybody from npm.
		Client:  &download.Client{Stall: silent, OneTry: true},
		Release: "https://github.com/coder/code-server/releases/download/v" + Version + "/code-server-" + Version + "-linux-" + runtime.GOARCH + ".tar.gz",
		SHA256:  digests[runtime.GOARCH],
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
// does it. Of what it made aside, only a part of the release is kept for the
// next run.
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
	download.Sweep(s.Dir, time.Now())
	fetchErr := s.fetch(ctx, progress)
	if fetchErr == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	work, err := os.MkdirTemp(s.Dir, "work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	out := filepath.Join(work, "archive")
	if err := s.build(ctx, work, out, progress); err != nil {
		return ui.Failed("code-server could be neither fetched (%w) nor built: %w", fetchErr, err).
			Hint(ui.Remark("fetch "+s.Release+" elsewhere, then: --code-server-archive FILE"), ui.Remark("to build it: npm 10 or newer, a compiler, make and python3"))
	}
	f, err := os.Open(out)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.place(f); err != nil {
		return err
	}
	for _, p := range download.Parts(s.Dir) {
		_ = os.Remove(p) // of the release, which is not needed any more
	}
	return nil
}

// fetch downloads the release.
func (s Source) fetch(ctx context.Context, progress Progress) error {
	if s.SHA256 == "" {
		return errors.New("no release of it is known for this architecture")
	}
	progress("fetching the release", -1)
	at := download.Place{Dir: s.Dir, What: "code-server", Err: func(err error) error {
		return ui.Failed("writing code-server into %s: %w", s.Dir, err)
	}}
	t, err := s.Client.Open(ctx, at, download.Digest{Algo: "sha256", Hex: s.SHA256}, progress)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.From(ctx, []string{s.Release}); err != nil {
		return err
	}
	err = s.place(t.File())
	t.Drop() // a whole one that is refused is no use to the next run
	return err
}

// place gives a complete archive on the cache's file system its final name.
// renameio wants that name before the file is written, and a part of a download
// has one of its own.
func (s Source) place(f *os.File) error {
	if err := Check(f.Name()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.Path())
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
