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

// The content of git-lfs files that were made in the VM is not fetched with the
// pointers, so it is missed with the clone; what was sent from here is not.
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
		t.Errorf("as it came: %+v", o)
	}
	object(p.Guest, made)
	p.CommitG("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:"+made+"\nsize 1\n")
	o := only(p, true)
	if !o.Holds() || o.LFS != 1 || !slices.Contains(o.Lines(), "1 file of git-lfs whose content is not here") {
		t.Errorf("made in the VM: %+v %q", o, o.Lines())
	}
	// A link, or a directory, of that name holds nothing.
	at := filepath.Join(p.Host, ".git/lfs/objects", hostgit.LFSPath(made))
	gittest.Mkdir(t, filepath.Dir(at))
	if err := os.Symlink("/etc/hostname", at); err != nil {
		t.Fatal(err)
	}
	if o = only(p, true); o.LFS != 1 {
		t.Errorf("a link here: %+v", o)
	}
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	object(p.Host, made)
	if o = only(p, true); o.Holds() {
		t.Errorf("copied: %+v", o)
	}
	// A clone that is a work tree of another repository keeps them there.
	if err := os.RemoveAll(filepath.Join(p.Guest, ".git/lfs/objects", made[:2])); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(p.Server.Home, "elsewhere.git")
	if err := os.Rename(filepath.Join(p.Guest, ".git"), elsewhere); err != nil {
		t.Fatal(err)
	}
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git"), "gitdir: "+elsewhere+"\n")
	gittest.WriteFile(t, filepath.Join(elsewhere, "lfs/objects", hostgit.LFSPath(strings.Repeat("c3", 32))), "x")
	if o = only(p, true); o.LFS != 1 {
		t.Errorf("behind a .git file: %+v", o)
	}
}

// Two clones of one repository whose remotes were taken away share their refs
// when they are fetched again: the second takes none of the first one's commits
// out of all refs.
func TestFetchOfAnotherClone(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	base := p.GitG("rev-parse", "HEAD")
	fetch := func() []string {
		t.Helper()
		h, g := p.Observe()
		p.Peer.Fresh = true
		_, notes, err := transfer.Fetch(t.Context(), p.Peer, h, *g)
		if err != nil {
			t.Fatal(err)
		}
		return notes
	}
	p.CommitG("b", "x")
	first := p.CommitG("c", "x")
	if notes := fetch(); len(notes) != 0 {
		t.Errorf("a clone that went on: %q", notes)
	}
	p.GitG("reset", "-q", "--hard", base) // as a second clone is
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

// A branch or a tag whose name is too long to be followed is missed with the
// clone, unless another ref has its commits here.
func TestOnlyOddNames(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	branch, tag := strings.Repeat("b", 201), strings.Repeat("t", 210)
	p.GitG("branch", branch)
	p.GitG("tag", tag)
	if o := only(p, true); o.Holds() {
		t.Errorf("at a commit that is here: %+v", o)
	}
	p.GitG("switch", "-q", branch)
	p.CommitG("b", "x")
	p.GitG("switch", "-q", "main")
	p.GitG("tag", "-f", "-a", "-m", "x", tag)
	if o := only(p, true); !slices.Equal(o.Refs, []string{"heads/" + branch, "tags/" + tag}) || !o.Holds() {
		t.Errorf("%+v", o)
	}
}

// In a rebase, on a branch without a commit, or on one whose name is not used,
// the refs here are as good to compare with and to fetch to.
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
			if err == nil || !h.NoBranch || len(compare.News(h, *g)) != 1 {
				t.Fatalf("%s: %v %+v", what, err, h)
			}
			if _, _, err := transfer.Fetch(t.Context(), p.Peer, &h, *g); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got := p.GitH("rev-parse", p.Remote.Name+"/idea"); got != idea {
				t.Errorf("%s: %s", what, got)
			}
			said, why := p.Peer.Conn.Probe(t.Context(), onlyinvm.Probes(p.Guest))
			if o, err := onlyinvm.Find(t.Context(), h, true, *g, compare.News(h, *g), said, why); err != nil || o.Holds() {
				t.Errorf("%s: %v %+v", what, err, o)
			}
		}
	}
}

// A folder in the clone that its user cannot read is said, and hides no
// repository beside it.
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
	if os.Geteuid() == 0 { // whom it does not keep out
		p.Server.Path = filepath.Join(p.Server.Home, "bin")
		find := filepath.Join(p.Server.Path, "find")
		gittest.WriteFile(t, find, "#!/bin/sh\n/usr/bin/find \"$@\"\necho 'find: closed: Permission denied' >&2\nexit 1\n")
		if err := os.Chmod(find, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o := only(p, true)
	if !slices.Equal(o.Incomplete, []string{"folders in it cannot be read by its user"}) ||
		!slices.Contains(o.Inside, onlyinvm.Inside{Path: "own", Kind: "repository", Commits: 1}) {
		t.Errorf("%+v", o)
	}
}

// What was sent from here without being committed is not committed there
// either: that is said, for it may be here no more.
func TestOnlyWithSentFiles(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	gittest.WriteFile(t, filepath.Join(p.Host, "sent"), "x")
	h, g := p.Observe()
	if said, err := gitsync.SendUncommitted(t.Context(), p.Peer, *h, g); err != nil || !strings.Contains(said, "its folder shows it") {
		t.Fatal(said, err)
	}
	if o := only(p, true); !o.Holds() {
		t.Errorf("%+v", o)
	}
	const says = "files that are not committed (some may have been sent from here by --include-uncommitted): "
	if o := only(p, true); !slices.Equal(o.Lines(), []string{says + "sent"}) {
		t.Errorf("%q", o.Lines())
	}
	p.GitG("switch", "-q", "-c", "other")
	if o := only(p, true); !slices.Equal(o.Lines(), []string{says + "sent"}) {
		t.Errorf("taken to another branch: %q", o.Lines())
	}
}
