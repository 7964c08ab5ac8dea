// Package codeserver gets code-server, the browser editor, as one archive for the guest, and serves
// as the proxy between a browser on this machine and the editor in the guest.
//
// It owns the cache of archives ($XDG_CACHE_HOME/aivm/code-server) and the proxy on the loopback
// address. It does not ask for consent, opens no connection to a guest (Proxy.Dial does) and starts
// no browser.
//
// Invariants: an archive gets its name in the cache only when it is complete; the proxy listens on
// loopback only, and answers only browsers that know its token and use its host name, so that no
// page of another origin can reach the editor through the browser; the editor in the guest has a
// password, which no browser receives.
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

// Home is the directory of code-server in the guest, below the guest user's home. It has one
// subdirectory per version.
const Home = ".local/share/aivm/code-server"

// Version is the release that is fetched or built. Node is the major version of Node.js it needs,
// which is in npm as the package "node".
const (
	Version = "4.139.1"
	Node    = "24"
)

// digests maps architectures to the SHA-256 of Version's release archives, from GitHub's API
// (releases/tags/vVERSION, assets[].digest).
var digests = map[string]string{
	"amd64": "53029be6c5781b7bca49b815fcc9a2a3fc111813ad8c9965b2c0f0d2985a0674",
	"arm64": "0edb4b60d9c4744b2dd14b0911e3c2e6dd8c6f3c13bd58bda23ae744e59e7df1",
}

// Source fetches or builds archives of code-server.
type Source struct {
	Dir      string // of the cache
	LookPath func(string) (string, error)
	Environ  []string
	Release  string // URL of the release archive
	SHA256   string // of the release archive; if empty, the release is not fetched
	Client   *download.Client
}

// stallLimit is how long the release's server may send nothing.
const stallLimit = 20 * time.Second

// NewSource returns the Source for this machine, with its cache in dir.
func NewSource(dir string) Source {
	return Source{
		Dir: dir, LookPath: exec.LookPath, Environ: os.Environ(),
		// If the network drops packets, give up in time and build with npm.
		Client:  &download.Client{Stall: stallLimit, OneTry: true},
		Release: "https://github.com/coder/code-server/releases/download/v" + Version + "/code-server-" + Version + "-linux-" + runtime.GOARCH + ".tar.gz",
		SHA256:  digests[runtime.GOARCH],
	}
}

// Path returns the path of the archive in the cache; the file may not exist.
func (s Source) Path() string {
	return filepath.Join(s.Dir, "code-server-"+Version+"-linux-"+runtime.GOARCH+".tar.gz")
}

// Cached reports whether the archive is in the cache.
func (s Source) Cached() bool {
	st, err := os.Stat(s.Path())
	return err == nil && st.Mode().IsRegular()
}

// Progress is called with the present step; a fraction below 0 is unknown.
type Progress = func(detail string, fraction float64)

// Get gets the archive into the cache: it fetches the release or, if that fails, builds the npm
// package. A lock lets one run at a time do this. After an error, a partly fetched release is kept
// for the next run; all other temporary files are removed.
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
			Hint(ui.Remark("download "+s.Release+" on another machine, and use --code-server-archive FILE"), ui.Remark("building it needs npm 10 or newer, a compiler, make and python3"))
	}
	f, err := os.Open(out)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.moveToCache(f); err != nil {
		return err
	}
	for _, p := range download.Parts(s.Dir) {
		_ = os.Remove(p) // a part of the release, no longer needed
	}
	return nil
}

// fetch downloads the release.
func (s Source) fetch(ctx context.Context, progress Progress) error {
	if s.SHA256 == "" {
		return errors.New("no release is known for this architecture")
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
	err = s.moveToCache(t.File())
	t.Drop() // a complete file that was refused is of no use to the next run
	return err
}

// moveToCache checks a complete archive in the cache's file system and renames it to its final name.
// renameio is of no use: it needs the final name before the file is written, and a partial download
// has another one.
func (s Source) moveToCache(f *os.File) error {
	if err := Check(f.Name()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.Path())
}

// build installs and builds the npm package with its own Node.js in the directory work, then packs
// what a guest needs of it into the file out.
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
		may  bool // may fail: an npm without the command needs no approval
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
		output, err := cmd.CombinedOutput()
		if err != nil && !step.may {
			return fmt.Errorf("npm %s: %w: %s", strings.Join(step.args, " "), err, lastLines(output))
		}
	}
	progress("packing it", -1)
	return pack(ctx, tree, out)
}

// withPath returns environ with the directories prepended to PATH.
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

// IsMissing reports whether err means that the archive does not exist.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
