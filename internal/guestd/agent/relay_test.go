package agent

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

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
