package userfs

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/jail"
)

// begin starts a server of an empty folder in this process and returns the guest's end.
func begin(t *testing.T, kind jail.Kind) (*Server, *os.File) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	guest := os.NewFile(uintptr(ends[1]), "guest")
	t.Cleanup(func() { guest.Close() })
	s, err := Start(context.Background(), Config{Exports: []Export{{Dir: t.TempDir()}}, Jails: []jail.Kind{kind}, Relay: os.NewFile(uintptr(ends[0]), "relay")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if s.Jail() != kind {
		t.Errorf("the server is in the jail %s", s.Jail())
	}
	return s, guest
}

func ended(t *testing.T, s *Server) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the server has not ended")
	}
}

// TestEnd checks that the server ends with the guest's end, with Close, and with a guest that does
// not keep to the protocol.
func TestEnd(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		s, guest := begin(t, kind)
		guest.Close()
		ended(t, s)
		if s.Err() != nil {
			t.Errorf("after the guest closed: %v", s.Err())
		}
		s, _ = begin(t, kind)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, length := range []uint32{0, 39, 1<<20 + 4097, 1 << 31, 1<<32 - 1} {
			s, guest = begin(t, kind)
			if _, err := guest.Write(binary.LittleEndian.AppendUint32(nil, length)); err != nil {
				t.Fatal(err)
			}
			ended(t, s)
			if s.Err() == nil || !strings.Contains(s.Err().Error(), "impossible length") {
				t.Errorf("after a message of %d bytes: %v", length, s.Err())
			}
		}
		s, guest = begin(t, kind)
		unread := make([]byte, 40)
		binary.LittleEndian.PutUint32(unread, 40)
		binary.LittleEndian.PutUint32(unread[4:], 17) // STATFS
		binary.LittleEndian.PutUint64(unread[16:], 1)
		_ = guest.SetWriteDeadline(time.Now().Add(2 * time.Second))
		go func() {
			for range 100_000 { // replies that the guest does not read
				if _, err := guest.Write(unread); err != nil {
					return
				}
			}
		}()
		time.Sleep(500 * time.Millisecond)
		if rss := residentKiB(t, s.PID()); rss > 64<<10 {
			t.Errorf("the server has %d KiB after replies that are not read", rss)
		}
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Logf("Close: %v", err)
		}
	})
}

// residentKiB returns the proportional set size of a process.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no Pss")
	return 0
}

// TestKill kills the process that started a server: the server ends too.
func TestKill(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		tr := newTrial(t, kind)
		if err := tr.host.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = tr.host.Wait()
		deadline := time.Now().Add(20 * time.Second)
		for syscall.Kill(tr.PID, 0) == nil {
			if b, err := os.ReadFile("/proc/" + strconv.Itoa(tr.PID) + "/stat"); err == nil && strings.Contains(string(b), ") Z ") {
				break // nobody has waited for it yet
			}
			if time.Now().After(deadline) {
				t.Fatal("the server runs without its parent")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n, err := tr.guest.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("the guest's end: %d, %v", n, err)
		}
	})
}

// TestIdle checks the memory of a server that has nothing to do.
func TestIdle(t *testing.T) {
	s, _ := begin(t, jail.Namespaces)
	time.Sleep(time.Second)
	if n := residentKiB(t, s.PID()); n > 40<<10 {
		t.Errorf("an idle server has %d KiB", n)
	} else {
		t.Logf("an idle server has %d KiB", n)
	}
}

// TestRefusals checks what Start refuses.
func TestRefusals(t *testing.T) {
	for what, c := range map[string]Config{
		"no transport": {Exports: []Export{{Dir: t.TempDir()}}},
		"no export":    {},
		"vhost-user":   {Exports: []Export{{Dir: t.TempDir()}}},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		switch what {
		case "no export":
			c.Relay = r
		case "vhost-user":
			c.VhostUser = r
		}
		if s, err := Start(context.Background(), c); err == nil {
			s.Close()
			t.Errorf("%s is accepted", what)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, err = Start(context.Background(), Config{Exports: []Export{{Dir: t.TempDir()}}, Relay: r, Jails: []jail.Kind{"none"}})
	if err == nil || !strings.Contains(err.Error(), "cannot be confined") {
		t.Errorf("without a jail: %v", err)
	}
}
