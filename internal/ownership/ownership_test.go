package ownership_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ownership"
	"aivm.dev/aivm/internal/root/roottest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test creates files of other users and groups; run it as root")
	}
	dir := filepath.Join(t.TempDir(), "p")
	chown := func(rel string, uid, gid int) {
		t.Helper()
		must(t, os.Lchown(filepath.Join(dir, rel), uid, gid))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "d/e"), 0o755))
	for _, f := range []string{"own", "project", "d/root", "d/e/deep", "d/\x1b[31m"} {
		must(t, os.WriteFile(filepath.Join(dir, f), nil, 0o644))
	}
	must(t, os.Symlink("/etc", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	for _, f := range []string{".", "own", "d", "d/e", "link", "pipe", "d/\x1b[31m"} {
		chown(f, 4321, 4321)
	}
	chown("project", 4321, 5555)
	chown("d/root", 0, 0)
	chown("d/e/deep", 4321, 54321)
	chown("link", 4321, 54321)
	l, err := ownership.Find(t.Context(), dir, ownership.Ids{UIDs: []int{4321, 65534}, GIDs: []int{4321, 65534, 5555}})
	must(t, err)
	want := "[{user 0 root 1 [d/root]} {group 54321  2 [link d/e/deep]} {group 0 root 1 [d/root]}]"
	if got := fmt.Sprint(l.Unmapped); got != want || l.Cut != "" {
		t.Errorf("got %s %q, want %s", got, l.Cut, want)
	}
}

// A guest that floods the folder gets a bounded answer, and a link in place of the folder or
// of a directory is not followed.
func TestFindIsBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	must(t, os.Mkdir(dir, 0o755))
	for i := range 500 {
		must(t, os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644))
		must(t, os.Chown(filepath.Join(dir, strconv.Itoa(i)), 20000+i, 20000+i))
	}
	l, err := ownership.Find(t.Context(), dir, ownership.Ids{})
	must(t, err)
	if len(l.Unmapped) != 64 || !strings.Contains(l.Cut, "more than 64 users and groups") {
		t.Errorf("%d, %q", len(l.Unmapped), l.Cut)
	}
	for _, u := range l.Unmapped {
		if len(u.Paths) > 4 || slices.Contains(u.Paths, "") {
			t.Errorf("%+v", u)
		}
	}
	link := filepath.Join(filepath.Dir(dir), "link")
	must(t, os.Symlink("/etc", link))
	if _, err := ownership.Find(t.Context(), link, ownership.Ids{}); err == nil {
		t.Error("a link was followed")
	}
}

// On overlayfs, files have another device than their directory. What is mounted in the folder is not
// the guest's.
func TestFindOnOverlay(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	for _, d := range []string{"lower/d", "upper", "work", "p", "other"} {
		must(t, os.MkdirAll(filepath.Join(work, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(work, "lower/d/f"), nil, 0o644))
	must(t, os.Lchown(filepath.Join(work, "lower/d/f"), 20000, 20000))
	must(t, os.Mkdir(filepath.Join(work, "lower/mounted"), 0o755))
	// The lower directory on a device of its own, as in a container.
	must(t, unix.Mount("tmpfs", filepath.Join(work, "other"), "tmpfs", 0, ""))
	must(t, exec.Command("cp", "-a", filepath.Join(work, "lower"), filepath.Join(work, "other")).Run())
	dir := filepath.Join(work, "p")
	must(t, unix.Mount("overlay", dir, "overlay", 0, "lowerdir="+work+"/other/lower,upperdir="+work+"/upper,workdir="+work+"/work"))
	must(t, os.Lchown(filepath.Join(work, "upper"), 20001, 0))
	must(t, unix.Mount(filepath.Join(work, "upper"), filepath.Join(dir, "mounted"), "", unix.MS_BIND, ""))
	l, err := ownership.Find(t.Context(), dir, ownership.Ids{UIDs: []int{0}, GIDs: []int{0}})
	must(t, err)
	if got := fmt.Sprint(l.Unmapped); got != "[{user 20000  1 [d/f]} {group 20000  1 [d/f]}]" || l.Cut != "" {
		t.Errorf("got %s %q", got, l.Cut)
	}
}
