package gitsync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestSubmodules(t *testing.T) {
	p := newPair(t)
	home := os.Getenv("HOME")
	inner, lib := filepath.Join(real(t, t.TempDir()), "inner"), filepath.Join(real(t, t.TempDir()), "lib")
	for _, r := range []string{inner, lib} {
		gitIn(t, filepath.Dir(r), home, "init", "-q", r)
		writeFile(t, filepath.Join(r, "f.txt"), "of "+filepath.Base(r)+"\n")
		gitIn(t, r, home, "add", "-A")
		gitIn(t, r, home, "commit", "-q", "-m", "x")
	}
	gitIn(t, lib, home, "-c", "protocol.file.allow=always", "submodule", "-q", "add", inner, "deep/in ner")
	gitIn(t, lib, home, "commit", "-q", "-m", "nested")
	p.commitH("a", "a")
	p.gitH("-c", "protocol.file.allow=always", "submodule", "-q", "add", "--name", "the lib", lib, "libs/é lib")
	p.gitH("-c", "protocol.file.allow=always", "submodule", "-q", "update", "--init", "--recursive")
	p.gitH("commit", "-q", "-m", "submodule")
	carry := func() ([]string, []string) {
		t.Helper()
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
		h, _ := p.observe()
		c, m, err := CarrySubmodules(context.Background(), p.peer, *h)
		if err != nil {
			t.Fatal(err)
		}
		return c, m
	}
	if c, m := carry(); len(c) != 2 || len(m) != 0 {
		t.Fatalf("carried %q, missing %q", c, m)
	}
	equal(t, "the submodule's file", readFile(t, filepath.Join(p.guest, "libs/é lib/f.txt")), "of lib\n")
	equal(t, "the nested one's", readFile(t, filepath.Join(p.guest, "libs/é lib/deep/in ner/f.txt")), "of inner\n")
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
	// It moves on.
	sub := filepath.Join(p.host, "libs/é lib")
	writeFile(t, filepath.Join(sub, "f.txt"), "more\n")
	gitIn(t, sub, home, "commit", "-q", "-am", "more")
	p.commitH("b", "b")
	if c, m := carry(); len(c) != 2 || len(m) != 0 {
		t.Fatalf("carried %q, missing %q", c, m)
	}
	equal(t, "the submodule's file", readFile(t, filepath.Join(p.guest, "libs/é lib/f.txt")), "more\n")
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
	// One that is not here is said.
	p.gitH("submodule", "-q", "deinit", "-f", "libs/é lib")
	p.commitH("c", "c")
	if c, m := carry(); len(c) != 0 || len(m) != 1 || !strings.Contains(m[0], "is not checked out here") {
		t.Fatalf("carried %q, missing %q", c, m)
	}
}

func TestLargeFiles(t *testing.T) {
	p := newPair(t)
	pointer := func(name, text string, keep bool) string {
		sum := sha256.Sum256([]byte(text))
		oid := hex.EncodeToString(sum[:])
		writeFile(t, filepath.Join(p.host, name), fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(text)))
		if keep {
			writeFile(t, filepath.Join(p.host, ".git/lfs/objects", lfsPath(oid)), text)
		}
		return oid
	}
	writeFile(t, filepath.Join(p.host, "x.txt"), "version https://git-lfs.github.com/spec/v1\nnot a pointer\n")
	a := pointer("dir/é a.bin", "large a", true)
	pointer("b.bin", "large b", false)
	p.commitH(".gitattributes", "*.bin -filter\n") // mentions no lfs yet
	p.sync()
	h, _ := p.observe()
	if m, err := CarryLFS(context.Background(), p.peer, *h); err != nil || len(m) != 0 {
		t.Errorf("%v %v", m, err)
	}
	// The attribute without the filter program's settings: git leaves the files.
	p.commitH(".gitattributes", "*.bin filter=lfs -text\n")
	h, _ = p.observe()
	m, err := CarryLFS(context.Background(), p.peer, *h)
	_, lerr := exec.LookPath("git-lfs")
	if err != nil || len(m) == 0 || !strings.Contains(m[0], "1 files of git-lfs are not here") || (lerr == nil) != (len(m) == 1) {
		t.Errorf("%q %v", m, err)
	}
	equal(t, "the large file", readFile(t, filepath.Join(p.guest, ".git/lfs/objects", lfsPath(a))), "large a")
	p.notes = nil
	if _, err := CarryLFS(context.Background(), p.peer, *h); err != nil || len(p.notes) != 0 {
		t.Errorf("sent again: %q %v", p.notes, err)
	}
}
