package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the agent that tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "relay" {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}

// testReaper is the only reaper: each takes all children of the process.
var testReaper = sync.OnceValue(newReaper)

// TestSpareRelay checks that one relay waits, that a killed one is replaced, and that
// it reports what fails.
func TestSpareRelay(t *testing.T) {
	m := &mounts{reaper: testReaper()}
	if err := m.keepRelay(); err != nil {
		t.Fatal(err)
	}
	first := m.spare
	if err := m.keepRelay(); err != nil || m.spare != first {
		t.Errorf("another relay was started (%v)", err)
	}
	if err := unix.Kill(first.pid, unix.SIGTERM); err != nil { // which it ignores
		t.Fatal(err)
	}
	if err := unix.Kill(first.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-first.gone
	if err := m.keepRelay(); err != nil || m.spare == first {
		t.Fatalf("the killed relay was not replaced (%v)", err)
	}
	if err := m.spare.serve("/nonexistent", t.TempDir()); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("a port that is not there: %v", err)
	}
	<-m.spare.gone
	if err := m.keepRelay(); err != nil {
		t.Fatal(err)
	}
	m.spare.conn.Close() // process 1 no longer needs it
	<-m.spare.gone
}

// TestKilledRelay mounts a server that never answers, behind a terminal in place of the
// port, and kills the relay: who waits for an answer gets an error.
func TestKilledRelay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	host, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(host)
	number, err := unix.IoctlGetInt(host, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(host, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &mounts{reaper: testReaper()}
	for _, end := range []string{"killed", "unmounted"} {
		if err := m.keepRelay(); err != nil {
			t.Fatal(err)
		}
		l, dir := m.spare, t.TempDir()
		m.spare = nil
		if err := l.serve(fmt.Sprintf("/dev/pts/%d", number), dir); err != nil {
			t.Skip(err) // no FUSE here
		}
		if end == "unmounted" {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
			l.end()
		} else {
			failed := make(chan error, 1)
			go func() {
				var st unix.Stat_t
				failed <- unix.Stat(dir+"/file", &st)
			}()
			select {
			case err := <-failed:
				t.Errorf("a server that does not answer: %v", err)
			case <-time.After(200 * time.Millisecond):
			}
			if err := unix.Kill(l.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-failed:
				if err == nil {
					t.Error("a file of a killed relay")
				}
			case <-time.After(10 * time.Second):
				t.Error("a request waits for a killed relay")
			}
		}
		select {
		case <-l.done:
		case <-time.After(10 * time.Second):
			t.Fatal(end + ", but the relay is still there")
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v, %v", end, entries, err)
		}
	}
}

// sockets returns a connected pair; with SOCK_SEQPACKET it keeps messages apart, as
// /dev/fuse does.
func sockets(t *testing.T, kind int) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func fuseMessage(size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, uint32(size))
	for i := 4; i < size; i++ {
		b[i] = byte(i)
	}
	return b
}

// TestRelayAnswers checks that answers reach the kernel one by one, however the stream
// cuts them.
func TestRelayAnswers(t *testing.T) {
	for _, cut := range []int{1, 7, 4096, 1 << 20} {
		host, port := sockets(t, unix.SOCK_STREAM)
		kernel, fuse := sockets(t, unix.SOCK_SEQPACKET)
		ended := make(chan error, 1)
		go func() { ended <- fromHost(port, fuse) }()
		sizes := []int{16, 24, 100, 4096, 5000, 16}
		var stream []byte
		for _, size := range sizes {
			stream = append(stream, fuseMessage(size)...)
		}
		go func() {
			for len(stream) > 0 {
				n := min(cut, len(stream))
				if err := writeAll(host, stream[:n]); err != nil {
					break
				}
				stream = stream[n:]
			}
			unix.Close(host)
		}()
		for _, size := range sizes {
			b := make([]byte, 8192)
			if n, err := unix.Read(kernel, b); err != nil || n != size || string(b[:n]) != string(fuseMessage(size)) {
				t.Errorf("cut at %d: got %d bytes instead of %d (%v)", cut, n, size, err)
			}
		}
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("the end: %v", err)
		}
		unix.Close(kernel)
	}
}

func TestRelayRefusesLengths(t *testing.T) {
	for _, length := range []uint32{0, 15, fuseLargest + 1, 1 << 31, 0xffffffff} {
		host, port := sockets(t, unix.SOCK_STREAM)
		_, fuse := sockets(t, unix.SOCK_SEQPACKET)
		if err := writeAll(host, append(binary.LittleEndian.AppendUint32(nil, length), make([]byte, 12)...)); err != nil {
			t.Fatal(err)
		}
		if err := fromHost(port, fuse); err == nil || strings.Contains(err.Error(), "ended") {
			t.Errorf("%d: %v", length, err)
		}
		unix.Close(host)
	}
}

func TestRelayRequests(t *testing.T) {
	host, port := sockets(t, unix.SOCK_STREAM)
	kernel, fuse := sockets(t, unix.SOCK_SEQPACKET)
	ended := make(chan error, 1)
	go func() { ended <- toHost(fuse, port) }()
	want := append(fuseMessage(40), fuseMessage(5000)...)
	for _, m := range [][]byte{want[:40], want[40:]} {
		if _, err := unix.Write(kernel, m); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 0, len(want))
	for len(got) < len(want) {
		b := make([]byte, 8192)
		n, err := unix.Read(host, b)
		if err != nil || n == 0 {
			t.Fatal(err)
		}
		got = append(got, b[:n]...)
	}
	if string(got) != string(want) {
		t.Error("the requests arrive changed")
	}
	unix.Close(host)
	if _, err := unix.Write(kernel, fuseMessage(40)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, unix.EPIPE) {
		t.Errorf("the end: %v", err)
	}
}
