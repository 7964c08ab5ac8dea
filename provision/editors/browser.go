package editors

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"aivm.dev/aivm/internal/capture"

	"aivm.dev/aivm/internal/guestarchive"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/codeserver"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

func (e Part) serverSource() codeserver.Source {
	return codeserver.NewSource(filepath.Join(filepath.Dir(e.Cache.Dir), "code-server"))
}

// MissingServer returns the Source of code-server if w needs it and the cache does not have it;
// otherwise nil.
func (e Part) MissingServer(w *target.Target) *codeserver.Source {
	if !w.Browser {
		return nil
	}
	src := e.serverSource()
	if src.Cached() {
		return nil
	}
	return &src
}

// PlanServer plans to get the archive of code-server from src; src may be nil.
func PlanServer(src *codeserver.Source) []plan.Action {
	if src == nil {
		return nil
	}
	return []plan.Action{{
		ID: "code-server.fetch", Consent: plan.Ask, Timing: "editor",
		Why:   "fetch code-server " + codeserver.Version + " (about 150 MB), or build it with npm if its release cannot be fetched",
		Shows: []string{"fetch " + src.Release, "or: npm install node@" + codeserver.Node + " code-server@" + codeserver.Version, "write " + src.Path()},
		Do: func(ctx context.Context) error {
			return src.Get(ctx, func(detail string, fraction float64) { plan.Report(ctx, detail, fraction) })
		},
	}}
}

// Serve copies code-server into the guest, starts it there, and serves it to a browser on this
// machine until Ctrl-C.
func (e Part) Serve(ctx context.Context, w *target.Target, f *loop.Facts, o CodeOptions, res CodeResult) error {
	stop := e.Timing.Start("editor")
	dir, err := e.installServer(ctx, w, f, o.ServerArchive)
	if err != nil {
		stop()
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	task := e.UI.Task("starting code-server in " + w.Name)
	s := e.startServer(ctx, cancel, w, f, dir)
	p := &codeserver.Proxy{Password: s.password, Folder: w.OpenAt, Record: e.State().BrowserPath(w.Name), Dial: func(ctx context.Context) (net.Conn, error) {
		port, err := s.port(ctx)
		if err != nil {
			return nil, err
		}
		return f.Conn.Dial(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}}
	if err := p.Listen(); err != nil {
		task.Fail()
		return err
	}
	login, done := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no answer within five minutes"))
	err = p.Login(login)
	done()
	stop()
	if err != nil {
		task.Fail()
		if ctx.Err() != nil && context.Cause(ctx) == context.Canceled {
			return nil
		}
		return ui.Failed("code-server in VM %s: %w", w.Name, err).Hint(ui.CmdFor("try it in the guest", "aivm ssh . -- "+shellescape.Quote("./"+dir+"/bin/code-server")+" --version"))
	}
	task.Done()
	first := e.openBrowser(ctx, o, p)
	defer first.remove()
	res.Opened, res.URL, res.Seconds = true, first.address, session.Seconds(e.Timing)
	if err := o.Serving(res); err != nil {
		return err
	}
	if first.opened {
		e.UI.Say("code-server shows %s of VM %s in the browser; press Ctrl-C to stop", w.OpenAt, w.Name)
	} else {
		e.UI.Say("code-server serves %s of VM %s; the address is valid once, for %.0f seconds; press Ctrl-C to stop", w.OpenAt, w.Name, codeserver.InviteLifetime.Seconds())
	}
	go e.offerAddresses(ctx, p)
	err = p.Serve(ctx)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return ui.Failed("code-server in VM %s ended: %w", w.Name, cause).Hint(ui.CmdFor("to start it again", e.Rerun))
	}
	s.wait()
	e.UI.Say("code-server in VM %s was stopped", w.Name)
	return err
}

// installServer copies code-server into the guest unless it is there, and returns its directory in
// the guest. named is the archive of --code-server-archive, or "".
func (e Part) installServer(ctx context.Context, w *target.Target, f *loop.Facts, named string) (string, error) {
	archive, version := e.serverSource().Path(), codeserver.Version
	if named != "" {
		archive = e.Expand(named)
		if err := codeserver.Check(archive); err != nil {
			if codeserver.IsMissing(err) {
				return "", ui.Refused("code-server archive %s does not exist", ui.Clean(named)).Hint(ui.Cmd("ls -l " + shellescape.Quote(named)))
			}
			return "", err
		}
		digest, err := fileDigest(archive)
		if err != nil {
			return "", err
		}
		version = "file-" + digest[:16]
	}
	place := guestarchive.Place{Home: codeserver.Home, Version: version, Program: "bin/code-server"}
	if has, err := guestarchive.Has(ctx, f.Conn, place); err != nil || has {
		return place.Dir(), err
	}
	file, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return "", err
	}
	task := e.UI.Task("copying code-server into " + w.Name)
	var done int64
	in := io.TeeReader(file, writerFunc(func(p []byte) (int, error) {
		done += int64(len(p))
		task.Bytes(done, st.Size())
		return len(p), nil
	}))
	err = guestarchive.Put(ctx, f.Conn, place, in)
	if bad := new(guestarchive.UnpackError); errors.As(err, &bad) {
		hint := ui.CmdFor("check whether its disk is full", "aivm ssh . -- df -h")
		if bad.Status == guestarchive.StatusShared {
			hint = ui.CmdFor("to see the folders that the VM shares", "aivm list --section folders")
		}
		err = ui.Failed("unpacking code-server in the guest (status %d): %s", bad.Status, bad.Message).Hint(hint)
	}
	if err != nil {
		task.Fail()
		return "", err
	}
	task.Done()
	return place.Dir(), nil
}

type writerFunc func([]byte) (int, error)

// Write calls f.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// server is code-server running in the guest.
type server struct {
	password   string
	found      chan struct{} // closed when the port is known
	ended      chan struct{}
	once       sync.Once
	portNumber int
}

// listeningRE matches the line that code-server prints when it is ready. aivm takes only the port
// from it: the guest cannot name another address.
var listeningRE = lazyre.New(`listening on http://127\.0\.0\.1:(\d{1,5})/`)

//go:embed launch.sh
var launchText string

// launch reads the password from stdin, because others in the guest can read the arguments and the
// environment of a program that starts.
//
// code-server's outer process gives its inner one ten seconds to start, which is not enough in an
// emulated guest. raiseTimeout makes that five minutes, in the outer process only.
var launch = strings.ReplaceAll(launchText, "@RAISE_TIMEOUT@", raiseTimeout)

// raiseTimeout is this JavaScript, URL-encoded: const s=setTimeout; globalThis.setTimeout =
// Object.setPrototypeOf((f,t,...a) => s(f, t===1e4 ? 3e5 : t, ...a), s);
// delete process.env.NODE_OPTIONS
const raiseTimeout = "const%20s%3DsetTimeout%3BglobalThis.setTimeout%3DObject.setPrototypeOf%28%28f%2Ct%2C...a%29%3D%3Es%28f%2Ct%3D%3D%3D1e4%3F3e5%3At%2C...a%29%2Cs%29%3Bdelete%20process.env.NODE_OPTIONS"

func (e Part) startServer(ctx context.Context, cancel context.CancelCauseFunc, w *target.Target, f *loop.Facts, dir string) *server {
	s := &server{password: codeserver.Secret(), found: make(chan struct{}), ended: make(chan struct{})}
	var last string
	out := &capture.Lines{Limit: 4096, Each: func(line string) {
		last = line
		if m := listeningRE.FindStringSubmatch(line); m != nil {
			if port, err := strconv.Atoi(m[1]); err == nil && port > 0 && port < 1<<16 {
				s.once.Do(func() {
					s.portNumber = port
					close(s.found)
				})
			}
		}
	}}
	go func() {
		defer close(s.ended)
		code, err := f.Conn.Run(ctx, guest.Cmd{
			Argv: []string{"sh", "-c", launch, "sh", dir, w.OpenAt}, Stdin: strings.NewReader(s.password + "\n"), Stdout: out, Stderr: out,
		})
		switch {
		case ctx.Err() != nil:
		case err != nil:
			cancel(err)
		default:
			cancel(fmt.Errorf("status %d: %s", code, session.LastLine(last)))
		}
	}()
	return s
}

func (s *server) port(ctx context.Context) (int, error) {
	select {
	case <-s.found:
		return s.portNumber, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// wait waits up to three seconds for code-server to end after its context did.
func (s *server) wait() {
	select {
	case <-s.ended:
	case <-time.After(3 * time.Second):
	}
}
