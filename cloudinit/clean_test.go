package cloudinit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/roottest"
)

// TestCleanRemoves runs the function with which the clean script deletes directories: it deletes nothing
// that is mounted in them or at their path, nothing behind a link, and nothing that is not on a disk.
func TestCleanRemoves(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	var functions string
	for line := range strings.Lines(CleanScript()) {
		if strings.HasPrefix(line, "on_disk()") || strings.HasPrefix(line, "remove()") {
			functions += line
		}
	}
	put := func(path string) string {
		t.Helper()
		roottest.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		roottest.Must(t, os.WriteFile(path, nil, 0o644))
		return path
	}
	remove := func(dir string) {
		_ = exec.Command("sh", "-c", functions+"\nremove \"$1\"", "sh", dir).Run()
	}
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	other := filepath.Join(work, "other")
	roottest.Must(t, os.Mkdir(other, 0o755))
	roottest.Must(t, unix.Mount("tmpfs", other, "tmpfs", 0, ""))
	kept := put(filepath.Join(other, "state/aivm/sync"))

	plain := filepath.Join(work, "plain")
	put(plain + "/d/f")
	if remove(plain); exists(plain) {
		t.Error("a directory on the disk is still there")
	}
	remove(filepath.Join(other, "state/aivm"))
	for _, at := range []string{"/in/it", ""} {
		dir := filepath.Join(work, "d"+filepath.Base(at))
		put(dir + "/f")
		roottest.Must(t, os.MkdirAll(dir+at, 0o755))
		roottest.Must(t, unix.Mount(other, dir+at, "", unix.MS_BIND, ""))
		remove(dir)
	}
	link := filepath.Join(work, "link")
	roottest.Must(t, os.Symlink(other, link))
	remove(link)
	remove(link + "/state/aivm")
	if !exists(kept) {
		t.Error("files of another file system are gone")
	}
}
