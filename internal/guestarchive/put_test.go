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

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/root/roottest"
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

// TestPutKeepsFolders checks that Put deletes nothing of folders of another machine: what is mounted in
// a version or in the rest of a killed run stays, and in a shared folder nothing is written or deleted.
func TestPutKeepsFolders(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	h := localConn{home: filepath.Join(work, "home")}
	p := Place{Home: "share/tool", Version: "1.2", Program: "bin/tool"}
	folder := filepath.Join(work, "folder")
	for _, d := range []string{folder, filepath.Join(h.home, p.Dir(), "lib"), filepath.Join(h.home, p.Home, "in.killed")} {
		roottest.Must(t, os.MkdirAll(d, 0o755))
	}
	roottest.Must(t, unix.Mount("tmpfs", folder, "tmpfs", 0, ""))
	mine := filepath.Join(folder, "mine")
	roottest.Must(t, os.WriteFile(mine, nil, 0o644))
	for _, at := range []string{p.Dir() + "/lib", p.Home + "/in.killed"} {
		roottest.Must(t, unix.Mount(folder, filepath.Join(h.home, at), "", unix.MS_BIND, ""))
	}
	if err := Put(t.Context(), h, p, archive(t, "bin/tool")); !errors.As(err, new(*UnpackError)) {
		t.Errorf("a version in which a folder is mounted: %v", err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
	// The guest sees a shared folder as virtiofs. Here findmnt says so.
	bin := filepath.Join(work, "bin")
	roottest.Must(t, os.Mkdir(bin, 0o755))
	roottest.Must(t, os.WriteFile(filepath.Join(bin, "findmnt"), []byte("#!/bin/sh\nfor at; do :; done\n[ \"$at\" = other ] && echo virtiofs || echo ext4\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	roottest.Must(t, os.MkdirAll(filepath.Join(h.home, "other"), 0o755))
	var bad *UnpackError
	if err := Put(t.Context(), h, Place{Home: "other/tool", Version: "1.2", Program: "bin/tool"}, archive(t, "bin/tool")); !errors.As(err, &bad) || bad.Status != StatusShared {
		t.Errorf("a shared folder: %v", err)
	}
	if in, err := os.ReadDir(filepath.Join(h.home, "other")); err != nil || len(in) > 0 {
		t.Errorf("written into a shared folder: %v %v", in, err)
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
