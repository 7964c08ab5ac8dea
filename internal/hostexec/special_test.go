package hostexec

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFindSpecial(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("device nodes need root; make unit runs this as root")
	}
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string, mode uint32) {
		t.Helper()
		p := filepath.Join(dir, name)
		must(os.MkdirAll(filepath.Dir(p), 0o755))
		must(os.WriteFile(p, nil, 0o644))
		must(syscall.Chmod(p, mode))
	}
	file("before", 0o4755)
	time.Sleep(20 * time.Millisecond)
	attached := time.Now()
	time.Sleep(20 * time.Millisecond)
	file("plain", 0o755)
	file("node_modules/.bin/deep/suid", 0o4711)
	file("sgid", 0o2755)
	file("locking", 0o2644)
	file("both", 0o6755)
	file("a\x1b[2Jb\n", 0o4755)
	must(os.Mkdir(filepath.Join(dir, "setgid-dir"), 0o755))
	must(syscall.Chmod(filepath.Join(dir, "setgid-dir"), 0o2775))
	must(syscall.Mknod(filepath.Join(dir, "disk"), syscall.S_IFBLK|0o666, 7<<8))
	must(os.Mkdir(filepath.Join(dir, ".git"), 0o755))
	must(syscall.Mknod(filepath.Join(dir, ".git", "tty"), syscall.S_IFCHR|0o666, 1<<8|3))
	must(syscall.Mknod(filepath.Join(dir, "whiteout"), syscall.S_IFCHR, 0))
	must(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	// Links to files outside of the folder, and to files that do not exist.
	outside := t.TempDir()
	must(os.WriteFile(filepath.Join(outside, "out"), nil, 0o755))
	must(syscall.Chmod(filepath.Join(outside, "out"), 0o4755))
	must(os.Symlink(outside, filepath.Join(dir, "link")))
	must(os.Symlink("out", filepath.Join(dir, "link2")))
	// Other mounts are not entered.
	must(os.Mkdir(filepath.Join(dir, "mount"), 0o755))
	must(syscall.Mount(outside, filepath.Join(dir, "mount"), "", syscall.MS_BIND, ""))
	t.Cleanup(func() { _ = syscall.Unmount(filepath.Join(dir, "mount"), 0) })

	s, err := FindSpecial(context.Background(), dir, attached)
	must(err)
	var got []string
	for _, f := range s.Files {
		got = append(got, fmt.Sprintf("%q %s %d", f.Path, f.What, f.Owner))
	}
	want := []string{
		`".git/tty" character device 1:3 0`, `"a\x1b[2Jb\n" setuid 0`, `"both" setuid and setgid 0`, `"disk" block device 7:0 0`,
		`"node_modules/.bin/deep/suid" setuid 0`, `"sgid" setgid 0`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || s.Cut != "" {
		t.Errorf("got\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), s.Cut)
	}
	if _, err := FindSpecial(context.Background(), filepath.Join(dir, "link"), attached); err == nil {
		t.Error("FindSpecial followed a link to a folder")
	}
	// Devices are reported whatever their age: the user's own folders have none.
	if s, err := FindSpecial(context.Background(), dir, time.Now().Add(time.Hour)); err != nil || len(s.Files) != 2 {
		t.Errorf("%+v %v", s, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := FindSpecial(ctx, dir, attached); err == nil {
		t.Error("a cancelled search returned no error")
	}
}

// TestFindSpecialIsBounded checks that a search which reaches a limit reports it, so that a guest
// cannot hide a file behind many others unnoticed.
func TestFindSpecialIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range maxSpecials + 5 {
		p := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Chmod(p, 0o4755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := FindSpecial(context.Background(), dir, time.Time{})
	if err != nil || len(s.Files) != maxSpecials || !strings.Contains(s.Cut, "more than") {
		t.Errorf("%d %q %v", len(s.Files), s.Cut, err)
	}
}
