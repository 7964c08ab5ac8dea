package e2e

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/guestarchive"
	"aivm.dev/aivm/provision/codeserver"
)

// clientConn runs commands in the guest with the OpenSSH client.
type clientConn struct {
	guest.Conn
	w  *world
	vm string
}

func (c clientConn) Run(_ context.Context, cmd guest.Cmd) (int, error) {
	in, err := io.ReadAll(cmd.Stdin)
	if err != nil {
		return 0, err
	}
	r := c.w.ssh(in, c.vm, shellescape.QuoteCommand(cmd.Argv))
	_, err = io.WriteString(cmd.Stderr, r.stderr)
	return r.code, err
}

// serverInFolder attaches a folder where code-server is unpacked: nothing is written into it.
func (s *shares) serverInFolder(t *testing.T) {
	f := s.folder("local")
	s.w.must(f, "attach", ".", "--yes", "--guest-dst", "/home/agent/.local/share/aivm")
	place := guestarchive.Place{Home: codeserver.Home, Version: "1", Program: "bin/code-server"}
	err := guestarchive.Put(t.Context(), clientConn{w: s.w, vm: s.vm}, place, strings.NewReader(""))
	if bad := new(guestarchive.UnpackError); !errors.As(err, &bad) || bad.Status != guestarchive.StatusShared {
		t.Errorf("unpacked in a shared folder: %v", err)
	}
	if in, err := os.ReadDir(f); err != nil || len(in) != 1 {
		t.Errorf("the folder has %v, %v", in, err)
	}
	s.w.must("", "detach", f)
}
