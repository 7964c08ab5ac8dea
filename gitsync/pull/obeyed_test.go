package pull_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/pull"
)

// fetched returns the host after a fetch, and the changes of the guest's branch.
func fetched(p *clonetest.Pair) (*compare.Host, []pull.Change) {
	p.T.Helper()
	p.Sync()
	h, _ := p.Observe()
	cs, err := pull.Changes(context.Background(), *h, h.Head, h.Tracked[h.Branch])
	if err != nil {
		p.T.Fatal(err)
	}
	return h, cs
}

func hazards(p *clonetest.Pair, h *compare.Host, cs []pull.Change) string {
	p.T.Helper()
	l, err := pull.Hazards(context.Background(), *h, cs, func(string) bool { return false })
	if err != nil {
		p.T.Fatal(err)
	}
	return strings.Join(l, ", ")
}

func filters(p *clonetest.Pair, h *compare.Host, cs []pull.Change) []hostgit.Filter {
	p.T.Helper()
	fs, err := pull.Filters(context.Background(), *h, h.Tracked[h.Branch], cs)
	if err != nil {
		p.T.Fatal(err)
	}
	return fs
}

// listener counts connections to the host's loopback.
func listener(t *testing.T) (addr string, n *atomic.Int32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	n = &atomic.Int32{}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			_, _ = c.Write([]byte("HTTP/1.1 500 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
			_ = c.Close()
		}
	}()
	return ln.Addr().String(), n
}

const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nsize 3\n"

// TestPullStartsNoLFS has a guest whose .lfsconfig directs git-lfs to the host's loopback. It uses
// the real git-lfs if installed, otherwise a program that connects to lfs.url as git-lfs does.
func TestPullStartsNoLFS(t *testing.T) {
	p := clonetest.New(t)
	addr, connections := listener(t)
	if _, err := exec.LookPath("git-lfs"); err != nil {
		bin := t.TempDir()
		gittest.WriteFile(t, filepath.Join(bin, "git-lfs"), "#!/bin/bash\nurl=$(git config -f .lfsconfig lfs.url); url=${url#http://}\nexec 3<>/dev/tcp/${url%%:*}/$(echo ${url#*:} | cut -d/ -f1)\nprintf 'POST / HTTP/1.0\\r\\n\\r\\n' >&3; read -r _ <&3; exit 2\n")
		if err := os.Chmod(filepath.Join(bin, "git-lfs"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	}
	for k, v := range map[string]string{"process": "git-lfs filter-process", "smudge": "git-lfs smudge -- %f", "clean": "git-lfs clean -- %f", "required": "true"} {
		p.GitH("config", "--global", "filter.lfs."+k, v)
	}
	p.CommitH("a.txt", "one\n")
	p.Sync()
	gittest.WriteFile(t, filepath.Join(p.Guest, ".lfsconfig"), "[lfs]\n\turl = http://"+addr+"/x\n")
	gittest.WriteFile(t, filepath.Join(p.Guest, ".gitattributes"), "*.bin filter=lfs -text\n")
	p.CommitG("big.bin", pointer)
	h, cs := fetched(p)
	if got := hazards(p, h, cs); got != ".gitattributes, .lfsconfig" {
		t.Errorf("hazards: %s", got)
	}
	fs := filters(p, h, cs)
	if len(fs) != 1 || fs[0].Name != "lfs" || fs[0].Command != "git-lfs filter-process" || !slices.Equal(fs[0].Files, []string{"big.bin"}) || fs[0].From != filepath.Join(os.Getenv("HOME"), ".gitconfig") {
		t.Errorf("filters: %+v", fs)
	}
	from := h.Head
	if err := pull.FastForward(context.Background(), h, nil); err != nil {
		t.Fatal(err)
	}
	gittest.Equal(t, "the file", gittest.ReadFile(t, filepath.Join(p.Host, "big.bin")), pointer)
	if _, err := hostgit.Uncommitted(context.Background(), h.Repo); err != nil {
		t.Error(err)
	}
	if n := connections.Load(); n > 0 {
		t.Errorf("git-lfs was started: %d connections to the host's loopback", n)
	}
	// With consent it runs, which shows that it would have run without the protection.
	p.GitH("reset", "-q", "--hard", from)
	h, cs = fetched(p)
	fs = filters(p, h, cs)
	err := pull.FastForward(context.Background(), h, fs)
	if n := connections.Load(); n == 0 {
		t.Errorf("git-lfs was not started despite consent: %v", err)
	}
}

// TestPullAgreed checks that a filter runs with the settings that were listed, or not at all.
func TestPullAgreed(t *testing.T) {
	p := clonetest.New(t)
	p.GitH("config", "filter.up.smudge", "tr a-z A-Z")
	p.GitH("config", "filter.up.clean", "tr A-Z a-z")
	p.GitH("config", "filter.up.required", "true")
	p.GitH("config", "core.autocrlf", "true")
	p.CommitH(".gitattributes", "*.up filter=up\n")
	p.Sync()
	p.CommitG("text.txt", "one\ntwo\n")
	p.CommitG("b.up", "word")
	h, cs := fetched(p)
	fs := filters(p, h, cs)
	first := pull.ConsentToken(h.Head, h.Tracked["main"], nil, fs)
	from := h.Head
	if err := pull.FastForward(context.Background(), h, nil); err != nil {
		t.Fatal(err)
	}
	gittest.Equal(t, "not filtered", gittest.ReadFile(t, filepath.Join(p.Host, "b.up")), "word")
	gittest.Equal(t, "line ends", gittest.ReadFile(t, filepath.Join(p.Host, "text.txt")), "one\r\ntwo\r\n")
	gittest.Equal(t, "the person's own git", p.GitH("status", "--porcelain"), "")
	// These commands are printed for finishing manually.
	p.GitH("switch", "-q", "--detach", from)
	p.GitH("switch", "-q", "main")
	gittest.Equal(t, "after the manual checkout", gittest.ReadFile(t, filepath.Join(p.Host, "b.up")), "WORD")

	p.GitH("reset", "-q", "--hard", from)
	h, cs = fetched(p)
	fs = filters(p, h, cs)
	if token := pull.ConsentToken(h.Head, h.Tracked["main"], nil, fs); token != first {
		t.Error("the same list has another token")
	}
	p.GitH("config", "filter.up.smudge", "sed s/.*/evil/")
	if err := pull.FastForward(context.Background(), h, fs); err == nil || !strings.Contains(err.Error(), "changed while aivm was running") {
		t.Errorf("a filter changed after consent: %v", err)
	}
	p.GitH("config", "filter.up.smudge", "tr a-z A-Z")
	if err := pull.FastForward(context.Background(), h, fs); err != nil {
		t.Fatal(err)
	}
	gittest.Equal(t, "filtered as agreed", gittest.ReadFile(t, filepath.Join(p.Host, "b.up")), "WORD")
	p.GitH("config", "filter.up.smudge", "sed s/.*/evil/")
	p.GitH("reset", "-q", "--hard", from)
	h, cs = fetched(p)
	if other := pull.ConsentToken(h.Head, h.Tracked["main"], nil, filters(p, h, cs)); other == first {
		t.Error("another filter has the same token")
	}
}

// TestFiltersAreOff checks that no git command of aivm runs the filters of the repository or of a
// submodule, and that files which need a filter are reported.
func TestFiltersAreOff(t *testing.T) {
	p := clonetest.New(t)
	marker := filepath.Join(t.TempDir(), "ran")
	lib := filepath.Join(t.TempDir(), "lib")
	gittest.Git(t, filepath.Dir(lib), os.Getenv("HOME"), "init", "-q", lib)
	gittest.WriteFile(t, filepath.Join(lib, "l.x"), "lib\n")
	gittest.WriteFile(t, filepath.Join(lib, ".gitattributes"), "* filter=sub\n")
	gittest.Git(t, lib, os.Getenv("HOME"), "add", "-A")
	gittest.Git(t, lib, os.Getenv("HOME"), "commit", "-q", "-m", "lib")
	p.GitH("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", lib, "lib")
	p.CommitH(".gitattributes", "*.x filter=a.b\n")
	p.CommitH("f.x", "one\n")
	p.Sync()
	for _, k := range []string{"clean", "smudge", "process"} {
		p.GitH("config", "filter.a.b."+k, "touch "+marker)
		p.GitH("-C", "lib", "config", "filter.sub."+k, "touch "+marker)
	}
	p.GitH("config", "filter.a.b.required", "true")
	p.GitH("-C", "lib", "config", "core.fsmonitor", "touch "+marker)
	touched := func() {
		t.Helper()
		for _, f := range []string{"f.x", "lib/l.x"} {
			if err := os.Chtimes(filepath.Join(p.Host, f), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	touched()
	h, g := p.Observe()
	es, err := hostgit.Uncommitted(context.Background(), h.Repo)
	if err != nil {
		t.Fatal(err)
	}
	if len(es) != 0 {
		t.Errorf("status: %+v", es)
	}
	gittest.WriteFile(t, filepath.Join(p.Host, "f.x"), "longer than it was\n")
	es, err = hostgit.Uncommitted(context.Background(), h.Repo)
	if err != nil || len(es) != 1 || es[0].Filter != "a.b" {
		t.Errorf("status: %+v, %v", es, err)
	}
	touched()
	if _, err = gitsync.SendUncommitted(context.Background(), p.Peer, *h, g); err == nil || !strings.Contains(err.Error(), "f.x uses the filter a.b") {
		t.Errorf("a file with a filter was sent unfiltered: %v", err)
	}
	p.GitH("-c", "filter.a.b.clean=", "-c", "filter.a.b.process=", "-c", "filter.a.b.smudge=", "-c", "filter.a.b.required=false", "-c", "core.fsmonitor=", "checkout", "-q", "f.x")
	_ = os.Remove(marker)
	gittest.WriteFile(t, filepath.Join(p.Host, "plain"), "x\n")
	touched()
	if outcome, err := gitsync.SendUncommitted(context.Background(), p.Peer, *h, g); err != nil || !strings.Contains(outcome, "1 files") {
		t.Errorf("a file without a filter was not sent: %q %v", outcome, err)
	}
	if _, err := os.Lstat(marker); err == nil {
		t.Error("a filter ran")
	}
	for section, says := range map[string]string{"filter.a=b": "cannot be overridden", "filter.": "has an empty name"} {
		before := gittest.ReadFile(t, filepath.Join(p.Host, ".git/config"))
		p.GitH("config", section+".clean", "touch "+marker)
		gittest.WriteFile(t, filepath.Join(p.Host, ".gitattributes"), "* filter="+strings.TrimPrefix(section, "filter.")+"\n")
		touched()
		_, err := hostgit.Uncommitted(context.Background(), h.Repo)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", section, err)
		}
		if _, err := os.Lstat(marker); err == nil {
			t.Errorf("the filter of %q ran", section)
		}
		gittest.RunHint(t, err, "git config")
		if _, err := hostgit.Uncommitted(context.Background(), h.Repo); err != nil {
			t.Errorf("%q, renamed by the hint's command: %v", section, err)
		}
		gittest.WriteFile(t, filepath.Join(p.Host, ".git/config"), before)
	}
}

// TestSettingsOfTheTree checks that aivm refuses configuration in the work tree for signatures, for
// where a partial clone gets its objects, and for the address of the clone.
func TestSettingsOfTheTree(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH(".gitconfig", "[gpg]\n\tprogram = tools/gpg\n")
	p.GitH("config", "include.path", "../.gitconfig")
	p.Sync()
	p.CommitG("new", "x")
	h, _ := fetched(p)
	p.GitH("config", "merge.verifySignatures", "true")
	err := pull.FastForward(context.Background(), h, nil)
	if err == nil || !strings.Contains(err.Error(), "signature checks are configured in") {
		t.Errorf("%v", err)
	}
	p.GitH("config", "merge.verifySignatures", "false")
	gittest.WriteFile(t, filepath.Join(p.Host, ".gitconfig"), "[remote \"x\"]\n\tpromisor = true\n[core]\n\tsshCommand = evil\n")
	if _, err := hostgit.Uncommitted(context.Background(), h.Repo); err == nil || !strings.Contains(err.Error(), "partial clone") {
		t.Errorf("%v", err)
	}
	gittest.WriteFile(t, filepath.Join(p.Host, ".gitconfig"), "[url \"ext::evil\"]\n\tinsteadOf = fd:\n")
	if err := h.Repo.RefuseURLRewrite(context.Background()); err == nil || !strings.Contains(err.Error(), "rewrites the address") {
		t.Errorf("%v", err)
	}
	p.GitH("checkout", "-q", ".gitconfig")
	if err := pull.FastForward(context.Background(), h, nil); err != nil {
		t.Error(err)
	}
}

// TestGitDirectoryInTheTree: a commit can write into a git directory that is not named .git.
func TestGitDirectoryInTheTree(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a.txt", "one\n")
	p.GitH("init", "-q", "--separate-git-dir", "meta")
	gittest.WriteFile(t, filepath.Join(p.Host, "meta/info/exclude"), "/meta\n")
	p.Sync()
	p.CommitG("meta/hooks/post-merge", "#!/bin/sh\n")
	h, cs := fetched(p)
	if got := hazards(p, h, cs); got != "meta/hooks/post-merge (git reads it: it is in the git directory)" {
		t.Errorf("hazards: %s", got)
	}
}
