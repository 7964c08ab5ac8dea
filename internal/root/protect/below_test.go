package protect_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/protect"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// The guest replaces a directory in the path of a protected one by a link. Root does
// not follow it: it neither reads the link's target nor records anything of it for
// the VM's owner.
func TestProtectFollowsNoLink(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := startDaemon(t, work)
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	outside := roottest.Folder(t, filepath.Join(work, "private"), 0, 0o700)
	roottest.Must(t, os.MkdirAll(filepath.Join(outside, ".husky/deep"), 0o700))
	for _, f := range []string{"secret", "deep/secret"} {
		roottest.Must(t, os.WriteFile(filepath.Join(outside, ".husky", f), nil, 0o600))
	}
	roottest.Must(t, os.MkdirAll(filepath.Join(src, "sub/.husky/deep"), 0o755))
	roottest.Must(t, os.WriteFile(filepath.Join(src, "sub/.husky/pre-commit"), nil, 0o755))
	o.Protect = append(o.Protect, "sub/.husky")
	roottest.Do(t, o)
	roottest.Must(t, check(t, src, o))
	d.Fails("echo evil >"+at+"/sub/.husky/pre-commit", "Read-only")

	roottest.Must(t, os.RemoveAll(filepath.Join(src, "sub"))) // as git switch does
	d.OK("ln -s " + outside + " " + at + "/sub")
	// The check without root does not follow the link either.
	e := new(protect.ReplacedError)
	if err := check(t, src, o); !errors.As(err, &e) || !slices.Contains(e.Paths, "sub/.husky") {
		t.Errorf("%v", err)
	}
	roottest.Do(t, o)
	p, err := protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	for rel := range p.Files {
		if strings.HasPrefix(rel, "sub/") {
			t.Errorf("root followed the guest's link to %s", rel)
		}
	}
	if _, ok := p.Paths["sub/.husky"]; ok {
		t.Error("a path through the guest's link counts as protected")
	}
	files, err := protect.CoveredFiles(o.Protect, roottest.One(t, at))
	roottest.Must(t, err)
	var st unix.Stat_t
	roottest.Must(t, unix.Stat(filepath.Join(outside, ".husky/secret"), &st))
	if of, ok := files[[2]uint64{st.Dev, st.Ino}]; ok {
		t.Errorf("a file elsewhere counts as one of %s", of)
	}
	if err := check(t, src, o); err == nil || !strings.Contains(err.Error(), "sub/.husky") {
		t.Errorf("%v", err)
	}
	checkProtected(d, at)

	// A link in a protected directory counts as a file and is not followed.
	roottest.Must(t, os.Symlink(outside, filepath.Join(src, ".git/hooks/lib")))
	roottest.Do(t, o)
	p, err = protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	if _, ok := p.Files[".git/hooks/lib"]; !ok || p.Files[".git/hooks/lib/.husky"].ID != "" {
		t.Errorf("%v", p.Files)
	}
}

// The VM could never write a file that was replaced below a protected directory,
// unlike a path that had its own mount.
func TestProtectReplacedBare(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := startDaemon(t, work)
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	roottest.Do(t, o)
	replaced := func(paths, bare string) {
		t.Helper()
		e := new(protect.ReplacedError)
		if err := check(t, src, o); !errors.As(err, &e) || strings.Join(e.Paths, " ") != paths || strings.Join(e.Bare, " ") != bare {
			t.Errorf("%+v", err)
		}
	}
	replace(t, src, ".git/hooks/pre-commit", "host\n")
	d.Fails("echo evil >"+at+"/.git/hooks/pre-commit", "Read-only")
	replaced(".git/hooks/pre-commit", "")
	replace(t, src, "Makefile", "host\n")
	d.OK("echo evil >" + at + "/Makefile")
	replaced(".git/hooks/pre-commit Makefile", "Makefile")
	// A replaced directory in the path of a protected file also counts.
	roottest.Do(t, o)
	roottest.Must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	roottest.Must(t, os.Mkdir(filepath.Join(src, "web"), 0o755))
	roottest.Must(t, os.WriteFile(filepath.Join(src, "web/package.json"), nil, 0o644))
	d.OK("echo evil >" + at + "/web/package.json")
	replaced("web web/package.json", "web web/package.json")
}
