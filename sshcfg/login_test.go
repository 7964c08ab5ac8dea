package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// startAgent starts a real ssh-agent and returns a getenv with its socket. The socket is in
// a directory with a short name, since a socket's path is limited to 108 bytes.
func startAgent(t *testing.T) func(string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ag")
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "s")
	c := exec.Command("ssh-agent", "-D", "-a", sock)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		os.RemoveAll(dir)
	})
	for range 500 {
		if conn, err := net.Dial("unix", sock); err == nil {
			conn.Close()
			break
		}
	}
	return func(k string) string {
		if k == "SSH_AUTH_SOCK" {
			return sock
		}
		return ""
	}
}

// sshAdd adds an encrypted key to the agent; an askpass program supplies the passphrase.
func sshAdd(t *testing.T, sock, key, passphrase string) {
	t.Helper()
	ask := filepath.Join(t.TempDir(), "ask")
	write(t, ask, "#!/bin/sh\necho "+passphrase+"\n", 0o700)
	c := exec.Command("ssh-add", "-q", key)
	c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock, "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v\n%s", err, out)
	}
}

// server is an SSH server on loopback that accepts the given keys, answers every command
// with the user's name, and records every key offered.
type server struct {
	port  int
	mu    sync.Mutex
	tries []string
}

func startServer(t *testing.T, host HostKey, allowed ...ssh.PublicKey) *server {
	t.Helper()
	s := &server{}
	cfg := &ssh.ServerConfig{MaxAuthTries: 3, PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tries = append(s.tries, ssh.FingerprintSHA256(k))
		for _, a := range allowed {
			if bytes.Equal(a.Marshal(), k.Marshal()) {
				return nil, nil
			}
		}
		return nil, errors.New("no")
	}}
	signer, err := ssh.ParsePrivateKey(host.PrivatePEM)
	if err != nil {
		t.Fatal(err)
	}
	cfg.AddHostKey(signer)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s.port = ln.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c, cfg)
		}
	}()
	return s
}

func serve(c net.Conn, cfg *ssh.ServerConfig) {
	conn, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		c.Close()
		return
	}
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		ch, rs, err := nc.Accept()
		if err != nil {
			return
		}
		for r := range rs {
			r.Reply(r.Type == "exec", nil)
			if r.Type == "exec" {
				ch.Write([]byte("hello " + conn.User()))
				ch.SendRequest("exit-status", false, []byte{0, 0, 0, 7})
				ch.Close()
			}
		}
	}
}

func (s *server) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tries)
}

// openssh logs in with the real ssh client over the alias.
func openssh(l Layout, alias string, getenv func(string) string) (string, error) {
	c := exec.Command("ssh", append(l.SSHArgs(), "--", alias, "true")...)
	c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+getenv("SSH_AUTH_SOCK"), "SSH_ASKPASS=/bin/false", "SSH_ASKPASS_REQUIRE=force")
	out, err := c.CombinedOutput()
	return string(out), err
}

// TestLogin tests keys, pinned host key, stanza and Include together, with the real ssh and
// with aivm's client, against a server on loopback.
func TestLogin(t *testing.T) {
	l := newLayout(t)
	write(t, l.sshConfig(), "Host *\n  User nobody\n  Port 1\n  ProxyCommand /bin/false\n  StrictHostKeyChecking no\n", 0o600)
	if err := CreateOwnKey(l); err != nil {
		t.Fatal(err)
	}
	enc := filepath.Join(l.Home, ".ssh", "enc")
	keygen(t, enc, "secret", "-t", "ed25519")
	withAgent := startAgent(t)
	sshAdd(t, withAgent("SSH_AUTH_SOCK"), enc, "secret")
	stray := filepath.Join(l.Home, ".ssh", "stray")
	keygen(t, stray, "", "-t", "ed25519")
	sshAdd(t, withAgent("SSH_AUTH_SOCK"), stray, "")

	ctx := context.Background()
	ids, err := l.Identities(ctx, enc, withAgent)
	if err != nil || len(ids) != 2 || !ids[0].Encrypted || !ids[0].InAgent || !ids[1].AivmKey {
		t.Fatalf("%+v, %v", ids, err)
	}
	host, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		allowed []ssh.PublicKey
		getenv  func(string) string
		fails   bool
	}{
		"both keys, agent":             {[]ssh.PublicKey{ids[0].Public, ids[1].Public}, withAgent, false},
		"both keys, no agent":          {[]ssh.PublicKey{ids[0].Public, ids[1].Public}, noenv, false},
		"encrypted key only, agent":    {[]ssh.PublicKey{ids[0].Public}, withAgent, false},
		"aivm's key only, agent":       {[]ssh.PublicKey{ids[1].Public}, withAgent, false},
		"encrypted key only, no agent": {[]ssh.PublicKey{ids[0].Public}, noenv, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, host, c.allowed...)
			want := stanzaFor(l, "a")
			want.HostName, want.Port, want.Identities = "127.0.0.1", s.port, StanzaIdentities(ids)
			if err := l.WriteKnownHosts("a", want.HostKeyAlias, host.Public); err != nil {
				t.Fatal(err)
			}
			apply(t, l, want)
			out, err := openssh(l, "a", c.getenv)
			var exit *exec.ExitError
			if ok := errors.As(err, &exit) && exit.ExitCode() == 7 && strings.Contains(out, "hello agent"); ok == c.fails {
				t.Errorf("ssh: %v\n%s", err, out)
			}
			now, err := l.Identities(ctx, enc, c.getenv)
			if err != nil {
				t.Fatal(err)
			}
			methods, closer, err := AuthMethods(now, c.getenv)
			if err != nil || len(methods) != 1 {
				t.Fatalf("%v, %v", methods, err)
			}
			defer closer.Close()
			client, err := ssh.Dial("tcp", "127.0.0.1:"+strconv.Itoa(s.port), &ssh.ClientConfig{
				User: "agent", Auth: methods, HostKeyCallback: ssh.FixedHostKey(host.Public),
			})
			if (err != nil) != c.fails {
				t.Errorf("aivm's client: %v", err)
			}
			if err == nil {
				client.Close()
			}
			// No other key is offered, however many the agent has.
			allowedKeys := []string{ssh.FingerprintSHA256(ids[0].Public), ssh.FingerprintSHA256(ids[1].Public)}
			for _, k := range s.seen() {
				if !slices.Contains(allowedKeys, k) {
					t.Errorf("offered %s", k)
				}
			}
		})
	}
	t.Run("another host key", func(t *testing.T) {
		other, err := NewHostKey()
		if err != nil {
			t.Fatal(err)
		}
		s := startServer(t, other, ids[1].Public)
		want := stanzaFor(l, "a")
		want.HostName, want.Port = "127.0.0.1", s.port
		apply(t, l, want)
		out, err := openssh(l, "a", noenv)
		if err == nil || !strings.Contains(out, "verification failed") || len(s.seen()) != 0 {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// reachable returns a Layout whose alias "a" leads to a server on loopback.
func reachable(t *testing.T) (Layout, Stanza) {
	t.Helper()
	l := newLayout(t)
	if err := CreateOwnKey(l); err != nil {
		t.Fatal(err)
	}
	host, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	own, err := readIdentity(l.OwnKeyPath())
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, host, own.Public)
	want := stanzaFor(l, "a")
	want.HostName, want.Port = "127.0.0.1", s.port
	if err := l.WriteKnownHosts("a", want.HostKeyAlias, host.Public); err != nil {
		t.Fatal(err)
	}
	return l, want
}

// The alias works with the real ssh whatever the user's "Host *" sets; in its former form, it
// did not with most of these lines.
func TestLoginDespiteUserOptions(t *testing.T) {
	l, want := reachable(t)
	for _, line := range hostile {
		write(t, l.sshConfig(), "Host *\n  "+line+"\nMatch final all\n  "+line+"\n", 0o600)
		apply(t, l, want)
		out, err := openssh(l, "a", noenv)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(out, "hello agent") {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	if err := Login(context.Background(), l, "a", nil); err != nil {
		t.Error(err)
	}
}

// What the stanza cannot set is found by Verify, and Login fails with what ssh printed.
func TestLoginFails(t *testing.T) {
	l, want := reachable(t)
	for line, message := range map[string]string{
		"RemoteCommand tmux":            "remote command",
		"IdentityFile /nonexistent/key": "",
		"RequestTTY force":              "",
	} {
		write(t, l.sshConfig(), "Host *\n  "+line+"\n", 0o600)
		apply(t, l, want)
		ms, err := Verify(context.Background(), l, "a", want, nil)
		if err != nil || len(ms) != 1 || ms[0].Elsewhere() || ms[0].Line != 5 {
			t.Errorf("%s: %v, %v", line, ms, err)
		}
		err = Login(context.Background(), l, "a", nil)
		if (err != nil) != (message != "") || err != nil && !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v", line, err)
		}
		if err != nil && !strings.Contains(hints(err), "ssh -v -F "+l.sshConfig()+" a true") {
			t.Errorf("%s: %s", line, hints(err))
		}
	}
}

// A key that RequiredRSASize excludes is named; another key next to it is enough.
func TestSmallRSAKey(t *testing.T) {
	l := newLayout(t)
	write(t, l.sshConfig(), "Host *\n  RequiredRSASize 4096\n", 0o600)
	small := filepath.Join(l.Home, ".ssh", "small")
	keygen(t, small, "", "-t", "rsa", "-b", "2048")
	want := stanzaFor(l, "a")
	want.Identities = []string{small}
	apply(t, l, want)
	ms, err := Verify(context.Background(), l, "a", want, nil)
	if err != nil || len(ms) != 1 || ms[0].Line != 5 || ms[0].Elsewhere() || !strings.Contains(ms[0].String(), "only RSA keys of 4096 bits") {
		t.Errorf("%v, %v", ms, err)
	}
	if err := CreateOwnKey(l); err != nil {
		t.Fatal(err)
	}
	want.Identities = []string{small, l.OwnKeyPath()}
	apply(t, l, want)
	if ms, err = Verify(context.Background(), l, "a", want, nil); err != nil || len(ms) > 0 {
		t.Errorf("%v, %v", ms, err)
	}
}

// A guest decides what a login prints and when it ends: neither fills memory, nor the
// terminal, nor holds the run.
func TestLoginHostile(t *testing.T) {
	l := newLayout(t)
	apply(t, l, stanzaFor(l, "a"))
	exit := func(script string) (out, errw []byte, err error) {
		return Exec(context.Background(), []string{"sh", "-c", script})
	}
	_, long, err := exit("yes | head -c 9000000 >&2; exit 255")
	if len(long) > maxOutput || err == nil {
		t.Errorf("%d bytes, %v", len(long), err)
	}
	run := func(context.Context, []string) ([]byte, []byte, error) {
		return exit("printf '\\033]0;title\\007 no\\n' >&2; exit 255")
	}
	if err := Login(context.Background(), l, "a", run); err == nil || strings.ContainsAny(err.Error(), "\033\007") {
		t.Errorf("%q", err)
	}
	run = func(context.Context, []string) ([]byte, []byte, error) { return exit("exit 3") }
	if err := Login(context.Background(), l, "a", run); err != nil {
		t.Error(err) // the status of the command in the VM
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err = Exec(ctx, []string{"sh", "-c", "sleep 60 & sleep 60"})
	if took := time.Since(start); err == nil || took > 20*time.Second {
		t.Errorf("%v after %s", err, took)
	}
	run = func(ctx context.Context, _ []string) ([]byte, []byte, error) {
		d, ok := ctx.Deadline()
		if !ok || time.Until(d) > LoginLimit {
			t.Error("a login without a limit")
		}
		return exit("exit 0")
	}
	if err := Login(context.Background(), l, "a", run); err != nil {
		t.Error(err)
	}
	// A configuration that a guest can write is not passed to ssh.
	l.Guests = []GuestFolder{{Path: filepath.Dir(l.sshConfig()), VM: "v"}}
	run = func(context.Context, []string) ([]byte, []byte, error) {
		t.Error("ssh was started")
		return nil, nil, nil
	}
	if err := Login(context.Background(), l, "a", run); !errors.Is(err, ErrGuest) {
		t.Error(err)
	}
}

func TestAuthMethodsWithoutAKey(t *testing.T) {
	_, closer, err := AuthMethods([]Identity{{Path: "/k", Encrypted: true}}, noenv)
	if err == nil || !strings.Contains(hints(err), "ssh-add /k") || closer == nil || closer.Close() != nil {
		t.Error(err)
	}
	if _, _, err := AuthMethods(nil, noenv); err == nil {
		t.Error("no identity is no error")
	}
	if _, _, err := AuthMethods([]Identity{{Path: filepath.Join(t.TempDir(), "k")}}, noenv); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// A stale socket counts as an agent without keys.
	sock := filepath.Join(t.TempDir(), "s")
	write(t, sock, "", 0o600)
	if err := markInAgent(context.Background(), []Identity{{Encrypted: true}}, func(string) string { return sock }); err != nil {
		t.Error(err)
	}
}
