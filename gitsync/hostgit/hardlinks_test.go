package hostgit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/gitsync/gittest"
)

// linkedRepo returns a repository and a clone of it made with hard links.
func linkedRepo(t *testing.T) (r Repo, clone string) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	dir := gittest.Real(t, t.TempDir())
	gittest.Git(t, dir, os.Getenv("HOME"), "init", "-q", "own")
	gittest.Git(t, dir, os.Getenv("HOME"), "-C", "own", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "x")
	clone = filepath.Join(dir, "cloned")
	gittest.Git(t, dir, os.Getenv("HOME"), "clone", "-q", "--bare", "own", clone)
	r, err := Find(filepath.Join(dir, "own"))
	if err != nil {
		t.Fatal(err)
	}
	return r, clone
}

// refusalFor returns the refusal if a guest can write the folder, "" if there is none.
func refusalFor(t *testing.T, r Repo, folder string) string {
	t.Helper()
	if err := r.Guarded(map[string]string{folder: "vm"}); err != nil {
		t.Fatal(err)
	}
	if err := r.refuseLinkedObjects(); err != nil {
		return err.Error() + "\n" + gittest.Hints(err)
	}
	return ""
}

// otherSystem returns a directory in another file system than dir.
func otherSystem(t *testing.T, dir string) string {
	t.Helper()
	dev := func(p string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return 0
		}
		return st.Dev
	}
	for _, p := range []string{"/dev/shm", "/run/user", "/var/tmp", "/run"} {
		if dev(p) != 0 && dev(p) != dev(dir) && unix.Access(p, unix.W_OK) == nil {
			d, err := os.MkdirTemp(p, "aivm-gitsync-")
			if err != nil {
				continue
			}
			t.Cleanup(func() { _ = os.RemoveAll(d) })
			return d
		}
	}
	t.Fatal("no directory in another file system; mount a tmpfs on /dev/shm")
	return ""
}

// TestObjectsWithOtherNames checks that hard links of objects are found where they can be, and that
// an incomplete search is a refusal.
func TestObjectsWithOtherNames(t *testing.T) {
	r, clone := linkedRepo(t)
	if got := refusalFor(t, r, clone); !strings.Contains(got, "its objects are hard links of files in "+clone) {
		t.Errorf("a clone: %q", got)
	}
	empty := t.TempDir()
	if got := refusalFor(t, r, empty); got != "" {
		t.Errorf("a folder without them: %q", got)
	}
	many := func(dir string) {
		for _, n := range []string{"a", "b", "c", "d"} {
			gittest.WriteFile(t, filepath.Join(dir, n), "x")
		}
	}
	r.maxLinkedSearch = 3
	many(empty)
	if got := refusalFor(t, r, empty); !strings.Contains(got, "stopped after 3 files") || strings.Contains(got, "are hard links of files") || !strings.Contains(got, "repack -a -d") {
		t.Errorf("too many to search: %q", got)
	}
	other := otherSystem(t, r.Top)
	many(other)
	if got := refusalFor(t, r, other); got != "" {
		t.Errorf("another file system: %q", got)
	}
	r.maxLinkedSearch = 0
	// Deeper than PATH_MAX: not even root can open the deepest directory by path.
	top, part := t.TempDir(), strings.Repeat("d", 250)
	fd, err := unix.Open(top, unix.O_DIRECTORY|unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := unix.Mkdirat(fd, part, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, part, unix.O_DIRECTORY|unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		fd = next
	}
	_ = unix.Close(fd)
	if got := refusalFor(t, r, top); !strings.Contains(got, "failed: ") || !strings.Contains(got, "file name too long") {
		t.Errorf("a tree deeper than PATH_MAX: %q", got)
	}
	// Borrowed objects count too.
	gittest.Git(t, filepath.Dir(r.Top), os.Getenv("HOME"), "clone", "-q", "--shared", "own", "borrows")
	b, err := Find(filepath.Join(filepath.Dir(r.Top), "borrows"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Guarded(map[string]string{clone: "vm"}); err != nil {
		t.Fatal(err)
	}
	err = b.refuseLinkedObjects()
	if err == nil || !strings.Contains(err.Error(), "its objects are hard links of files") {
		t.Fatalf("borrowed objects: %v", err)
	}
	gittest.RunHint(t, err, "git -C")
	if err := b.refuseLinkedObjects(); err != nil {
		t.Errorf("after running the hint: %v", err)
	}
}
