package gitsync

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aivm.dev/aivm/internal/ui"
)

// fetched is the host after a fetch, and what the guest's branch brings.
func (p *pair) fetched() (*Host, []Change) {
	p.t.Helper()
	p.sync()
	h, _ := p.observe()
	cs, err := Changes(context.Background(), *h, h.Head, h.Tracked[h.Branch])
	if err != nil {
		p.t.Fatal(err)
	}
	return h, cs
}

func (p *pair) hazards(h *Host, cs []Change) string {
	p.t.Helper()
	l, err := Hazards(context.Background(), *h, cs, func(string) bool { return false })
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Join(l, ", ")
}

func (p *pair) filters(h *Host, cs []Change) []Filter {
	p.t.Helper()
	fs, err := Filters(context.Background(), *h, h.Tracked[h.Branch], cs)
	if err != nil {
		p.t.Fatal(err)
	}
	return fs
}

// listener counts who connects to this machine's loopback.
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

// TestPullStartsNoLFS: a guest's .lfsconfig leads git-lfs to this machine's own
// loopback. The real git-lfs is used where it is installed, else a program that
// does with lfs.url what it does.
func TestPullStartsNoLFS(t *testing.T) {
	p := newPair(t)
	addr, connections := listener(t)
	if _, err := exec.LookPath("git-lfs"); err != nil {
		bin := t.TempDir()
		writeFile(t, filepath.Join(bin, "git-lfs"), "#!/bin/bash\nurl=$(git config -f .lfsconfig lfs.url); url=${url#http://}\nexec 3<>/dev/tcp/${url%%:*}/$(echo ${url#*:} | cut -d/ -f1)\nprintf 'POST / HTTP/1.0\\r\\n\\r\\n' >&3; read -r _ <&3; exit 2\n")
		if err := os.Chmod(filepath.Join(bin, "git-lfs"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	}
	for k, v := range map[string]string{"process": "git-lfs filter-process", "smudge": "git-lfs smudge -- %f", "clean": "git-lfs clean -- %f", "required": "true"} {
		p.gitH("config", "--global", "filter.lfs."+k, v)
	}
	p.commitH("a.txt", "one\n")
	p.sync()
	writeFile(t, filepath.Join(p.guest, ".lfsconfig"), "[lfs]\n\turl = http://"+addr+"/x\n")
	writeFile(t, filepath.Join(p.guest, ".gitattributes"), "*.bin filter=lfs -text\n")
	p.commitG("big.bin", pointer)
	h, cs := p.fetched()
	if got := p.hazards(h, cs); got != ".gitattributes, .lfsconfig" {
		t.Errorf("hazards: %s", got)
	}
	fs := p.filters(h, cs)
	if len(fs) != 1 || fs[0].Name != "lfs" || fs[0].Command != "git-lfs filter-process" || !slices.Equal(fs[0].Files, []string{"big.bin"}) || fs[0].From != filepath.Join(os.Getenv("HOME"), ".gitconfig") {
		t.Errorf("filters: %+v", fs)
	}
	from := h.Head
	if err := Pull(context.Background(), h, nil); err != nil {
		t.Fatal(err)
	}
	equal(t, "the file", readFile(t, filepath.Join(p.host, "big.bin")), pointer)
	if _, err := HostStatus(context.Background(), h.Repo); err != nil {
		t.Error(err)
	}
	if n := connections.Load(); n > 0 {
		t.Errorf("git-lfs was started: %d connections to this machine's loopback", n)
	}
	// Agreed to, it runs: this shows that it would have.
	p.gitH("reset", "-q", "--hard", from)
	h, cs = p.fetched()
	fs = p.filters(h, cs)
	err := Pull(context.Background(), h, fs)
	if n := connections.Load(); n == 0 {
		t.Errorf("git-lfs was not started after it was agreed to: %v", err)
	}
}

// TestPullAgreed: a filter runs as it was seen, whatever it was changed to since.
func TestPullAgreed(t *testing.T) {
	p := newPair(t)
	p.gitH("config", "filter.up.smudge", "tr a-z A-Z")
	p.gitH("config", "filter.up.clean", "tr A-Z a-z")
	p.gitH("config", "filter.up.required", "true")
	p.gitH("config", "core.autocrlf", "true")
	p.commitH(".gitattributes", "*.up filter=up\n")
	p.sync()
	p.commitG("text.txt", "one\ntwo\n")
	p.commitG("b.up", "word")
	h, cs := p.fetched()
	fs := p.filters(h, cs)
	first := Agreement(h.Head, h.Tracked["main"], nil, fs)
	from := h.Head
	if err := Pull(context.Background(), h, nil); err != nil {
		t.Fatal(err)
	}
	equal(t, "not filtered", readFile(t, filepath.Join(p.host, "b.up")), "word")
	equal(t, "line ends", readFile(t, filepath.Join(p.host, "text.txt")), "one\r\ntwo\r\n")
	equal(t, "the person's own git", p.gitH("status", "--porcelain"), "")
	// What is printed to finish by hand.
	p.gitH("switch", "-q", "--detach", from)
	p.gitH("switch", "-q", "main")
	equal(t, "by hand", readFile(t, filepath.Join(p.host, "b.up")), "WORD")

	p.gitH("reset", "-q", "--hard", from)
	h, cs = p.fetched()
	fs = p.filters(h, cs)
	if again := Agreement(h.Head, h.Tracked["main"], nil, fs); again != first {
		t.Error("the same list has another name")
	}
	p.gitH("config", "filter.up.smudge", "sed s/.*/evil/")
	if err := Pull(context.Background(), h, fs); err == nil || !strings.Contains(err.Error(), "set otherwise meanwhile") {
		t.Errorf("another filter than was agreed to: %v", err)
	}
	p.gitH("config", "filter.up.smudge", "tr a-z A-Z")
	if err := Pull(context.Background(), h, fs); err != nil {
		t.Fatal(err)
	}
	equal(t, "filtered as agreed", readFile(t, filepath.Join(p.host, "b.up")), "WORD")
	p.gitH("config", "filter.up.smudge", "sed s/.*/evil/")
	p.gitH("reset", "-q", "--hard", from)
	h, cs = p.fetched()
	if other := Agreement(h.Head, h.Tracked["main"], nil, p.filters(h, cs)); other == first {
		t.Error("another filter has the same name")
	}
}

// TestFiltersAreOff: whatever aivm's git is asked, the repository's own filters
// and those of a submodule do not run; what needs one is said.
func TestFiltersAreOff(t *testing.T) {
	p := newPair(t)
	marker := filepath.Join(t.TempDir(), "ran")
	lib := filepath.Join(t.TempDir(), "lib")
	gitIn(t, filepath.Dir(lib), os.Getenv("HOME"), "init", "-q", lib)
	writeFile(t, filepath.Join(lib, "l.x"), "lib\n")
	writeFile(t, filepath.Join(lib, ".gitattributes"), "* filter=sub\n")
	gitIn(t, lib, os.Getenv("HOME"), "add", "-A")
	gitIn(t, lib, os.Getenv("HOME"), "commit", "-q", "-m", "lib")
	p.gitH("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", lib, "lib")
	p.commitH(".gitattributes", "*.x filter=a.b\n")
	p.commitH("f.x", "one\n")
	p.sync()
	for _, k := range []string{"clean", "smudge", "process"} {
		p.gitH("config", "filter.a.b."+k, "touch "+marker)
		p.gitH("-C", "lib", "config", "filter.sub."+k, "touch "+marker)
	}
	p.gitH("config", "filter.a.b.required", "true")
	p.gitH("-C", "lib", "config", "core.fsmonitor", "touch "+marker)
	touched := func() {
		t.Helper()
		for _, f := range []string{"f.x", "lib/l.x"} {
			if err := os.Chtimes(filepath.Join(p.host, f), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	touched()
	h, g := p.observe()
	es, err := HostStatus(context.Background(), h.Repo)
	if err != nil {
		t.Fatal(err)
	}
	if len(es) != 0 {
		t.Errorf("status: %+v", es)
	}
	writeFile(t, filepath.Join(p.host, "f.x"), "longer than it was\n")
	es, err = HostStatus(context.Background(), h.Repo)
	if err != nil || len(es) != 1 || es[0].Filter != "a.b" {
		t.Errorf("status: %+v, %v", es, err)
	}
	touched()
	if _, err = SendUncommitted(context.Background(), p.peer, *h, g); err == nil || !strings.Contains(err.Error(), "f.x passes through the filter a.b") {
		t.Errorf("what passes through a filter was sent as it is: %v", err)
	}
	p.gitH("-c", "filter.a.b.clean=", "-c", "filter.a.b.process=", "-c", "filter.a.b.smudge=", "-c", "filter.a.b.required=false", "-c", "core.fsmonitor=", "checkout", "-q", "f.x")
	_ = os.Remove(marker)
	writeFile(t, filepath.Join(p.host, "plain"), "x\n")
	touched()
	if said, err := SendUncommitted(context.Background(), p.peer, *h, g); err != nil || !strings.Contains(said, "1 files") {
		t.Errorf("what passes through none was not sent: %q %v", said, err)
	}
	if _, err := os.Lstat(marker); err == nil {
		t.Error("a filter ran")
	}
	for section, says := range map[string]string{"filter.a=b": "cannot be switched off", "filter.": "has an empty name"} {
		before := readFile(t, filepath.Join(p.host, ".git/config"))
		p.gitH("config", section+".clean", "touch "+marker)
		writeFile(t, filepath.Join(p.host, ".gitattributes"), "* filter="+strings.TrimPrefix(section, "filter.")+"\n")
		touched()
		_, err := HostStatus(context.Background(), h.Repo)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", section, err)
		}
		if _, err := os.Lstat(marker); err == nil {
			t.Errorf("the filter of %q ran", section)
		}
		runHint(t, err, "git config")
		if _, err := HostStatus(context.Background(), h.Repo); err != nil {
			t.Errorf("%q, renamed as the hint says: %v", section, err)
		}
		writeFile(t, filepath.Join(p.host, ".git/config"), before)
	}
}

// runHint runs the hint of err that holds a command, as the person would.
func runHint(t *testing.T, err error, command string) {
	t.Helper()
	var e *ui.Error
	if !errors.As(err, &e) {
		t.Errorf("no hint: %v", err)
		return
	}
	for _, hint := range e.Hints {
		if at := strings.Index(hint, command); at >= 0 {
			if out, err := exec.Command("sh", "-c", hint[at:]).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", hint[at:], err, out)
			}
			return
		}
	}
	t.Errorf("no hint runs %s: %q", command, e.Hints)
}

// TestSettingsOfTheTree: what a file of the work tree says of signatures, of
// where a partial clone gets its objects, and of the way to the clone is not
// followed.
func TestSettingsOfTheTree(t *testing.T) {
	p := newPair(t)
	p.commitH(".gitconfig", "[gpg]\n\tprogram = tools/gpg\n")
	p.gitH("config", "include.path", "../.gitconfig")
	p.sync()
	p.commitG("new", "x")
	h, _ := p.fetched()
	p.gitH("config", "merge.verifySignatures", "true")
	err := Pull(context.Background(), h, nil)
	if err == nil || !strings.Contains(err.Error(), "signatures would be checked as") {
		t.Errorf("%v", err)
	}
	p.gitH("config", "merge.verifySignatures", "false")
	writeFile(t, filepath.Join(p.host, ".gitconfig"), "[remote \"x\"]\n\tpromisor = true\n[core]\n\tsshCommand = evil\n")
	if _, err := HostStatus(context.Background(), h.Repo); err == nil || !strings.Contains(err.Error(), "partial clone") {
		t.Errorf("%v", err)
	}
	writeFile(t, filepath.Join(p.host, ".gitconfig"), "[url \"ext::evil\"]\n\tinsteadOf = fd:\n")
	if err := h.Repo.straight(context.Background()); err == nil || !strings.Contains(err.Error(), "rewrites the address") {
		t.Errorf("%v", err)
	}
	p.gitH("checkout", "-q", ".gitconfig")
	if err := Pull(context.Background(), h, nil); err != nil {
		t.Error(err)
	}
}

// TestWhatGuestsWrite: a file is known to lie in a folder by its name, by a link
// on its way, by a second name, and before it is there.
func TestWhatGuestsWrite(t *testing.T) {
	dir := real(t, t.TempDir())
	shared, own := filepath.Join(dir, "shared"), filepath.Join(dir, "own")
	writeFile(t, filepath.Join(shared, "f"), "x")
	writeFile(t, filepath.Join(own, "f"), "x")
	for from, to := range map[string]string{"own/there": "../shared", "shared/back": "../own", "own/loop": "loop", "own/dangling": "../shared/none/f"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(shared, "f"), filepath.Join(own, "second")); err != nil {
		t.Fatal(err)
	}
	g, err := newGuests(map[string]string{shared: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"own/f": false, "shared/f": true, "own/there/f": true, "shared/back/f": true, "own/there/back/f": true, "own/none/../f": false,
		"own/none/f": false, "shared/none/f": true, "own/dangling": true, "sharedd/f": false, "own/loop": false,
	} {
		tr, _ := trail(filepath.Join(dir, "/") + "/" + name)
		yes := slices.ContainsFunc(tr, func(p string) bool { _, _, yes := g.writes(p); return yes })
		if yes != want {
			t.Errorf("%s: %v, by way of %v", name, yes, tr)
		}
	}
	if _, vm, yes := g.shares(filepath.Join(own, "second")); !yes || vm != "vm" {
		t.Error("a second name was not noticed")
	}
	if _, _, yes := g.shares(filepath.Join(own, "f")); yes {
		t.Error("a file with one name has two")
	}
	// An object store that the one borrowed from borrows from.
	repo := Repo{Top: own, GitDir: filepath.Join(own, ".git"), CommonDir: filepath.Join(own, ".git")}
	mkdir(t, filepath.Join(shared, "objects"))
	writeFile(t, filepath.Join(own, ".git/objects/info/alternates"), "# c\n\""+filepath.Join(dir, "middle/objects")+"\"\n")
	writeFile(t, filepath.Join(dir, "middle/objects/info/alternates"), "../../shared/objects\n")
	if err := repo.Guarded(map[string]string{shared: "vm"}); err == nil || !strings.Contains(ui.Clean(err.Error()), shared) {
		t.Errorf("%v in %v", err, repo.Places())
	}
}

// TestGitDirectoryInTheTree: a commit can write in a git directory that has
// another name than .git.
func TestGitDirectoryInTheTree(t *testing.T) {
	p := newPair(t)
	p.commitH("a.txt", "one\n")
	p.gitH("init", "-q", "--separate-git-dir", "meta")
	writeFile(t, filepath.Join(p.host, "meta/info/exclude"), "/meta\n")
	p.sync()
	p.commitG("meta/hooks/post-merge", "#!/bin/sh\n")
	h, cs := p.fetched()
	if got := p.hazards(h, cs); got != "meta/hooks/post-merge (git reads it: its own directory)" {
		t.Errorf("hazards: %s", got)
	}
}
