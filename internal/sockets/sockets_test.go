package sockets

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// The kernel's own tables: this process has a connection to itself, and listens.
func TestConnectedTo(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil && ip == "::1" {
			continue // a machine without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		if got := ConnectedTo("/proc", addr); got != nil {
			t.Errorf("without a connection: %+v", got)
		}
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		got := ConnectedTo("/proc", addr)
		if len(got) != 1 || got[0].PID != os.Getpid() || got[0].UID != os.Getuid() || !got[0].Listens || got[0].Program == "" || got[0].Parent == "" || !slices.Equal(got[0].Args, os.Args) {
			t.Errorf("%+v", got)
		}
		c.Close()
		l.Close()
		if got := ConnectedTo("/proc", addr); got != nil {
			t.Errorf("after it was closed: %+v", got)
		}
	}
}

// serve runs an SSH server on which commands run until done is closed.
func serve(t *testing.T, done <-chan struct{}) netip.AddrPort {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	conf := &ssh.ServerConfig{NoClientAuth: true}
	conf.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			_, chans, reqs, err := ssh.NewServerConn(nc, conf)
			if err != nil {
				continue
			}
			go ssh.DiscardRequests(reqs)
			go func() {
				for ch := range chans {
					c, reqs, err := ch.Accept()
					if err != nil {
						return
					}
					go func() {
						for r := range reqs {
							_ = r.Reply(true, nil)
							if r.Type == "exec" {
								<-done
								_, _ = c.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
								_ = c.Close()
							}
						}
					}()
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// An ssh that keeps a connection open for later ones counts while one uses it.
func TestIdle(t *testing.T) {
	done := make(chan struct{})
	addr := serve(t, done)
	dir, err := os.MkdirTemp("/tmp", "aivm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	args := []string{
		"-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "ControlMaster=auto", "-o", "ControlPath=" + dir + "/c", "-o", "ControlPersist=60", "-p", strconv.Itoa(int(addr.Port())), "nobody@127.0.0.1",
	}
	ssh := func(args ...string) *exec.Cmd {
		c := exec.Command("ssh", args...)
		c.WaitDelay = time.Second // the process that stays keeps stderr
		return c
	}
	defer func() { _ = ssh(append([]string{"-O", "exit"}, args...)...).Run() }()
	first := ssh(append(args, "true")...)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	until := func(what string, ok func(hs []Holder) bool) {
		t.Helper()
		var hs []Holder
		for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
			if hs = slices.DeleteFunc(ConnectedTo("/proc", addr), func(h Holder) bool { return h.PID == os.Getpid() }); ok(hs) {
				return
			}
		}
		t.Errorf("%s: %+v", what, hs)
	}
	until("in use", func(hs []Holder) bool {
		// The first ssh still has the connection that it handed over.
		return slices.ContainsFunc(hs, func(h Holder) bool { return h.Program == "ssh" && strings.Contains(h.Args[0], "[mux]") && !h.Idle })
	})
	close(done)
	if err := first.Wait(); err != nil {
		t.Error(err)
	}
	until("no longer in use", func(hs []Holder) bool { return len(hs) == 1 && hs[0].Idle })
}

// Processes of others: only the uid of the socket is known. Damaged lines are left out.
func TestUnseen(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(root+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(root+"/net", 0o700); err != nil {
		t.Fatal(err)
	}
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	put("net/tcp", head+
		"   0: 0102000A:C350 02C8580A:0016 01 00000000:00000000 00:00000000 00000000  1001        0 4242 1 0 20 0\n"+
		"   1: 0102000A:C351 02C8580A:0016 06 00000000:00000000 00:00000000 00000000  1002        0 0 3 0\n"+ // in TIME_WAIT
		"   2: 0102000A:C352 02C8580A:0017 01 00000000:00000000 00:00000000 00000000  1003        0 4243 1 0\n"+ // another port
		"   3: zz 0 1\n   4: 0102000A:C352 02C858:0016 01 0:0 0:0 0 7 0 4244\n")
	put("net/tcp6", head+
		"   0: 0000000000000000FFFF00000102000A:C350 0000000000000000FFFF000002C8580A:0016 01 00000000:00000000 00:00000000 00000000  1000        0 4245 1 0\n")
	got := ConnectedTo(root, netip.MustParseAddrPort("10.88.200.2:22"))
	if len(got) != 2 || got[0].UID != 1000 || got[1].UID != 1001 || got[0].PID != 0 || got[0].Program != "" {
		t.Errorf("%+v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("   0: 0102000A:C350 02C8580A:0016 01 00000000:00000000 00:00000000 00000000  1001        0 4242 1 0 20 0")
	f.Add("0: : : : : : : : : :")
	f.Fuzz(func(t *testing.T, line string) {
		for _, s := range Parse([]byte(line)) {
			if !s.Local.IsValid() || !s.Remote.IsValid() || s.Inode == "" {
				t.Errorf("%q: %+v", line, s)
			}
		}
	})
}
