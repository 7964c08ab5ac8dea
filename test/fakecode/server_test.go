package main

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// fakeGuest is an SSH server on this machine that runs commands with a real bash, in a temporary home
// directory, and forwards TCP connections.
type fakeGuest struct {
	t        *testing.T
	home     string // in the "guest"
	hostHome string // HOME of the client, with .ssh/config
	config   *ssh.ServerConfig
	listener net.Listener
	noTCP    bool   // AllowTcpForwarding no
	bin      string // the only directory on the guest's PATH, if set
	start    sync.Once
	running  sync.WaitGroup
}

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// open runs fakecode to open a folder of the guest. The guest starts serving with the first call, so
// that a test can change it before.
func (g *fakeGuest) open(env []string, folder string) result {
	g.t.Helper()
	g.start.Do(func() { g.running.Go(g.serve) })
	return fakecode(g.t, g.hostHome, env, "--remote", "ssh-remote+box", folder)
}

// newGuest returns a guest and writes a client configuration like aivm's, with the alias "box".
func newGuest(t *testing.T) *fakeGuest {
	t.Helper()
	g := &fakeGuest{t: t, home: t.TempDir(), hostHome: t.TempDir()}
	hostKey, _ := newKey(t)
	userKey, userPEM := newKey(t)
	g.config = &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(userKey.PublicKey().Marshal()) {
				return nil, fmt.Errorf("unknown key")
			}
			return &ssh.Permissions{}, nil
		},
	}
	g.config.AddHostKey(hostKey)
	var err error
	if g.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.listener.Close()
		g.running.Wait()
	})

	port := g.listener.Addr().(*net.TCPAddr).Port
	g.write("id", string(userPEM))
	g.write("known_hosts", "box "+string(ssh.MarshalAuthorizedKey(hostKey.PublicKey())))
	g.write("config", strings.Join([]string{
		"Host box", "HostName 127.0.0.1", "Port " + strconv.Itoa(port), "User agent",
		"IdentityFile " + g.path("id"), "IdentitiesOnly yes", "IdentityAgent none", "HostKeyAlias box",
		"UserKnownHostsFile " + g.path("known_hosts"), "GlobalKnownHostsFile /dev/null", "UpdateHostKeys no", "",
	}, "\n"))
	return g
}

func (g *fakeGuest) path(name string) string { return filepath.Join(g.hostHome, ".ssh", name) }

func (g *fakeGuest) write(name, content string) {
	g.t.Helper()
	if err := os.MkdirAll(filepath.Dir(g.path(name)), 0o700); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(g.path(name), []byte(content), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func (g *fakeGuest) serve() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.running.Go(func() {
			defer conn.Close()
			_, channels, requests, err := ssh.NewServerConn(conn, g.config)
			if err != nil {
				return
			}
			go ssh.DiscardRequests(requests)
			for c := range channels {
				g.running.Go(func() { g.channel(c) })
			}
		})
	}
}

func (g *fakeGuest) channel(c ssh.NewChannel) {
	switch {
	case c.ChannelType() == "session":
		g.session(c)
	case c.ChannelType() == "direct-tcpip" && !g.noTCP:
		g.forward(c)
	default:
		c.Reject(ssh.Prohibited, "administratively prohibited")
	}
}

func (g *fakeGuest) session(c ssh.NewChannel) {
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	for r := range requests {
		var request struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &request) != nil {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		cmd := exec.Command("bash", "-c", request.Command)
		cmd.Env = []string{"HOME=" + g.home, "PATH=" + cmp.Or(g.bin, os.Getenv("PATH"))}
		cmd.Dir = g.home
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		stdin, err := cmd.StdinPipe()
		if err != nil || cmd.Start() != nil {
			return
		}
		go func() {
			io.Copy(stdin, channel)
			stdin.Close()
		}()
		status := struct{ Status uint32 }{}
		if cmd.Wait() != nil {
			status.Status = uint32(cmd.ProcessState.ExitCode())
		}
		channel.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
}

func (g *fakeGuest) forward(c ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(c.ExtraData(), &to); err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)
	go io.Copy(conn, channel)
	io.Copy(channel, conn)
}
