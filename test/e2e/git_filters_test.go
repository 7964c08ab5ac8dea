package e2e

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// loopback listens on a loopback port of the host and counts connections.
func loopback(t *testing.T) (addr string, n *atomic.Int32) {
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
			_ = c.Close()
		}
	}()
	return ln.Addr().String(), n
}

// fakeLFS is a substitute for git-lfs. It connects to the address in lfs.url of .lfsconfig and fails.
const fakeLFS = `#!/bin/bash
url=$(git config -f .lfsconfig lfs.url); url=${url#http://}; at=${url%%/*}
exec 3<>/dev/tcp/${at%%:*}/${at##*:}
exit 2
`

var runFilters = regexp.MustCompile(`--run-filters ([0-9a-f]+)`)

// guestFilters tests that the host's git runs no program that the guest chose: by a commit with
// filters and attributes, or by writing to a configuration file that the host's git reads.
func (g *gitWorld) guestFilters(t *testing.T) {
	start := g.git("rev-parse", "HEAD")
	ran := filepath.Join(g.home, "RAN")
	notRun := func(what string) {
		t.Helper()
		if _, err := os.Lstat(ran); err == nil {
			t.Errorf("%s ran a program of the guest", what)
			_ = os.Remove(ran)
		}
	}
	touch := func() {
		t.Helper()
		if err := os.Chtimes(filepath.Join(g.repo, "a.txt"), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	evil := `[filter \"evil\"]\n\tclean = touch ` + ran + `; cat\n\tsmudge = touch ` + ran + `; cat\n`
	commit := "git add -A && git -c user.name=G -c user.email=g@example.org commit -q -m obeyed && git rev-parse HEAD"

	// A tracked file that .git/config includes by include.path.
	g.git("config", "include.path", "../.gitconfig")
	guestCommit := g.inClone(`printf "` + evil + `" >.gitconfig && printf '* filter=evil\n' >.gitattributes && ` + commit)
	r := g.aivm(g.repo, "git", "pull")
	if r.code != 3 || !strings.Contains(r.stderr, ".gitconfig (git reads it: include.path)") || !strings.Contains(r.stderr, ".gitattributes") {
		t.Errorf("pull of .gitattributes and an included configuration: %+v", r)
	}
	g.must(g.repo, "git", "pull", "--yes")
	g.equal("pulled", g.git("-c", "filter.evil.clean=", "rev-parse", "main"), guestCommit)
	touch()
	g.must(g.repo, "git", "status")
	touch()
	g.must(g.repo, "git", "push")
	notRun("aivm git pull, status and push")
	g.git("config", "--unset", "include.path")

	// git-lfs with an lfs.url on the host's loopback.
	addr, connections := loopback(t)
	lfs := filepath.Join(g.home, "git-lfs")
	write(t, lfs, fakeLFS, 0o755)
	for k, v := range map[string]string{"process": lfs + " filter-process", "required": "true"} {
		g.git("config", "--global", "filter.lfs."+k, v)
	}
	guestCommit = g.inClone(`git rm -q .gitconfig && printf '*.bin filter=lfs\n' >.gitattributes && printf '[lfs]\n\turl = http://` + addr + `/x\n' >.lfsconfig &&
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nsize 3\n' >big.bin && ` + commit)
	r = g.aivm(g.repo, "git", "pull")
	list := runFilters.FindStringSubmatch(r.stderr)
	if r.code != 3 || !strings.Contains(r.stderr, ".lfsconfig") || !strings.Contains(r.stderr, "(filter lfs, set in "+filepath.Join(g.home, ".gitconfig")+") on 1 file: big.bin") || list == nil {
		t.Fatalf("pull of a git-lfs pointer: %+v", r)
	}
	if r := g.aivm(g.repo, "git", "pull", "--yes", "--run-filters", "0123456789abcdef"); r.code != 2 || !strings.Contains(r.stderr, "another list") {
		t.Errorf("pull accepted --run-filters of another list: %+v", r)
	}
	r = g.must(g.repo, "git", "pull", "--yes")
	if !strings.Contains(r.stderr, "the filter lfs was not run") || !strings.Contains(r.stderr, "lfs pull") {
		t.Errorf("pull does not report the filter that it did not run: %+v", r)
	}
	g.must(g.repo, "git", "status")
	if n := connections.Load(); n > 0 {
		t.Errorf("the guest made the host connect to its own loopback %d times", n)
	}
	off := []string{"-c", "filter.lfs.process=", "-c", "filter.lfs.required=false"}
	g.git(append(off, "reset", "-q", "--hard", guestCommit+"~")...)
	if r := g.aivm(g.repo, "git", "pull", "--run-filters", list[1]); r.code != 2 || connections.Load() == 0 {
		t.Errorf("pull did not start git-lfs with the --run-filters it asked for: %+v", r)
	}
	for _, k := range []string{"process", "required"} {
		g.git("config", "--global", "--unset", "filter.lfs."+k)
	}

	// ~/.gitconfig is a link into a folder that the guest can write.
	dotfiles := filepath.Join(g.home, "dotfiles")
	write(t, filepath.Join(dotfiles, "note"), "x\n", 0o644)
	g.must(dotfiles, "attach", ".", "--vm", g.vm, "--yes", "--guest-dst", "/home/agent/dotfiles")
	config := filepath.Join(g.home, ".gitconfig")
	if err := os.Rename(config, filepath.Join(dotfiles, "gitconfig")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("dotfiles/gitconfig", config); err != nil {
		t.Fatal(err)
	}
	g.guest(g.vm, `printf "`+evil+`" >>~/dotfiles/gitconfig`)
	g.git("-c", "filter.evil.clean=", "-c", "filter.evil.smudge=", "reset", "-q", "--hard", guestCommit)
	write(t, filepath.Join(g.repo, ".git/info/attributes"), "* filter=evil\n", 0o644)
	touch()
	for _, args := range [][]string{{"git", "status"}, {"git", "push"}, {"git", "pull"}, {"git", "diff"}} {
		if r := g.aivm(g.repo, args...); r.code != 2 || !strings.Contains(r.stderr, "git reads "+config+", and VM "+g.vm+" can write "+dotfiles) || !strings.Contains(r.stderr, "aivm detach "+dotfiles) {
			t.Errorf("%v with a ~/.gitconfig the guest can write: %+v", args, r)
		}
	}
	notRun("git with a ~/.gitconfig the guest can write")
	g.must(dotfiles, "detach", ".")
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	write(t, config, gitConfig, 0o644)
	if err := os.Remove(filepath.Join(g.repo, ".git/info/attributes")); err != nil {
		t.Fatal(err)
	}
	g.inClone("git reset -q --hard " + start)
	g.git("reset", "-q", "--hard", start)
	g.must(g.repo, "git", "fetch")
}
