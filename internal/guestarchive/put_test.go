package guestarchive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/guest"
)

// localConn runs the commands for a guest on this machine, with home as HOME.
type localConn struct {
	guest.Conn
	home string
}

func (h localConn) Run(ctx context.Context, c guest.Cmd) (int, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env = h.home, []string{"HOME=" + h.home, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	var ee *exec.ExitError
	err := cmd.Run()
	if errors.As(err, &ee) {
		return ee.ExitCode(), nil
	}
	return 0, err
}

func archive(t *testing.T, names ...string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: "top/" + n, Mode: 0o755, Size: int64(len(n))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestPut checks that a version is unpacked completely or not at all, and that Put removes the
// temporary directory of a killed run.
func TestPut(t *testing.T) {
	h := localConn{home: t.TempDir()}
	p := Place{Home: "share/tool", Version: "1.2", Program: "bin/tool"}
	if has, err := Has(t.Context(), h, p); has || err != nil {
		t.Fatalf("%v %v", has, err)
	}
	stale := filepath.Join(h.home, p.Home, "in.killed")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	complete := archive(t, "bin/tool", "lib/a")
	if err := Put(t.Context(), h, p, bytes.NewReader(complete.Bytes()[:complete.Len()/2])); !errors.As(err, new(*UnpackError)) {
		t.Errorf("half an archive: %v", err)
	}
	if err := Put(t.Context(), h, p, archive(t, "lib/a")); !errors.As(err, new(*UnpackError)) {
		t.Errorf("an archive without the program: %v", err)
	}
	if has, err := Has(t.Context(), h, p); has || err != nil {
		t.Errorf("unpacked in spite of errors: %v %v", has, err)
	}
	for range 2 {
		if err := Put(t.Context(), h, p, bytes.NewReader(complete.Bytes())); err != nil {
			t.Fatal(err)
		}
		if has, err := Has(t.Context(), h, p); !has || err != nil {
			t.Errorf("%v %v", has, err)
		}
	}
	in, err := os.ReadDir(filepath.Join(h.home, p.Home))
	if err != nil || len(in) != 1 || in[0].Name() != "1.2" {
		t.Errorf("%v %v", in, err)
	}
	if b, err := os.ReadFile(filepath.Join(h.home, p.Dir(), "lib/a")); err != nil || strings.TrimSpace(string(b)) != "lib/a" {
		t.Errorf("%q %v", b, err)
	}
}

// TestPutElsewhere checks that a place outside the user's home, or the home itself, is refused before
// anything runs in the guest: files there would be removed.
func TestPutElsewhere(t *testing.T) {
	h := localConn{home: t.TempDir()}
	if err := os.Mkdir(filepath.Join(h.home, "in.user"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Place{
		{Home: "", Version: "1", Program: "a"},
		{Home: ".", Version: "1", Program: "a"},
		{Home: "/tmp", Version: "1", Program: "a"},
		{Home: "share/..", Version: "1", Program: "a"},
		{Home: "../share", Version: "1", Program: "a"},
		{Home: "share", Version: "", Program: "a"},
		{Home: "share", Version: "..", Program: "a"},
		{Home: "share", Version: "1", Program: "../../a"},
	} {
		if err := Put(t.Context(), h, p, archive(t, "a")); err == nil || errors.As(err, new(*UnpackError)) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if in, err := os.ReadDir(h.home); err != nil || len(in) != 1 {
		t.Errorf("the home has %v, %v", in, err)
	}
}
