package protect_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/protect"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// The descriptors of the daemon below are those of a shell: what it opens it
// opens as virtiofsd does, and writes through /proc/self/fd as virtiofsd does.
const keeps = "--inode-file-handles=never"

// stands says how the protection stands now, as its owner sees it.
func stands(t *testing.T, src string, o record.Bind) error {
	t.Helper()
	p, err := protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	return p.Holds(src, roottest.One(t, filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)))
}

// heldOpen wants the paths, and no others, to be known as open to the guest.
func heldOpen(t *testing.T, src string, o record.Bind, paths ...string) {
	t.Helper()
	err := stands(t, src, o)
	e := new(protect.OpenError)
	if !errors.As(err, &e) || !slices.Equal(e.Paths, paths) {
		t.Errorf("%v: want the VM to hold open %v", err, paths)
	}
}

// replace saves a file as most editors and git do.
func replace(t *testing.T, src, rel, text string) {
	t.Helper()
	tmp := filepath.Join(src, rel+".lock")
	roottest.Must(t, os.WriteFile(tmp, []byte(text), 0o644))
	roottest.Must(t, os.Rename(tmp, filepath.Join(src, rel)))
}

// TestProtectHeldDescriptor: what the guest opened while a file was being
// replaced here stays open after the mount is back, for writing or to be opened
// again for writing. It is found, until it is closed.
func TestProtectHeldDescriptor(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := daemonFor(t, work)
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	roottest.Do(t, o)
	roottest.Must(t, stands(t, src, o))
	closed := func() {
		t.Helper()
		roottest.Do(t, o)
		if err := stands(t, src, o); err != nil {
			t.Errorf("with nothing open: %v", err)
		}
		holdsInGuest(d, at)
	}
	for how, open := range map[string]string{
		"for writing":    "exec 7>>" + at + "/.git/config",
		"and can reopen": "exec 7<" + at + "/.git/config", // as an O_PATH descriptor
	} {
		replace(t, src, ".git/config", "[core]\n")
		if err := stands(t, src, o); err == nil || !strings.Contains(err.Error(), ".git/config was replaced") {
			t.Errorf("%s: %v", how, err)
		}
		d.OK(open)
		for range 2 {
			roottest.Do(t, o)
			heldOpen(t, src, o, ".git/config")
		}
		d.Fails("echo evil >"+at+"/.git/config", "Read-only")
		d.OK("echo '\thooksPath = evil' >>/proc/self/fd/7") // so it is a hole
		if b, _ := os.ReadFile(filepath.Join(src, ".git/config")); !strings.Contains(string(b), "evil") {
			t.Fatalf("%s: the attack does not work: %q", how, b)
		}
		d.OK("exec 7>&-")
		closed()
	}

	// By a second name that is gone again, and by one that stays.
	replace(t, src, "Makefile", "all:\n")
	d.OK("ln " + at + "/Makefile " + at + "/x && exec 7<" + at + "/x && rm " + at + "/x")
	roottest.Do(t, o)
	heldOpen(t, src, o, "Makefile")
	d.OK("exec 7<&-")
	closed()
	replace(t, src, "Makefile", "all:\n")
	d.OK("ln " + at + "/Makefile " + at + "/second")
	roottest.Do(t, o)
	if err := stands(t, src, o); err == nil || !strings.Contains(err.Error(), "Makefile has a second name") {
		t.Errorf("%v", err)
	}
	roottest.Must(t, os.Remove(filepath.Join(src, "second")))
	closed()

	// A protected directory: the directory itself, one in it, a file in it.
	roottest.Must(t, os.MkdirAll(filepath.Join(src, ".git/hooks/lib/deep"), 0o755))
	roottest.Do(t, o)
	for _, open := range []string{"", "/lib/deep", "/lib/f"} {
		roottest.Must(t, os.Rename(filepath.Join(src, ".git/hooks"), filepath.Join(src, "away")))
		roottest.Must(t, os.RemoveAll(filepath.Join(src, "away")))
		roottest.Must(t, os.MkdirAll(filepath.Join(src, ".git/hooks/lib/deep"), 0o755))
		roottest.Must(t, os.WriteFile(filepath.Join(src, ".git/hooks/lib/f"), nil, 0o644))
		roottest.Must(t, os.WriteFile(filepath.Join(src, ".git/hooks/pre-commit"), nil, 0o755))
		d.OK("exec 7<" + at + "/.git/hooks" + open)
		roottest.Do(t, o)
		heldOpen(t, src, o, ".git/hooks")
		d.OK("exec 7<&-")
		closed()
	}
	// What moves into it here may be open in the guest.
	roottest.Must(t, os.WriteFile(filepath.Join(src, "web/commit-msg"), nil, 0o755))
	d.OK("exec 7<" + at + "/web/commit-msg")
	roottest.Must(t, os.Rename(filepath.Join(src, "web/commit-msg"), filepath.Join(src, ".git/hooks/commit-msg")))
	if err := stands(t, src, o); err == nil {
		t.Error("a file that moved into a protected directory is not noticed")
	}
	roottest.Do(t, o)
	heldOpen(t, src, o, ".git/hooks")
	d.OK("exec 7<&-")
	closed()
}

// TestProtectHeldBeforeIt: what the guest holds from before the folder was
// protected, or before another of its files was; a directory on the way is
// enough, for what is found from there is found without the mounts.
func TestProtectHeldBeforeIt(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := daemonFor(t, work)
	src, o := project(t, work)
	roottest.Must(t, os.MkdirAll(filepath.Join(src, "web/src/deep"), 0o755))
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	paths := o.Protect
	o.Protect = nil
	roottest.Do(t, o)
	for open, want := range map[string][]string{
		"/Makefile":     {"Makefile"},
		"/.git":         {".git/config", ".git/hooks"},
		"/web":          {"web/package.json"},
		"/web/src/deep": nil, // ".." leads onto the mounts
		"/.git/hooks":   {".git/hooks"},
	} {
		d.OK("exec 7<" + at + open)
		o.Protect = paths
		// As a Bind that finds its token served; the one that replaces it is
		// refused while something is open.
		roottest.Do(t, o)
		if want == nil {
			roottest.Must(t, stands(t, src, o))
		} else {
			heldOpen(t, src, o, want...)
		}
		switch open {
		case "/web":
			d.OK("echo evil >/proc/self/fd/7/package.json") // so it is a hole
		case "/web/src/deep":
			d.Fails("echo evil >/proc/self/fd/7/../../package.json", "Read-only")
		}
		d.OK("exec 7<&-")
		roottest.Do(t, o)
		roottest.Must(t, stands(t, src, o))
		roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: o.Token})
		o.Protect = nil
		roottest.Do(t, o)
	}
	// Another file comes to be protected, in a directory the guest has open.
	o.Protect = paths[:3]
	roottest.Do(t, o)
	roottest.Must(t, stands(t, src, o))
	d.OK("exec 7<" + at + "/web")
	o.Protect = paths
	roottest.Do(t, o)
	heldOpen(t, src, o, "web/package.json")
	d.OK("exec 7<&-")
	roottest.Do(t, o)
	roottest.Must(t, stands(t, src, o))
}

// TestProtectFileHandles: a daemon that opens by file handles shows nothing of
// what the guest remembers. What was bare while it ran is not known to be
// protected before it ends.
func TestProtectFileHandles(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	src, o := project(t, work)
	roottest.Do(t, o)
	d := daemonFor(t, work, "--inode-file-handles=prefer")
	for range 2 {
		roottest.Do(t, o)
		roottest.Must(t, stands(t, src, o)) // it found every mount in place
	}
	replace(t, src, "Makefile", "all:\n")
	for range 2 {
		roottest.Do(t, o)
		heldOpen(t, src, o, "Makefile")
	}
	d.End()
	roottest.Do(t, o)
	d = daemonFor(t, work, "--inode-file-handles=prefer")
	roottest.Do(t, o)
	roottest.Must(t, stands(t, src, o))
	// A run that was killed before it wrote down what it had done.
	replace(t, src, "Makefile", "all:\n")
	ms, err := mountinfo.Read(mountinfo.Self)
	roottest.Must(t, err)
	all, err := mount.Copies(roottest.One(t, filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)), mountinfo.At(ms, rootfile.ExportRoot(roottest.Key))[0])
	roottest.Must(t, err)
	for _, c := range all {
		if _, _, err := protect.Ensure(c, o.Protect); err != nil {
			t.Fatal(err)
		}
	}
	roottest.Do(t, o)
	heldOpen(t, src, o, "Makefile")
	d.End()
	roottest.Do(t, o)
	daemonFor(t, work)
	roottest.Do(t, o)
	roottest.Must(t, stands(t, src, o))
}

// TestProtectSameInode: the number of a file that is gone is given to the next
// one, and a file can lose its name and get it back; the mount is gone each time.
func TestProtectSameInode(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := daemonFor(t, work)
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	file := filepath.Join(src, "Makefile")
	for name, change := range map[string]func(){
		"twice": func() {
			for range 2 {
				replace(t, src, "Makefile", "all:\n")
			}
		},
		"again": func() {
			roottest.Must(t, os.Remove(file))
			roottest.Must(t, os.WriteFile(file, []byte("all:\n"), 0o644))
		},
		"by a link": func() {
			roottest.Must(t, os.Link(file, file+"2"))
			roottest.Must(t, os.Remove(file))
			roottest.Must(t, os.Rename(file+"2", file))
		},
	} {
		roottest.Do(t, o)
		roottest.Must(t, stands(t, src, o))
		change()
		if _, code := d.Run("echo evil >" + at + "/Makefile"); code != 0 {
			t.Errorf("%s: the mount is still there", name)
		}
		if err := stands(t, src, o); err == nil {
			t.Errorf("%s: it counts as protected, and the guest wrote it", name)
		}
	}
	// A save in place changes no name: no hole, and nobody is bothered.
	roottest.Do(t, o)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	roottest.Must(t, err)
	_, err = f.WriteString("more:\n")
	roottest.Must(t, err)
	roottest.Must(t, f.Close())
	roottest.Must(t, stands(t, src, o))
	d.Fails("echo evil >"+at+"/Makefile", "Read-only")
	// What leads through a link by now is not said to be protected.
	roottest.Must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	roottest.Must(t, os.Symlink("web2", filepath.Join(src, "web")))
	roottest.Do(t, o)
	if err := stands(t, src, o); err == nil || !strings.Contains(err.Error(), "web/package.json") {
		t.Errorf("%v", err)
	}
}

func TestKeepsDescriptors(t *testing.T) {
	for version, want := range map[string]bool{
		"virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nusing FUSE kernel interface version 7.36\n": true,
		"virtiofsd 1.13.2\n": true, "virtiofsd backend 1.10.0\n": true, "virtiofsd 1.14.0\n": false, "virtiofsd 2.0.0\n": false, "": false, "sh: no\n": false, "virtiofsd": false, "virtiofsd 1": false,
	} {
		if protect.KeepsDescriptors(version) != want {
			t.Errorf("%q: %v", version, !want)
		}
	}
}
