package onlyinvm_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/onlyinvm"
	"aivm.dev/aivm/gitsync/transfer"
)

// The content of git-lfs files created in the VM is not fetched with the pointers, so deleting the
// clone would lose it; content that the host sent does not count.
func TestOnlyLargeFiles(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH(".gitattributes", "*.bin filter=lfs -text\n")
	p.Sync()
	sent, made := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	object := func(repo, oid string) {
		gittest.WriteFile(t, filepath.Join(repo, ".git/lfs/objects", hostgit.LFSPath(oid)), "x")
	}
	object(p.Host, sent)
	object(p.Guest, sent)
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git/lfs/objects/b2/no object"), "x")
	if o := only(p, true); o.Holds() {
		t.Errorf("unchanged: %+v", o)
	}
	object(p.Guest, made)
	p.CommitG("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:"+made+"\nsize 1\n")
	o := only(p, true)
	if !o.Holds() || o.LFS != 1 || !slices.Contains(o.Lines(), "1 git-lfs object that this machine lacks") {
		t.Errorf("created in the VM: %+v %q", o, o.Lines())
	}
	// A link or a directory of that name is not the content.
	at := filepath.Join(p.Host, ".git/lfs/objects", hostgit.LFSPath(made))
	gittest.Mkdir(t, filepath.Dir(at))
	if err := os.Symlink("/etc/hostname", at); err != nil {
		t.Fatal(err)
	}
	if o = only(p, true); o.LFS != 1 {
		t.Errorf("a link on the host: %+v", o)
	}
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	object(p.Host, made)
	if o = only(p, true); o.Holds() {
		t.Errorf("copied: %+v", o)
	}
	// If the clone is a work tree of another repository, that repository has the objects.
	if err := os.RemoveAll(filepath.Join(p.Guest, ".git/lfs/objects", made[:2])); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(p.Server.Home, "elsewhere.git")
	if err := os.Rename(filepath.Join(p.Guest, ".git"), moved); err != nil {
		t.Fatal(err)
	}
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git"), "gitdir: "+moved+"\n")
	gittest.WriteFile(t, filepath.Join(moved, "lfs/objects", hostgit.LFSPath(strings.Repeat("c3", 32))), "x")
	if o = only(p, true); o.LFS != 1 {
		t.Errorf("behind a .git file: %+v", o)
	}
}

// Two clones of one repository whose remotes were removed use the same remote-tracking refs when
// they are fetched again: fetching the second must not remove the first one's commits from all
// refs.
func TestFetchOfAnotherClone(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	base := p.GitG("rev-parse", "HEAD")
	fetch := func() []string {
		t.Helper()
		h, g := p.Observe()
		p.Peer.RemoteIsNew = true
		_, notes, err := transfer.Fetch(t.Context(), p.Peer, h, *g)
		if err != nil {
			t.Fatal(err)
		}
		return notes
	}
	p.CommitG("b", "x")
	first := p.CommitG("c", "x")
	if notes := fetch(); len(notes) != 0 {
		t.Errorf("a clone with new commits: %q", notes)
	}
	p.GitG("reset", "-q", "--hard", base) // the state of a second clone
	second := p.CommitG("d", "x")
	if notes := fetch(); len(notes) != 1 || !strings.Contains(notes[0], "refs/aivm/kept/"+p.Remote.Name+"/main-"+first[:10]) {
		t.Errorf("another clone: %q", notes)
	}
	for _, oid := range []string{first, second} {
		if p.GitH("for-each-ref", "--contains", oid) == "" {
			t.Errorf("%s is in no ref", oid)
		}
	}
	p.GitG("reset", "-q", "--hard", first)
	if notes := fetch(); len(notes) != 1 || strings.Contains(notes[0], first[:10]) {
		t.Errorf("the first one again: %q", notes)
	}
	if o := only(p, false); o.Holds() {
		t.Errorf("%+v", o)
	}
}

// A branch or tag whose name is too long to be fetched counts, unless another ref on the host has
// its commits.
func TestOnlyOddNames(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	branch, tag := strings.Repeat("b", 201), strings.Repeat("t", 210)
	p.GitG("branch", branch)
	p.GitG("tag", tag)
	if o := only(p, true); o.Holds() {
		t.Errorf("at a commit the host has: %+v", o)
	}
	p.GitG("switch", "-q", branch)
	p.CommitG("b", "x")
	p.GitG("switch", "-q", "main")
	p.GitG("tag", "-f", "-a", "-m", "x", tag)
	if o := only(p, true); !slices.Equal(o.Refs, []string{"heads/" + branch, "tags/" + tag}) || !o.Holds() {
		t.Errorf("%+v", o)
	}
}

// In a rebase, on a branch without a commit, or on a branch with an unusable name, the host's refs
// can still be compared and fetched to.
func TestOnlyWithoutABranch(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		for what, args := range map[string][]string{
			"a commit":            {"checkout", "-q", "--detach"},
			"nothing yet":         {"symbolic-ref", "HEAD", "refs/heads/unborn"},
			"the VM's own branch": {"symbolic-ref", "HEAD", "refs/heads/idea"},
			"a long name":         {"switch", "-q", "-c", strings.Repeat("b", 201)},
		} {
			p := clonetest.New(t, "--object-format="+format)
			p.CommitH("a", "x")
			p.Sync()
			p.GitG("switch", "-q", "-c", "idea")
			idea := p.CommitG("b", "x")
			_, g := p.Observe()
			p.GitH(args...)
			r, err := hostgit.Find(p.Host)
			if err != nil {
				t.Fatal(err)
			}
			h, err := compare.Observe(t.Context(), r, p.Remote.Name)
			if err == nil || !h.NoBranch || len(compare.MovedBranches(h, *g)) != 1 {
				t.Fatalf("%s: %v %+v", what, err, h)
			}
			if _, _, err := transfer.Fetch(t.Context(), p.Peer, &h, *g); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got := p.GitH("rev-parse", p.Remote.Name+"/idea"); got != idea {
				t.Errorf("%s: %s", what, got)
			}
			answers, why := p.Peer.Conn.Probe(t.Context(), onlyinvm.Probes(p.Guest))
			if o, err := onlyinvm.Find(t.Context(), h, true, *g, compare.MovedBranches(h, *g), answers, why); err != nil || o.Holds() {
				t.Errorf("%s: %v %+v", what, err, o)
			}
		}
	}
}

// A folder in the clone that the guest user cannot read is reported, and does not hide a repository
// beside it.
func TestOnlyBesideAClosedFolder(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	closed, own := filepath.Join(p.Guest, "closed"), filepath.Join(p.Guest, "own")
	gittest.Mkdir(t, closed)
	gittest.Mkdir(t, own)
	gittest.Git(t, own, p.Server.Home, "init", "-q")
	gittest.Git(t, own, p.Server.Home, "commit", "-q", "--allow-empty", "-m", "x")
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(closed, 0o755) })
	if os.Geteuid() == 0 { // mode 0 does not keep root out
		p.Server.Path = filepath.Join(p.Server.Home, "bin")
		find := filepath.Join(p.Server.Path, "find")
		gittest.WriteFile(t, find, "#!/bin/sh\n/usr/bin/find \"$@\"\necho 'find: closed: Permission denied' >&2\nexit 1\n")
		if err := os.Chmod(find, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o := only(p, true)
	if !slices.Equal(o.Incomplete, []string{"the guest user cannot read some of its folders"}) ||
		!slices.Contains(o.Inside, onlyinvm.Inside{Path: "own", Kind: "repository", Commits: 1}) {
		t.Errorf("%+v", o)
	}
}

// Uncommitted files that the host sent count as uncommitted in the VM, since the host may no longer
// have them; the text says that they may have been sent.
func TestOnlyWithSentFiles(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	gittest.WriteFile(t, filepath.Join(p.Host, "sent"), "x")
	h, g := p.Observe()
	if outcome, err := gitsync.SendUncommitted(t.Context(), p.Peer, *h, g); err != nil || !strings.Contains(outcome, "its folder shows the files") {
		t.Fatal(outcome, err)
	}
	if o := only(p, true); !o.Holds() {
		t.Errorf("%+v", o)
	}
	const prefix = "uncommitted files (some may have been sent from this machine by --include-uncommitted): "
	if o := only(p, true); !slices.Equal(o.Lines(), []string{prefix + "sent"}) {
		t.Errorf("%q", o.Lines())
	}
	p.GitG("switch", "-q", "-c", "other")
	if o := only(p, true); !slices.Equal(o.Lines(), []string{prefix + "sent"}) {
		t.Errorf("on another branch: %q", o.Lines())
	}
}
