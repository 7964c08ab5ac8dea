package gitsync_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/pull"
	"aivm.dev/aivm/gitsync/transfer"
)

// What aivm does with an object of a guest that has a fault.
const (
	accepted = "accepted"      // with a warning: hosters accept it
	adjusted = "adjusted"      // refused, unless the user's fetch.fsck.ID accepts it
	refused  = "refused"       // whatever the user's settings are
	info     = "info"          // git itself accepts it
	notSent  = "not an object" // about refs, or of an object that no pack has
)

// faultClasses has every fault that git knows (fsck.h, up to 2.51), with what aivm does.
var faultClasses = map[string]string{
	"badTimezone": accepted, "missingSpaceBeforeDate": accepted, "zeroPaddedFilemode": accepted,

	"badDate": adjusted, "badDateOverflow": adjusted, "badEmail": adjusted, "badName": adjusted, "missingEmail": adjusted,
	"missingNameBeforeEmail": adjusted, "missingSpaceBeforeEmail": adjusted, "multipleAuthors": adjusted, "zeroPaddedDate": adjusted,

	"badFilemode": info, "badTagName": info, "extraHeaderEntry": info, "gitattributesSymlink": info, "gitignoreSymlink": info,
	"gitmodulesParse": info, "mailmapSymlink": info, "missingTaggerEntry": info,

	"badGpgsig": refused, "badHeaderContinuation": refused,
	"badObjectSha1": refused, "badParentSha1": refused, "badTree": refused, "badTreeSha1": refused, "badType": refused,
	"duplicateEntries": refused, "emptyName": refused, "fullPathname": refused,
	"gitattributesBlob": refused, "gitattributesLarge": refused, "gitattributesLineLength": refused, "gitattributesMissing": refused,
	"gitmodulesBlob": refused, "gitmodulesLarge": refused, "gitmodulesMissing": refused, "gitmodulesName": refused,
	"gitmodulesPath": refused, "gitmodulesSymlink": refused, "gitmodulesUpdate": refused, "gitmodulesUrl": refused,
	"hasDot": refused, "hasDotdot": refused, "hasDotgit": refused, "largePathname": refused,
	"missingAuthor": refused, "missingCommitter": refused, "missingObject": refused, "missingTag": refused, "missingTagEntry": refused,
	"missingTree": refused, "missingType": refused, "missingTypeEntry": refused, "nulInCommit": refused, "nulInHeader": refused,
	"nullSha1": refused, "treeNotSorted": refused, "unknownType": refused, "unterminatedHeader": refused,

	"missingTreeObject": notSent, "badTagObject": notSent, "badHeadTarget": notSent, "badPackedRefEntry": notSent, "badPackedRefHeader": notSent,
	"badRefContent": notSent, "badRefFiletype": notSent, "badRefName": notSent, "badRefOid": notSent, "badReferentName": notSent,
	"badReftableTableName": notSent, "emptyPackedRefsFile": notSent, "packedRefEntryNotTerminated": notSent, "packedRefUnsorted": notSent,
	"refMissingNewline": notSent, "symlinkRef": notSent, "symrefTargetIsNotARef": notSent, "trailingRefContent": notSent,
}

// faulty builds objects in the guest's clone as no git of today writes them.
type faulty struct {
	p    *clonetest.Pair
	id   string
	objs []string // what the guest sends
	blob string
	tree string
}

func (f *faulty) object(kind, text string) string {
	oid := f.p.FeedG(text, "hash-object", "-t", kind, "-w", "--literally", "--stdin")
	f.objs = append(f.objs, oid)
	return oid
}

// entry returns an entry of a tree.
func (f *faulty) entry(mode, name, oid string) string {
	b := make([]byte, 20)
	for i := range b {
		_, _ = fmt.Sscanf(oid[2*i:2*i+2], "%x", &b[i])
	}
	return mode + " " + name + "\x00" + string(b)
}

const person = "A <a@example.org> 1 +0000"

// commit returns a commit of a tree; each pair replaces a text of it.
func (f *faulty) commit(tree string, replace ...string) string {
	text := "tree " + tree + "\nauthor " + person + "\ncommitter " + person + "\n\nold " + f.id + "\n"
	return f.object("commit", strings.NewReplacer(replace...).Replace(text))
}

// at returns a commit of a tree with the entries.
func (f *faulty) at(entries ...string) string {
	return f.commit(f.object("tree", strings.Join(entries, "")))
}

// file returns a commit of a tree with one file of this content.
func (f *faulty) file(mode, name, text string) string {
	return f.at(f.entry(mode, name, f.object("blob", text)))
}

// tag returns a tag of a good commit, and the lines of its header.
func (f *faulty) tag(text string) string {
	c := f.commit(f.tree)
	f.object("tag", strings.ReplaceAll(text, "COMMIT", c))
	return c
}

// faultBuilders build a branch with one fault each, and return its tip.
var faultBuilders = map[string]func(f *faulty) string{
	"badTimezone":            func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A <a@example.org> 1 +51800") },
	"missingSpaceBeforeDate": func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A <a@example.org>1 +0000") },
	"zeroPaddedFilemode":     func(f *faulty) string { return f.at(f.entry("040000", "sub", f.tree)) },
	"badDate":                func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A <a@example.org> x +0000") },
	"badDateOverflow": func(f *faulty) string {
		return f.commit(f.tree, "author "+person, "author A <a@example.org> 99999999999999999999999 +0000")
	},
	"badEmail":                func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A <a@example.org 1 +0000") },
	"badName":                 func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A> <a@example.org> 1 +0000") },
	"missingEmail":            func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A 1 +0000") },
	"missingNameBeforeEmail":  func(f *faulty) string { return f.commit(f.tree, "author "+person, "author <a@example.org> 1 +0000") },
	"missingSpaceBeforeEmail": func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A<a@example.org> 1 +0000") },
	"multipleAuthors": func(f *faulty) string {
		return f.commit(f.tree, "committer", "author B <b@example.org> 1 +0000\ncommitter")
	},
	"zeroPaddedDate":   func(f *faulty) string { return f.commit(f.tree, "author "+person, "author A <a@example.org> 01 +0000") },
	"missingAuthor":    func(f *faulty) string { return f.commit(f.tree, "author "+person+"\n", "") },
	"missingCommitter": func(f *faulty) string { return f.commit(f.tree, "committer "+person+"\n", "") },
	"missingTree":      func(f *faulty) string { return f.commit(f.tree, "tree "+f.tree+"\n", "") },
	"badTreeSha1":      func(f *faulty) string { return f.commit("xyz") },
	"badParentSha1":    func(f *faulty) string { return f.commit(f.tree, "author "+person, "parent xyz\nauthor "+person) },
	"nulInCommit":      func(f *faulty) string { return f.commit(f.tree, "old", "o\x00d") },
	"nulInHeader":      func(f *faulty) string { return f.commit(f.tree, "committer A", "committer A\x00") },
	"unterminatedHeader": func(f *faulty) string {
		return f.object("commit", "tree "+f.tree+"\nauthor "+person+"\ncommitter "+person)
	},
	"badTree":          func(f *faulty) string { return f.at("100644 x") },
	"duplicateEntries": func(f *faulty) string { return f.at(f.entry("100644", "x", f.blob), f.entry("100644", "x", f.blob)) },
	"emptyName":        func(f *faulty) string { return f.at(f.entry("100644", "", f.blob)) },
	"fullPathname":     func(f *faulty) string { return f.at(f.entry("100644", "/etc/passwd", f.blob)) },
	"hasDot":           func(f *faulty) string { return f.at(f.entry("40000", ".", f.tree)) },
	"hasDotdot":        func(f *faulty) string { return f.at(f.entry("40000", "..", f.tree)) },
	"hasDotgit":        func(f *faulty) string { return f.at(f.entry("40000", ".GIT", f.tree)) },
	"nullSha1":         func(f *faulty) string { return f.at(f.entry("100644", "x", strings.Repeat("0", 40))) },
	"treeNotSorted":    func(f *faulty) string { return f.at(f.entry("100644", "y", f.blob), f.entry("100644", "x", f.blob)) },
	"largePathname":    func(f *faulty) string { return f.at(f.entry("100644", strings.Repeat("x", 5000), f.blob)) },

	"gitmodulesBlob":    func(f *faulty) string { return f.at(f.entry("100644", ".gitmodules", f.tree)) },
	"gitmodulesSymlink": func(f *faulty) string { return f.file("120000", ".gitmodules", "x") },
	"gitmodulesName": func(f *faulty) string {
		return f.file("100644", ".gitmodules", "[submodule \"../../x\"]\npath = x\nurl = x\n")
	},
	"gitmodulesPath": func(f *faulty) string {
		return f.file("100644", ".gitmodules", "[submodule \"x\"]\npath = -x\nurl = x\n")
	},
	"gitmodulesUrl": func(f *faulty) string {
		return f.file("100644", ".gitmodules", "[submodule \"x\"]\npath = x\nurl = -ux\n")
	},
	"gitmodulesUpdate": func(f *faulty) string {
		return f.file("100644", ".gitmodules", "[submodule \"x\"]\npath = x\nurl = x\nupdate = !touch x\n")
	},
	"gitmodulesLarge":         func(f *faulty) string { return f.file("100644", ".gitmodules", strings.Repeat("#\n", 17<<20)) },
	"gitmodulesMissing":       func(f *faulty) string { return f.at(f.entry("100644", ".gitmodules", strings.Repeat("1", 40))) },
	"gitattributesBlob":       func(f *faulty) string { return f.at(f.entry("100644", ".gitattributes", f.tree)) },
	"gitattributesLineLength": func(f *faulty) string { return f.file("100644", ".gitattributes", strings.Repeat("x", 3000)+"\n") },
	"gitattributesMissing":    func(f *faulty) string { return f.at(f.entry("100644", ".gitattributes", strings.Repeat("1", 40))) },

	"badFilemode":          func(f *faulty) string { return f.at(f.entry("100666", "x", f.blob)) },
	"gitattributesSymlink": func(f *faulty) string { return f.file("120000", ".gitattributes", "x") },
	"gitignoreSymlink":     func(f *faulty) string { return f.file("120000", ".gitignore", "x") },
	"mailmapSymlink":       func(f *faulty) string { return f.file("120000", ".mailmap", "x") },
	"gitmodulesParse":      func(f *faulty) string { return f.file("100644", ".gitmodules", "[unfinished") },

	"badTagName": func(f *faulty) string {
		return f.tag("object COMMIT\ntype commit\ntag a..b\ntagger " + person + "\n\nx\n")
	},
	"missingTaggerEntry": func(f *faulty) string { return f.tag("object COMMIT\ntype commit\ntag x\n\nx\n") },
	"extraHeaderEntry": func(f *faulty) string {
		return f.tag("object COMMIT\ntype commit\ntag x\ntagger " + person + "\nmore x\n\nx\n")
	},
	"badObjectSha1": func(f *faulty) string { return f.tag("object xyz\ntype commit\ntag x\ntagger " + person + "\n\nx\n") },
	"badType": func(f *faulty) string {
		return f.tag("object COMMIT\ntype nothing\ntag x\ntagger " + person + "\n\nx\n")
	},
	"missingObject":    func(f *faulty) string { return f.tag("type commit\ntag x\ntagger " + person + "\n\nx\n") },
	"missingTag":       func(f *faulty) string { return f.tag("object COMMIT\ntype commit\ntag x") },
	"missingTagEntry":  func(f *faulty) string { return f.tag("object COMMIT\ntype commit\ntagger " + person + "\n\nx\n") },
	"missingTypeEntry": func(f *faulty) string { return f.tag("object COMMIT\ntag x\ntagger " + person + "\n\nx\n") },
	"missingType":      func(f *faulty) string { return f.tag("object COMMIT\ntype commit") },
}

// unbuilt are refused faults that cannot be built in an object of a small pack.
var unbuilt = map[string]string{
	"unknownType":        "index-pack refuses the pack before",
	"gitattributesLarge": "it needs a file of 100 MB, which git streams",
	"gitmodulesLarge":    "above core.bigFileThreshold",
	"badGpgsig":          "git 2.50 and newer", "badHeaderContinuation": "git 2.50 and newer", "largePathname": "git 2.43 and newer",
}

// otherWords are of the messages that do not name the fault: git found it in another way before.
var otherWords = map[string]string{
	"badTreeSha1": "bogus commit object", "missingTree": "bogus commit object", "badParentSha1": "bad parents", "emptyName": "badTree:",
	"gitmodulesMissing": "did not receive expected object", "gitattributesMissing": "did not receive expected object",
	"badType": "unknown tag type", "badObjectSha1": "invalid tag", "missingObject": "invalid tag", "missingTag": "invalid tag",
	"missingTagEntry": "invalid tag", "missingTypeEntry": "invalid tag", "missingType": "invalid tag",
	"gitmodulesBlob": "expected type blob", "gitattributesBlob": "expected type blob",
}

// sendPack makes the guest's git send exactly the objects of f, whatever they refer to, as a hostile
// one can, and fetches the branch evil at tip.
func (f *faulty) sendPack(tip string) (notes []string, err error) {
	p := f.p
	p.T.Helper()
	dir := p.T.(*testing.T).TempDir()
	pack := p.FeedG(strings.Join(f.objs, "\n")+"\n", "pack-objects", "-q", filepath.Join(dir, "p"))
	data := gittest.ReadFile(p.T, filepath.Join(dir, "p-"+pack+".pack"))
	pkt := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	out := pkt(tip+" refs/heads/evil\x00side-band-64k ofs-delta thin-pack multi_ack\n") + "0000" + pkt("NAK\n")
	for len(data) > 0 {
		n := min(len(data), 60_000)
		out += pkt("\x01" + data[:n])
		data = data[n:]
	}
	gittest.WriteFile(p.T, filepath.Join(dir, "out"), out+"0000")
	gittest.WriteFile(p.T, filepath.Join(dir, "git"), "#!/bin/sh\ncat '"+filepath.Join(dir, "out")+"'\ncat >/dev/null\n")
	if err := os.Chmod(filepath.Join(dir, "git"), 0o755); err != nil {
		p.T.Fatal(err)
	}
	p.Server.Path = dir
	defer func() { p.Server.Path = "" }()
	h, _ := observeHost(p)
	g := compare.Guest{State: compare.Clone, Heads: map[string]string{"main": h.Head, "evil": tip}, Tags: map[string]string{}}
	_, notes, err = transfer.Fetch(context.Background(), p.Peer, &h, g)
	return notes, err
}

// TestFaultsOfOldHistory sends an object with each of the faults that git knows.
func TestFaultsOfOldHistory(t *testing.T) {
	known := map[string]bool{}
	b, err := exec.Command("git", "help", "--config").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Fields(string(b)) {
		if id, ok := strings.CutPrefix(l, "fsck."); ok && id != "skipList" {
			known[id] = true
			if faultClasses[id] == "" {
				t.Errorf("the installed git knows the fault %s: decide what aivm does with it", id)
			}
		}
	}
	if len(known) < 50 {
		t.Fatalf("git lists %d faults", len(known))
	}
	p := clonetest.New(t)
	p.CommitH("a.txt", "one\n")
	p.Sync()
	config := filepath.Join(p.Host, ".git/config")
	clean := gittest.ReadFile(t, config)
	for id, class := range faultClasses {
		build := faultBuilders[id]
		if class == notSent || unbuilt[id] != "" && build == nil || !known[id] {
			continue
		}
		if build == nil {
			t.Errorf("no object with the fault %s is tested", id)
			continue
		}
		t.Run(id, func(t *testing.T) {
			p.T = t
			f := &faulty{p: p, id: id, blob: p.GitG("rev-parse", "HEAD:a.txt"), tree: p.GitG("rev-parse", "HEAD^{tree}")}
			f.objs = []string{p.FeedG("x", "hash-object", "-w", "--stdin")}
			tip := build(f)
			fetch := func(want bool) []string {
				t.Helper()
				notes, err := f.sendPack(tip)
				_, missing := gittest.Try(p.Host, os.Getenv("HOME"), "cat-file", "-e", tip)
				if (err == nil) != want || (missing == nil) != want {
					t.Errorf("fetched: %v, %v; want %v", err, missing == nil, want)
				}
				if err != nil && !strings.Contains(err.Error(), cmp.Or(otherWords[id], id+":")) {
					t.Errorf("the message does not name the fault: %v", err)
				}
				return notes
			}
			switch class {
			case accepted:
				if notes := fetch(true); len(notes) != 1 || !strings.Contains(notes[0], id+" (1)") {
					t.Errorf("notes %q", notes)
				}
			case info:
				if notes := fetch(true); len(notes) != 0 {
					t.Errorf("notes %q", notes)
				}
			case adjusted:
				_, err := f.sendPack(tip)
				fetch(false)
				if !strings.Contains(gittest.Hints(err), "config fetch.fsck."+id+" warn") {
					t.Errorf("hints %q", gittest.Hints(err))
				}
				gittest.RunHint(t, err, "git -C "+shellescape.Quote(p.Host)+" config")
				if notes := fetch(true); len(notes) != 1 || !strings.Contains(notes[0], id+" (1)") {
					t.Errorf("notes %q", notes)
				}
			case refused:
				fetch(false)
				gittest.WriteFile(t, config, clean+"[fetch \"fsck\"]\n\t"+id+" = ignore\n")
				fetch(false)
			}
			gittest.WriteFile(t, config, clean)
			_, _ = gittest.Try(p.Host, os.Getenv("HOME"), "update-ref", "-d", "refs/remotes/aivm-vm/evil")
			if l := leftovers(p); len(l) > 0 {
				t.Errorf("temporary files remain: %v", l)
			}
		})
		p.T = t
	}
}

// TestOldHistoryEverywhere uses history with the accepted faults as any other: through both ways to
// fetch, in a pull, in what is shown, and in a push to a new clone.
func TestOldHistoryEverywhere(t *testing.T) {
	for name, borrows := range map[string]bool{"go-git": false, "the git program": true} {
		t.Run(name, func(t *testing.T) {
			p := clonetest.New(t)
			p.CommitH("a.txt", "one\n")
			p.Sync()
			if borrows { // then go-git is not used
				gittest.WriteFile(t, filepath.Join(p.Host, ".git/objects/info/alternates"), gittest.Real(t, t.TempDir())+"\n")
			}
			build := func() *faulty {
				return &faulty{p: p, blob: p.GitG("rev-parse", "HEAD:a.txt"), tree: p.GitG("rev-parse", "HEAD^{tree}")}
			}
			// Each fault, on the branch that a pull fast-forwards to.
			f := build()
			old := f.object("tree", f.entry("0100755", "a.txt", f.blob)+f.entry("040000", "sub", f.tree))
			tip := f.commit(old, "author "+person, "parent "+p.GitG("rev-parse", "HEAD")+"\nauthor A <a@example.org>1 +0000", "committer "+person, "committer A <a@example.org> 1 +51800")
			p.GitG("update-ref", "refs/heads/main", tip)
			h, g := p.Observe()
			moved, notes, err := transfer.Fetch(t.Context(), p.Peer, h, *g)
			if err != nil || len(moved) != 1 || len(notes) != 1 {
				t.Fatalf("%v %v %q", err, moved, notes)
			}
			for _, id := range []string{"badTimezone (1)", "missingSpaceBeforeDate (1)", "zeroPaddedFilemode (1)"} {
				if !strings.Contains(notes[0], id) {
					t.Errorf("%q lacks %s", notes[0], id)
				}
			}
			// A zero before a mode hides nothing: the file that became executable is named.
			cs, err := pull.Changes(t.Context(), *h, h.Head, tip)
			if err != nil {
				t.Fatal(err)
			}
			hz, err := pull.Hazards(t.Context(), *h, cs, func(string) bool { return false })
			if err != nil || !strings.Contains(strings.Join(hz, " "), "a.txt (executable)") {
				t.Errorf("%v %q", err, hz)
			}
			if err := pull.FastForward(t.Context(), h, nil); err != nil {
				t.Fatal(err)
			}
			gittest.Equal(t, "the file", gittest.ReadFile(t, filepath.Join(p.Host, "sub/a.txt")), "one\n")
			var out strings.Builder
			if err := gitsync.Show(t.Context(), *h, &out, "log", "--date=iso", "--format=%h %ad %an: %s", "-1", "--"); err != nil || !strings.Contains(out.String(), "A: old") {
				t.Errorf("%v %q", err, out.String())
			}
			// A new clone gets it back.
			if err := os.Rename(p.Guest, p.Guest+"-old"); err != nil {
				t.Fatal(err)
			}
			p.CommitH("b.txt", "two\n")
			if pr := p.Sync(); pr != nil {
				t.Fatal(pr)
			}
			gittest.Equal(t, "the clone's parent", p.GitG("rev-parse", "HEAD~1"), tip)
			// A fault that does no harm does not cover one that does.
			f = build()
			for id, evil := range map[string]string{
				"hasDotgit":         f.at(f.entry("040000", ".git", f.tree)),
				"gitmodulesSymlink": f.at(f.entry("0120000", ".gitmodules", f.object("blob", "../x"))),
				"gitmodulesUrl":     f.at(f.entry("0100644", ".gitmodules", f.object("blob", "[submodule \"x\"]\npath = x\nurl = -ux\n"))),
			} {
				for _, set := range []string{"", "ignore", "warn"} {
					p.GitG("update-ref", "refs/heads/evil", evil)
					if set != "" {
						p.GitH("config", "fetch.fsck."+id, set)
					}
					h, g = p.Observe()
					_, _, err := transfer.Fetch(t.Context(), p.Peer, h, *g)
					if err == nil || !strings.Contains(err.Error(), "sent invalid objects") || !strings.Contains(err.Error(), id) {
						t.Errorf("%s %s: %v", id, set, err)
					}
					if _, err := gittest.Try(p.Host, os.Getenv("HOME"), "cat-file", "-e", evil); err == nil {
						t.Errorf("%s: its objects were added to the repository", id)
					}
				}
			}
			// The user's own settings: stricter, and for a fault of the author's line.
			p.GitG("update-ref", "refs/heads/evil", f.commit(f.tree, "author "+person, "author A <a@example.org> 1 +51801"))
			p.GitH("config", "fetch.fsck.badTimezone", "error")
			h, g = p.Observe()
			_, _, err = transfer.Fetch(t.Context(), p.Peer, h, *g)
			if err == nil || !strings.Contains(err.Error(), "badTimezone") {
				t.Errorf("the user's own setting was ignored: %v", err)
			}
			p.GitH("config", "fetch.fsck.badTimezone", "ignore")
			if _, notes, err := transfer.Fetch(t.Context(), p.Peer, h, *g); err != nil || len(notes) != 0 {
				t.Errorf("%v %q", err, notes)
			}
		})
	}
}
