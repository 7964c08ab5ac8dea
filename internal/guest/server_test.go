package guest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// server is an SSH server that runs commands with sh, as sshd does. Commands that begin with "exec
// misbehave-" are faults that it simulates itself.
type server struct {
	t       *testing.T
	ln      net.Listener
	cfg     *ssh.ServerConfig
	hostKey ssh.Signer
	user    ssh.Signer

	bannerDelay atomic.Int64  // a time.Duration
	gate        chan struct{} // if set: no banner before it is closed
	silent      atomic.Bool   // accept connections and send nothing
	refuse      atomic.Int32  // how many logins are refused first
	logins      atomic.Int32
	connections atomic.Int32
	execs       atomic.Int32
	sessions    atomic.Int32
	maxSessions int32 // 0: no limit

	shell     string // the login shell, "sh" if empty
	home      string // its HOME, if set
	acceptEnv bool   // AcceptEnv SHLVL

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newServer(t *testing.T) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, ln: ln, hostKey: signer(t), user: signer(t), conns: map[net.Conn]bool{}}
	s.cfg = &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-OpenSSH_9.2p1 Test",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(s.user.PublicKey().Marshal()) || s.refuse.Load() > 0 {
				return nil, errors.New("not yet")
			}
			return &ssh.Permissions{}, nil
		},
	}
	s.cfg.AddHostKey(s.hostKey)
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		s.cut()
		s.wg.Wait()
	})
	return s
}

func (s *server) target() Target {
	return Target{
		Addr: s.ln.Addr().String(), User: "agent", HostKey: s.hostKey.PublicKey(),
		Auth: []ssh.AuthMethod{ssh.PublicKeys(s.user)},
	}
}

func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

func (s *server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.connections.Add(1)
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(c) })
	}
}

func (s *server) serve(c net.Conn) {
	defer c.Close()
	time.Sleep(time.Duration(s.bannerDelay.Load()))
	if s.gate != nil {
		<-s.gate
	}
	if s.silent.Load() {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	sc, chans, reqs, err := ssh.NewServerConn(c, s.cfg)
	if err != nil {
		s.refuse.Add(-1)
		return
	}
	s.logins.Add(1)
	s.wg.Go(func() { ssh.DiscardRequests(reqs) })
	for nc := range chans {
		switch nc.ChannelType() {
		case "session":
			if n := s.maxSessions; n > 0 && s.sessions.Load() >= n {
				_ = nc.Reject(ssh.ConnectionFailed, "open failed")
				continue
			}
			s.sessions.Add(1)
			ch, reqs, err := nc.Accept()
			if err == nil {
				s.wg.Go(func() {
					s.session(sc, ch, reqs)
					time.Sleep(100 * time.Millisecond) // sshd too counts a session for a moment after its end
					s.sessions.Add(-1)
				})
			}
		case "direct-tcpip":
			var msg struct {
				Addr  string
				Port  uint32
				From  string
				FPort uint32
			}
			if ssh.Unmarshal(nc.ExtraData(), &msg) != nil || msg.Port == 1 {
				_ = nc.Reject(ssh.ConnectionFailed, "refused")
				continue
			}
			ch, reqs, err := nc.Accept()
			if err == nil {
				s.wg.Go(func() { ssh.DiscardRequests(reqs) })
				s.wg.Go(func() {
					_, _ = io.Copy(ch, ch) // an echo server
					_ = ch.Close()
				})
			}
		default:
			_ = nc.Reject(ssh.UnknownChannelType, "no")
		}
	}
}

func (s *server) session(sc *ssh.ServerConn, ch ssh.Channel, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var env []string
	for req := range reqs {
		switch req.Type {
		case "env":
			var v struct{ Name, Value string }
			ok := ssh.Unmarshal(req.Payload, &v) == nil && s.acceptEnv && v.Name == "SHLVL"
			if ok {
				env = append(env, v.Name+"="+v.Value)
			}
			_ = req.Reply(ok, nil)
		case "exec":
			s.execs.Add(1)
			_ = req.Reply(true, nil)
			line := string(req.Payload[4:])
			s.wg.Go(func() { s.run(ctx, sc, ch, env, line) })
		case "signal":
			cancel()
		default:
			_ = req.Reply(false, nil)
		}
	}
}

func (s *server) run(ctx context.Context, sc *ssh.ServerConn, ch ssh.Channel, env []string, line string) {
	defer ch.Close()
	status := func(n uint32) {
		_, _ = ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, n))
	}
	switch strings.TrimPrefix(line, "exec misbehave-") {
	case "cut":
		_, _ = ch.Write([]byte("half"))
		_ = sc.Close()
		return
	case "nostatus":
		_, _ = ch.Write([]byte("half"))
		return
	case "hugestatus":
		status(1 << 31)
		return
	case "signal":
		_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name string
			Core bool
			Msg  string
			Lang string
		}{Name: "KILL"}))
		return
	case "markers": // reads the script, answers with wrong markers
		script := make([]byte, 200)
		_, _ = io.ReadFull(ch, script)
		_, after, _ := strings.Cut(string(script), "printf '%s\\n' '")
		marker := after[:32]
		_, _ = ch.Write([]byte(marker + " -1 0\n" + marker + " 7 0\n"))
		status(0)
		return
	}
	cmd := exec.Command(cmp.Or(s.shell, "sh"), "-c", line)
	// Not the PATH of the test process: with a directory on it that cannot be read, the error would
	// be "permission denied" instead of "not found".
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "SSH_CLIENT=192.0.2.1 1 22"}, env...)
	if s.home != "" {
		cmd.Env = append(cmd.Env, "HOME="+s.home)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Error(err)
		return
	}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	if err := cmd.Start(); err != nil {
		status(127)
		return
	}
	inputEnded := make(chan struct{})
	go func() {
		_, _ = io.Copy(in, ch)
		_ = in.Close()
		close(inputEnded)
	}()
	unhook := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) })
	defer unhook()
	err = cmd.Wait()
	var exited *exec.ExitError
	switch {
	case errors.As(err, &exited) && exited.ExitCode() >= 0:
		status(uint32(exited.ExitCode()))
	case err == nil:
		status(0)
	}
}

// noLeaks fails the test if goroutines of this package or of the client in x/crypto/ssh are still
// running after it. Call it first, so that its cleanup runs last.
func noLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var stacks string
		for range 100 {
			buf := make([]byte, 1<<20)
			stacks = string(buf[:runtime.Stack(buf, true)])
			var leaked []string
			for _, g := range strings.Split(stacks, "\n\n") {
				if (strings.Contains(g, "internal/guest.") || strings.Contains(g, "crypto/ssh.")) && !strings.Contains(g, "testing.(*T).Run") &&
					!strings.Contains(g, "noLeaks") && !strings.Contains(g, "testing.tRunner") {
					leaked = append(leaked, g)
				}
			}
			if len(leaked) == 0 {
				return
			}
			stacks = strings.Join(leaked, "\n\n")
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("leaked goroutines:\n%s", stacks)
	})
}
