package carry_test

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

	"aivm.dev/aivm/gitsync/carry"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
)

func TestSubmodules(t *testing.T) {
	p := clonetest.New(t)
	home := os.Getenv("HOME")
	inner, lib := filepath.Join(gittest.Real(t, t.TempDir()), "inner"), filepath.Join(gittest.Real(t, t.TempDir()), "lib")
	for _, r := range []string{inner, lib} {
		gittest.Git(t, filepath.Dir(r), home, "init", "-q", r)
		gittest.WriteFile(t, filepath.Join(r, "f.txt"), "of "+filepath.Base(r)+"\n")
		gittest.Git(t, r, home, "add", "-A")
		gittest.Git(t, r, home, "commit", "-q", "-m", "x")
	}
	gittest.Git(t, lib, home, "-c", "protocol.file.allow=always", "submodule", "-q", "add", inner, "deep/in ner")
	gittest.Git(t, lib, home, "commit", "-q", "-m", "nested")
	p.CommitH("a", "a")
	p.GitH("-c", "protocol.file.allow=always", "submodule", "-q", "add", "--name", "the lib", lib, "libs/é lib")
	p.GitH("-c", "protocol.file.allow=always", "submodule", "-q", "update", "--init", "--recursive")
	p.GitH("commit", "-q", "-m", "submodule")
	carry := func() ([]string, []string) {
		t.Helper()
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
		h, _ := p.Observe()
		c, m, err := carry.Submodules(context.Background(), p.Peer, *h)
		if err != nil {
			t.Fatal(err)
		}
		return c, m
	}
	if c, m := carry(); len(c) != 2 || len(m) != 0 {
		t.Fatalf("carried %q, missing %q", c, m)
	}
	gittest.Equal(t, "the submodule's file", gittest.ReadFile(t, filepath.Join(p.Guest, "libs/é lib/f.txt")), "of lib\n")
	gittest.Equal(t, "the nested one's", gittest.ReadFile(t, filepath.Join(p.Guest, "libs/é lib/deep/in ner/f.txt")), "of inner\n")
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
	// A new commit in the submodule.
	sub := filepath.Join(p.Host, "libs/é lib")
	gittest.WriteFile(t, filepath.Join(sub, "f.txt"), "more\n")
	gittest.Git(t, sub, home, "commit", "-q", "-am", "more")
	p.CommitH("b", "b")
	if c, m := carry(); len(c) != 2 || len(m) != 0 {
		t.Fatalf("carried %q, missing %q", c, m)
	}
	gittest.Equal(t, "the submodule's file", gittest.ReadFile(t, filepath.Join(p.Guest, "libs/é lib/f.txt")), "more\n")
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
	// A submodule missing on the host is reported.
	p.GitH("submodule", "-q", "deinit", "-f", "libs/é lib")
	p.CommitH("c", "c")
	if c, m := carry(); len(c) != 0 || len(m) != 1 || !strings.Contains(m[0], "is not checked out on this machine") {
		t.Fatalf("carried %q, missing %q", c, m)
	}
}

func TestLargeFiles(t *testing.T) {
	p := clonetest.New(t)
	pointer := func(name, text string, keep bool) string {
		sum := sha256.Sum256([]byte(text))
		oid := hex.EncodeToString(sum[:])
		gittest.WriteFile(t, filepath.Join(p.Host, name), fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(text)))
		if keep {
			gittest.WriteFile(t, filepath.Join(p.Host, ".git/lfs/objects", hostgit.LFSPath(oid)), text)
		}
		return oid
	}
	gittest.WriteFile(t, filepath.Join(p.Host, "x.txt"), "version https://git-lfs.github.com/spec/v1\nnot a pointer\n")
	a := pointer("dir/é a.bin", "large a", true)
	pointer("b.bin", "large b", false)
	p.CommitH(".gitattributes", "*.bin -filter\n") // no filter=lfs yet
	p.Sync()
	h, _ := p.Observe()
	if m, err := carry.LFS(context.Background(), p.Peer, *h); err != nil || len(m) != 0 {
		t.Errorf("%v %v", m, err)
	}
	// The attribute without a configured filter program: git leaves the files as they are.
	p.CommitH(".gitattributes", "*.bin filter=lfs -text\n")
	h, _ = p.Observe()
	m, err := carry.LFS(context.Background(), p.Peer, *h)
	_, lerr := exec.LookPath("git-lfs")
	if err != nil || len(m) == 0 || !strings.Contains(m[0], "1 git-lfs objects are not on this machine") || (lerr == nil) != (len(m) == 1) {
		t.Errorf("%q %v", m, err)
	}
	gittest.Equal(t, "the large file", gittest.ReadFile(t, filepath.Join(p.Guest, ".git/lfs/objects", hostgit.LFSPath(a))), "large a")
	p.Notes = nil
	if _, err := carry.LFS(context.Background(), p.Peer, *h); err != nil || len(p.Notes) != 0 {
		t.Errorf("sent again: %q %v", p.Notes, err)
	}
}
