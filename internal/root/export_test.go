package root

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/record"
)

// Unexported names that the tests of this package use.

type (
	Client    = client
	ErrorLine = errorLine
	Request   = request
)

var (
	EncodeOp    = encodeOp
	RemoteError = remoteError
	SudoCaller  = sudoCaller
	WireError   = wireError
)

// NewConnectedClient returns a client whose helper runs in this process, connected by a
// socket pair like one that sudo started.
func NewConnectedClient(t *testing.T, builders map[string]record.BuildFunc) Applier {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	h := &helper{Conn: ends[0], Replies: make(chan received, 64), exited: make(chan struct{}), stderr: &relay{}}
	go func() {
		defer close(h.exited)
		defer ends[1].Close()
		s := &server{conn: ends[1], exec: executor{caller: -1, builders: builders}}
		if err := s.loop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	go h.read()
	if r := <-h.Replies; r.Hello != wireVersion {
		t.Fatalf("%+v", r)
	}
	c := &client{opts: Options{Euid: 0}, h: h}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
