package hostfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func makeTree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"home/sub", "dots/deep/er", "far/x"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for at, to := range map[string]string{
		"home/abs": dir + "/dots/rc", "home/rel": "../dots/deep/rc", "home/hop": "../dots/hop/x", "dots/hop": dir + "/far", "home/dir": "../dots", "home/loop": "loop2", "home/loop2": "loop",
		"home/updown": "../dots/../far/x", "home/dangling": "nowhere/at/all", "dots/out": "../home/sub",
	} {
		if err := os.Symlink(to, filepath.Join(dir, at)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFollow(t *testing.T) {
	dir := makeTree(t)
	var tr Tracer
	for _, tc := range []struct {
		path, folder, end string
		through, link     bool
	}{
		{"home/abs", "dots", "dots/rc", true, false},
		{"home/rel", "dots", "dots/deep/rc", true, false},
		{"home/rel", "dots/deep", "dots/deep/rc", true, false},
		{"home/rel", "dots/deep/er", "dots/deep/rc", false, false},
		{"home/hop", "dots", "far/x", true, true},
		{"home/hop", "far", "far/x", true, false},
		{"home/dir", "dots", "dots", true, false},
		{"home/dir/new/file", "dots", "dots/new/file", true, false},
		{"home/updown", "dots", "far/x", false, false}, // a guest that can write the folder cannot replace the folder itself
		{"home/updown", "far", "far/x", true, false},
		{"home/dangling", "home", "home/nowhere/at/all", true, true},
		{"dots/out/y", "dots", "home/sub/y", true, true},
		{"dots", "dots/deep", "dots", false, false},
		{"home/sub", "dots", "home/sub", false, false},
		{"dots-not", "dots", "dots-not", false, false},
	} {
		trace := tr.Follow(filepath.Join(dir, tc.path))
		_, through := trace.Through(tr.Folder(filepath.Join(dir, tc.folder)))
		_, link := trace.Link(tr.Folder(filepath.Join(dir, tc.folder)))
		if trace.Path != filepath.Join(dir, tc.end) || through != tc.through || link != tc.link || trace.Err != nil {
			t.Errorf("%s and %s: ends at %s, through %v, link %v, %v", tc.path, tc.folder, trace.Path, through, link, trace.Err)
		}
	}
	if trace := tr.Follow(filepath.Join(dir, "home/loop")); trace.Err == nil || trace.Exists {
		t.Errorf("a loop of links: %+v", trace)
	}
	for folder, holds := range map[string]bool{"dots": true, "dots/deep/er": true, "far": false, "": false} {
		if trace := tr.Follow(filepath.Join(dir, "home/dir")); trace.Holds(tr.Folder(filepath.Join(dir, folder))) != holds {
			t.Errorf("holds %q: %v", folder, !holds)
		}
	}
}

// TestOpenFollowsNothing checks that a path with a link is an error, that a pipe is not opened, and
// that a handle refers to the same file after its path was replaced.
func TestOpenFollowsNothing(t *testing.T) {
	dir := makeTree(t)
	file, pipe := filepath.Join(dir, "dots/rc"), filepath.Join(dir, "dots/pipe")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"home/abs", "home/dir/rc"} {
		if _, err := Read(filepath.Join(dir, p), 100); !errors.Is(err, ErrLink) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if b, err := ReadFollowed(filepath.Join(dir, "home/abs"), 100); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := Read(file, 2); err == nil {
		t.Error("Read returned more than the limit")
	}
	done := make(chan error, 2)
	go func() { _, err := Read(pipe, 10); done <- err; _, err = ReadFollowed(pipe, 10); done <- err }()
	for range 2 {
		select {
		case err := <-done:
			if !errors.Is(err, ErrNotRegular) {
				t.Errorf("a pipe: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Read blocks on a pipe")
		}
	}
	h, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := errors.Join(os.Remove(file), os.Symlink("/etc/passwd", file)); err != nil {
		t.Fatal(err)
	}
	f, st, err := Reopen(h)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 10)
	if n, _ := f.Read(b); string(b[:n]) != "old" || st.Size() != 3 {
		t.Errorf("%q was read", b[:n])
	}
	d, err := Open(filepath.Join(dir, "dots"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := At(d, "rc")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if to, err := Readlink(l); err != nil || to != "/etc/passwd" {
		t.Errorf("%q, %v", to, err)
	}
	if _, err := At(d, "../home"); err == nil {
		t.Error("At opened a name outside of the directory")
	}
	if names, more, err := Names(d, 2); err != nil || len(names) != 2 || !more {
		t.Errorf("%q %v %v", names, more, err)
	}
}
