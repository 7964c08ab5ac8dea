package gitsync

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The content of git-lfs files that were made in the VM is not fetched with the
// pointers, so it is missed with the clone; what was sent from here is not.
func TestOnlyLargeFiles(t *testing.T) {
	p := newPair(t)
	p.commitH(".gitattributes", "*.bin filter=lfs -text\n")
	p.sync()
	sent, made := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	object := func(repo, oid string) { writeFile(t, filepath.Join(repo, ".git/lfs/objects", lfsPath(oid)), "x") }
	object(p.host, sent)
	object(p.guest, sent)
	writeFile(t, filepath.Join(p.guest, ".git/lfs/objects/b2/no object"), "x")
	if o := p.only(true); o.Holds() {
		t.Errorf("as it came: %+v", o)
	}
	object(p.guest, made)
	p.commitG("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:"+made+"\nsize 1\n")
	o := p.only(true)
	if !o.Holds() || o.LFS != 1 || !slices.Contains(o.Lines(), "1 file of git-lfs whose content is not here") {
		t.Errorf("made in the VM: %+v %q", o, o.Lines())
	}
	// A link, or a directory, of that name holds nothing.
	at := filepath.Join(p.host, ".git/lfs/objects", lfsPath(made))
	mkdir(t, filepath.Dir(at))
	if err := os.Symlink("/etc/hostname", at); err != nil {
		t.Fatal(err)
	}
	if o = p.only(true); o.LFS != 1 {
		t.Errorf("a link here: %+v", o)
	}
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	object(p.host, made)
	if o = p.only(true); o.Holds() {
		t.Errorf("copied: %+v", o)
	}
	// A clone that is a work tree of another repository keeps them there.
	if err := os.RemoveAll(filepath.Join(p.guest, ".git/lfs/objects", made[:2])); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(p.s.home, "elsewhere.git")
	if err := os.Rename(filepath.Join(p.guest, ".git"), elsewhere); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(p.guest, ".git"), "gitdir: "+elsewhere+"\n")
	writeFile(t, filepath.Join(elsewhere, "lfs/objects", lfsPath(strings.Repeat("c3", 32))), "x")
	if o = p.only(true); o.LFS != 1 {
		t.Errorf("behind a .git file: %+v", o)
	}
}

// Two clones of one repository whose remotes were taken away share their refs
// when they are fetched again: the second takes none of the first one's commits
// out of all refs.
func TestFetchOfAnotherClone(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "x")
	p.sync()
	base := p.gitG("rev-parse", "HEAD")
	fetch := func() []string {
		t.Helper()
		h, g := p.observe()
		p.peer.Fresh = true
		_, notes, err := Fetch(t.Context(), p.peer, h, *g)
		if err != nil {
			t.Fatal(err)
		}
		return notes
	}
	p.commitG("b", "x")
	first := p.commitG("c", "x")
	if notes := fetch(); len(notes) != 0 {
		t.Errorf("a clone that went on: %q", notes)
	}
	p.gitG("reset", "-q", "--hard", base) // as a second clone is
	second := p.commitG("d", "x")
	if notes := fetch(); len(notes) != 1 || !strings.Contains(notes[0], keptRefs+p.remote.Name+"/main-"+first[:10]) {
		t.Errorf("another clone: %q", notes)
	}
	for _, oid := range []string{first, second} {
		if p.gitH("for-each-ref", "--contains", oid) == "" {
			t.Errorf("%s is in no ref", oid)
		}
	}
	p.gitG("reset", "-q", "--hard", first)
	if notes := fetch(); len(notes) != 1 || strings.Contains(notes[0], first[:10]) {
		t.Errorf("the first one again: %q", notes)
	}
	if o := p.only(false); o.Holds() {
		t.Errorf("%+v", o)
	}
}

// A branch or a tag whose name is too long to be followed is missed with the
// clone, unless another ref has its commits here.
func TestOnlyOddNames(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "x")
	p.sync()
	branch, tag := strings.Repeat("b", 201), strings.Repeat("t", 210)
	p.gitG("branch", branch)
	p.gitG("tag", tag)
	if o := p.only(true); o.Holds() {
		t.Errorf("at a commit that is here: %+v", o)
	}
	p.gitG("switch", "-q", branch)
	p.commitG("b", "x")
	p.gitG("switch", "-q", "main")
	p.gitG("tag", "-f", "-a", "-m", "x", tag)
	if o := p.only(true); !slices.Equal(o.Refs, []string{"heads/" + branch, "tags/" + tag}) || !o.Holds() {
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
			p := newPair(t, "--object-format="+format)
			p.commitH("a", "x")
			p.sync()
			p.gitG("switch", "-q", "-c", "idea")
			idea := p.commitG("b", "x")
			_, g := p.observe()
			p.gitH(args...)
			r, err := Find(p.host)
			if err != nil {
				t.Fatal(err)
			}
			h, err := Observe(t.Context(), r, p.remote.Name)
			if err == nil || !h.NoBranch || len(News(h, *g)) != 1 {
				t.Fatalf("%s: %v %+v", what, err, h)
			}
			if _, _, err := Fetch(t.Context(), p.peer, &h, *g); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got := p.gitH("rev-parse", p.remote.Name+"/idea"); got != idea {
				t.Errorf("%s: %s", what, got)
			}
			said, why := p.peer.Conn.Probe(t.Context(), OnlyProbes(p.guest))
			if o, err := FindOnly(t.Context(), h, true, *g, News(h, *g), said, why); err != nil || o.Holds() {
				t.Errorf("%s: %v %+v", what, err, o)
			}
		}
	}
}

// A folder in the clone that its user cannot read is said, and hides no
// repository beside it.
func TestOnlyBesideAClosedFolder(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "x")
	p.sync()
	closed, own := filepath.Join(p.guest, "closed"), filepath.Join(p.guest, "own")
	mkdir(t, closed)
	mkdir(t, own)
	gitIn(t, own, p.s.home, "init", "-q")
	gitIn(t, own, p.s.home, "commit", "-q", "--allow-empty", "-m", "x")
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(closed, 0o755) })
	if os.Geteuid() == 0 { // whom it does not keep out
		p.s.path = filepath.Join(p.s.home, "bin")
		find := filepath.Join(p.s.path, "find")
		writeFile(t, find, "#!/bin/sh\n/usr/bin/find \"$@\"\necho 'find: closed: Permission denied' >&2\nexit 1\n")
		if err := os.Chmod(find, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o := p.only(true)
	if !slices.Equal(o.Incomplete, []string{"folders in it cannot be read by its user"}) ||
		!slices.Contains(o.Inside, Inside{Path: "own", Kind: "repository", Commits: 1}) {
		t.Errorf("%+v", o)
	}
}

// A git status that fails in the guest is not taken for a clean work tree.
func TestGuestStatusFails(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "x")
	p.sync()
	writeFile(t, filepath.Join(p.guest, "b"), "x")
	if es, err := GuestStatus(t.Context(), p.peer); err != nil || len(es) != 1 {
		t.Errorf("%v %v", es, err)
	}
	writeFile(t, filepath.Join(p.guest, ".git/index"), "no index")
	if es, err := GuestStatus(t.Context(), p.peer); err == nil {
		t.Errorf("it failed, and said %v", es)
	}
}

// What was sent from here without being committed is not committed there
// either: that is said, for it may be here no more.
func TestOnlyWithSentFiles(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "x")
	p.sync()
	writeFile(t, filepath.Join(p.host, "sent"), "x")
	h, g := p.observe()
	if said, err := SendUncommitted(t.Context(), p.peer, *h, g); err != nil || !strings.Contains(said, "its folder shows it") {
		t.Fatal(said, err)
	}
	if o := p.only(true); !o.Holds() {
		t.Errorf("%+v", o)
	}
	const says = "files that are not committed (some may have been sent from here by --include-uncommitted): "
	if o := p.only(true); !slices.Equal(o.Lines(), []string{says + "sent"}) {
		t.Errorf("%q", o.Lines())
	}
	p.gitG("switch", "-q", "-c", "other")
	if o := p.only(true); !slices.Equal(o.Lines(), []string{says + "sent"}) {
		t.Errorf("taken to another branch: %q", o.Lines())
	}
}
