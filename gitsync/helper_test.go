package gitsync

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/guest"
)

// sshServer runs commands as sshd does; a proxy before it can cut the line.
type sshServer struct {
	home   string
	key    ssh.Signer
	user   ssh.Signer
	addr   string
	execs  atomic.Int32
	left   atomic.Int64 // bytes before the line is cut; 0: never
	passed atomic.Int64
	env    []string
	path   string // a directory of programs of a hostile guest's
}

func testSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newServer(t testing.TB) *sshServer {
	t.Helper()
	s := &sshServer{home: t.TempDir(), key: testSigner(t), user: testSigner(t)}
	cfg := &ssh.ServerConfig{ServerVersion: "SSH-2.0-OpenSSH_9.2p1 Test", PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(s.user.PublicKey().Marshal()) {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	cfg.AddHostKey(s.key)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(&cutConn{Conn: c, s: s}, cfg) })
		}
	})
	return s
}

// cutConn closes the connection when the server's budget is spent.
type cutConn struct {
	net.Conn
	s *sshServer
}

func (c *cutConn) spend(n int) bool {
	c.s.passed.Add(int64(n))
	if c.s.left.Load() == 0 {
		return true
	}
	if c.s.left.Add(int64(-n)) <= 0 {
		c.s.left.Store(-1 << 40)
		_ = c.Conn.Close()
		return false
	}
	return true
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil && !c.spend(n) {
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	if !c.spend(len(p)) {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

func (s *sshServer) serve(c net.Conn, cfg *ssh.ServerConfig) {
	defer c.Close()
	sc, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	defer sc.Close()
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for r := range reqs {
				if r.Type == "signal" {
					cancel()
				}
				_ = r.Reply(r.Type == "exec", nil)
				if r.Type == "exec" {
					s.execs.Add(1)
					go s.run(ctx, ch, string(r.Payload[4:]))
				}
			}
		}()
	}
}

func (s *sshServer) run(ctx context.Context, ch ssh.Channel, line string) {
	defer ch.Close()
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = s.home
	cmd.Env = append([]string{"PATH=" + s.path + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + s.home}, s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return
	}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	if err := cmd.Start(); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(in, ch)
		_ = in.Close()
	}()
	defer context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) })()
	err = cmd.Wait()
	status := uint32(0)
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		status = uint32(max(ee.ExitCode(), 0))
	}
	_, _ = ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, status))
}

func (s *sshServer) dial(t testing.TB) guest.Conn {
	t.Helper()
	c, err := guest.Dial(t.Context(), guest.Target{Addr: s.addr, User: "agent", HostKey: s.key.PublicKey(), Auth: []ssh.AuthMethod{ssh.PublicKeys(s.user)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// pair is a host repository and a place for its clone in a guest.
type pair struct {
	t      testing.TB
	s      *sshServer
	host   string
	guest  string
	remote Remote
	peer   Peer
	notes  []string
}

func newPair(t testing.TB, initArgs ...string) *pair {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	// A test must not depend on who runs it.
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	writeFile(t, filepath.Join(os.Getenv("HOME"), ".gitconfig"), "[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n[commit]\n\tgpgSign = false\n")
	p := &pair{t: t, s: newServer(t)}
	writeFile(t, filepath.Join(p.s.home, ".gitconfig"), "[user]\n\tname = A\n\temail = a@example.org\n[init]\n\tdefaultBranch = other\n")
	p.host = filepath.Join(real(t, t.TempDir()), "my proj é 'q'")
	p.guest = filepath.Join(p.s.home, "w", "my proj é 'q'")
	mkdir(t, p.host)
	p.gitH(append([]string{"init", "-q"}, initArgs...)...)
	p.connect()
	return p
}

func (p *pair) connect() {
	p.peer = Peer{Conn: p.s.dial(p.t), VM: "vm", Dir: p.guest, Note: func(s string) { p.notes = append(p.notes, s) }}
}

func real(t testing.TB, p string) string {
	t.Helper()
	p, err := filepath.EvalSymlinks(p)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mkdir(t testing.TB, p string) {
	t.Helper()
	if err := os.MkdirAll(p, 0o755); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func gitIn(t testing.TB, dir, home string, args ...string) string {
	t.Helper()
	out, err := tryGit(dir, home, args...)
	if err != nil {
		t.Fatalf("git %v in %s: %v\n%s", args, dir, err, out)
	}
	return strings.TrimRight(out, "\n")
}

func tryGit(dir, home string, args ...string) (string, error) {
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C"}
	b, err := c.CombinedOutput()
	return string(b), err
}

func (p *pair) gitH(args ...string) string { return gitIn(p.t, p.host, os.Getenv("HOME"), args...) }
func (p *pair) gitG(args ...string) string { return gitIn(p.t, p.guest, p.s.home, args...) }

func (p *pair) commitH(name, text string) string {
	writeFile(p.t, filepath.Join(p.host, name), text)
	p.gitH("add", "-A")
	p.gitH("commit", "-q", "-m", "host "+name)
	return p.gitH("rev-parse", "HEAD")
}

func (p *pair) commitG(name, text string) string {
	writeFile(p.t, filepath.Join(p.guest, name), text)
	p.gitG("add", "-A")
	p.gitG("commit", "-q", "-m", "guest "+name)
	return p.gitG("rev-parse", "HEAD")
}

func (p *pair) observe() (*Host, *Guest) {
	p.t.Helper()
	r, err := Find(p.host)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.remote, err = FindRemote(r, "vm", p.guest); err != nil {
		p.t.Fatal(err)
	}
	h, err := Observe(context.Background(), r, p.remote.Name)
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := p.peer.Conn.Probe(context.Background(), []guest.Probe{{Name: "git", Script: GuestProbe(p.guest)}})
	if err != nil {
		p.t.Fatal(err)
	}
	g, err := ParseGuest(out["git"])
	if err != nil {
		p.t.Fatal(err)
	}
	return &h, &g
}

// sync is what a verb does: clone, fetch, push, switch. It returns the problem
// of the push.
func (p *pair) sync() (problem error) {
	p.t.Helper()
	problem, err := p.trySync()
	if err != nil {
		p.t.Fatal(err)
	}
	return problem
}

func (p *pair) trySync() (problem, err error) {
	p.t.Helper()
	h, g := p.observe()
	ctx := context.Background()
	if g.State == Absent {
		if err := Init(ctx, p.peer, *h, g); err != nil {
			return nil, err
		}
	}
	if _, notes, err := Fetch(ctx, p.peer, h, *g); err != nil {
		return nil, err
	} else {
		p.notes = append(p.notes, notes...)
	}
	if _, problem, err = PushBranch(ctx, p.peer, h, g); err != nil || problem != nil {
		return problem, err
	}
	if Follows(*h, *g) {
		if done, err := Switch(ctx, p.peer, *h, g); err != nil {
			return nil, err
		} else if !done {
			p.notes = append(p.notes, Stays(p.peer, *h, *g))
		}
	}
	return nil, nil
}

func (p *pair) fsck() {
	p.t.Helper()
	for _, d := range []struct{ dir, home string }{{p.host, os.Getenv("HOME")}, {p.guest, p.s.home}} {
		if _, err := os.Stat(filepath.Join(d.dir, ".git/HEAD")); err != nil {
			continue
		}
		if out, err := tryGit(d.dir, d.home, "fsck", "--full", "--strict"); err != nil || strings.Contains(out, "missing") || strings.Contains(out, "broken") || strings.Contains(out, "error") {
			p.t.Errorf("fsck of %s: %v\n%s", d.dir, err, out)
		}
	}
}

// feedG runs the guest's git with an input.
func (p *pair) feedG(in string, args ...string) string {
	p.t.Helper()
	c := exec.Command("git", args...)
	c.Dir, c.Stdin = p.guest, strings.NewReader(in)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.s.home}
	b, err := c.CombinedOutput()
	if err != nil {
		p.t.Fatalf("git %v: %v\n%s", args, err, b)
	}
	return strings.TrimSpace(string(b))
}
