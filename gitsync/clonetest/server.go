package clonetest

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/guest"
)

// Server runs commands as sshd does. It can cut the connection after a number of bytes.
type Server struct {
	Home     string
	key      ssh.Signer
	user     ssh.Signer
	addr     string
	Execs    atomic.Int32
	CutAfter atomic.Int64 // bytes until the connection is cut; 0: never
	Passed   atomic.Int64
	Env      []string
	Path     string // a directory with a hostile guest's programs, first in PATH
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

func newServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{Home: t.TempDir(), key: testSigner(t), user: testSigner(t)}
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

// cutConn closes the connection after CutAfter bytes.
type cutConn struct {
	net.Conn
	s *Server
}

func (c *cutConn) spend(n int) bool {
	c.s.Passed.Add(int64(n))
	if c.s.CutAfter.Load() == 0 {
		return true
	}
	if c.s.CutAfter.Add(int64(-n)) <= 0 {
		c.s.CutAfter.Store(-1 << 40)
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

func (s *Server) serve(c net.Conn, cfg *ssh.ServerConfig) {
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
					s.Execs.Add(1)
					go s.run(ctx, ch, string(r.Payload[4:]))
				}
			}
		}()
	}
}

func (s *Server) run(ctx context.Context, ch ssh.Channel, line string) {
	defer ch.Close()
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = s.Home
	cmd.Env = append([]string{"PATH=" + s.Path + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + s.Home}, s.Env...)
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

func (s *Server) dial(t testing.TB) guest.Conn {
	t.Helper()
	c, err := guest.Dial(t.Context(), guest.Target{Addr: s.addr, User: "agent", HostKey: s.key.PublicKey(), Auth: []ssh.AuthMethod{ssh.PublicKeys(s.user)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
