package share

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeeps(t *testing.T) {
	for limit, want := range map[int]int{0: 600000, 1000000: 600000, 20000: 12000, 1024: 612} {
		if got := inodeLimit(limit); got != want {
			t.Errorf("%d: %d, want %d", limit, got, want)
		}
	}
}

func TestServes(t *testing.T) {
	const e = "/var/lib/aivm/export/0-a"
	for args, want := range map[string]bool{
		"virtiofsd\x00--fd=3\x00-o\x00source=" + e + "\x00": true,
		"virtiofsd\x00-o\x00source=" + e + ",cache=auto":    true,
		"virtiofsd\x00--shared-dir\x00" + e + "/tok-1\x00":  true,
		"virtiofsd\x00-o\x00source=" + e + "b\x00":          false,
		"virtiofsd\x00-o\x00source=/srv\x00":                false,
	} {
		if got := serves([]byte(args), e); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}

func TestOpenFiles(t *testing.T) {
	p := filepath.Join(t.TempDir(), "limits")
	for text, want := range map[string]int{
		"Limit                     Soft Limit           Hard Limit           Units\nMax open files            20000                40000                files\n": 20000,
		"Max open files            unlimited            unlimited            files\n":                                                                            0, "": 0,
	} {
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := openFiles(p); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
	if openFiles(p+"x") != 0 {
		t.Error("a limit from a missing file")
	}
}

// TestCacheGuardScript runs the script with files in place of the kernel's. It drops the
// caches only if the kernel counts more inodes than the limit.
func TestCacheGuardScript(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func() string {
		t.Helper()
		put("drop", "")
		s := strings.NewReplacer(
			"/sys/kernel/slab/fuse_inode/objects", dir+"/objects", "/proc/slabinfo", dir+"/slabinfo",
			"/proc/sys/vm/drop_caches", dir+"/drop", maxInodesPath, dir+"/most", "while sleep 3; do", "for _ in 1; do",
		).Replace(guardScript)
		if out, err := exec.Command("sh", "-c", s).CombinedOutput(); err != nil && len(out) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(dir + "/drop")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	put("slabinfo", "slabinfo - version: 2.1\nfuse_inode         19988  20000    832   19    4 : tunables\n")
	put("most", "12000\n")
	if got := run(); got != "2" {
		t.Errorf("from slabinfo: %q", got)
	}
	put("objects", "12001 N0=12001\n")
	if got := run(); got != "2" {
		t.Errorf("above: %q", got)
	}
	put("objects", "12000 N0=12000\n")
	if got := run(); got != "" {
		t.Errorf("at the limit: %q", got)
	}
	if err := os.Remove(dir + "/most"); err != nil {
		t.Fatal(err)
	}
	put("objects", "99999999\n")
	if got := run(); got != "" {
		t.Errorf("without a limit: %q", got)
	}
}
