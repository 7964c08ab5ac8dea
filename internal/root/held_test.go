package root

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// The descriptors of the daemon below are those of a shell: what it opens it
// opens as virtiofsd does, and writes through /proc/self/fd as virtiofsd does.
const keeps = "--inode-file-handles=never"

// stands says how the protection stands now, as its owner sees it.
func stands(t *testing.T, src string, o Bind) error {
	t.Helper()
	p, err := ReadProtection(testKey, o.Token)
	must(t, err)
	return p.Holds(src, one(t, filepath.Join(ExportRoot(testKey), o.Token)))
}

// heldOpen wants the paths, and no others, to be known as open to the guest.
func heldOpen(t *testing.T, src string, o Bind, paths ...string) {
	t.Helper()
	err := stands(t, src, o)
	e := new(OpenError)
	if !errors.As(err, &e) || !slices.Equal(e.Paths, paths) {
		t.Errorf("%v: want the VM to hold open %v", err, paths)
	}
}

// replace saves a file as most editors and git do.
func replace(t *testing.T, src, rel, text string) {
	t.Helper()
	tmp := filepath.Join(src, rel+".lock")
	must(t, os.WriteFile(tmp, []byte(text), 0o644))
	must(t, os.Rename(tmp, filepath.Join(src, rel)))
}

// TestProtectHeldDescriptor: what the guest opened while a file was being
// replaced here stays open after the mount is back, for writing or to be opened
// again for writing. It is found, until it is closed.
func TestProtectHeldDescriptor(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	d := daemonFor(t, work)
	src, o := project(t, work)
	at := filepath.Join(ExportRoot(testKey), o.Token)
	do(t, o)
	must(t, stands(t, src, o))
	closed := func() {
		t.Helper()
		do(t, o)
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
		d.ok(open)
		for range 2 {
			do(t, o)
			heldOpen(t, src, o, ".git/config")
		}
		d.fails("echo evil >"+at+"/.git/config", "Read-only")
		d.ok("echo '\thooksPath = evil' >>/proc/self/fd/7") // so it is a hole
		if b, _ := os.ReadFile(filepath.Join(src, ".git/config")); !strings.Contains(string(b), "evil") {
			t.Fatalf("%s: the attack does not work: %q", how, b)
		}
		d.ok("exec 7>&-")
		closed()
	}

	// By a second name that is gone again, and by one that stays.
	replace(t, src, "Makefile", "all:\n")
	d.ok("ln " + at + "/Makefile " + at + "/x && exec 7<" + at + "/x && rm " + at + "/x")
	do(t, o)
	heldOpen(t, src, o, "Makefile")
	d.ok("exec 7<&-")
	closed()
	replace(t, src, "Makefile", "all:\n")
	d.ok("ln " + at + "/Makefile " + at + "/second")
	do(t, o)
	if err := stands(t, src, o); err == nil || !strings.Contains(err.Error(), "Makefile has a second name") {
		t.Errorf("%v", err)
	}
	must(t, os.Remove(filepath.Join(src, "second")))
	closed()

	// A protected directory: the directory itself, one in it, a file in it.
	must(t, os.MkdirAll(filepath.Join(src, ".git/hooks/lib/deep"), 0o755))
	do(t, o)
	for _, open := range []string{"", "/lib/deep", "/lib/f"} {
		must(t, os.Rename(filepath.Join(src, ".git/hooks"), filepath.Join(src, "away")))
		must(t, os.RemoveAll(filepath.Join(src, "away")))
		must(t, os.MkdirAll(filepath.Join(src, ".git/hooks/lib/deep"), 0o755))
		must(t, os.WriteFile(filepath.Join(src, ".git/hooks/lib/f"), nil, 0o644))
		must(t, os.WriteFile(filepath.Join(src, ".git/hooks/pre-commit"), nil, 0o755))
		d.ok("exec 7<" + at + "/.git/hooks" + open)
		do(t, o)
		heldOpen(t, src, o, ".git/hooks")
		d.ok("exec 7<&-")
		closed()
	}
	// What moves into it here may be open in the guest.
	must(t, os.WriteFile(filepath.Join(src, "web/commit-msg"), nil, 0o755))
	d.ok("exec 7<" + at + "/web/commit-msg")
	must(t, os.Rename(filepath.Join(src, "web/commit-msg"), filepath.Join(src, ".git/hooks/commit-msg")))
	if err := stands(t, src, o); err == nil {
		t.Error("a file that moved into a protected directory is not noticed")
	}
	do(t, o)
	heldOpen(t, src, o, ".git/hooks")
	d.ok("exec 7<&-")
	closed()
}

// TestProtectHeldBeforeIt: what the guest holds from before the folder was
// protected, or before another of its files was; a directory on the way is
// enough, for what is found from there is found without the mounts.
func TestProtectHeldBeforeIt(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	d := daemonFor(t, work)
	src, o := project(t, work)
	must(t, os.MkdirAll(filepath.Join(src, "web/src/deep"), 0o755))
	at := filepath.Join(ExportRoot(testKey), o.Token)
	paths := o.Protect
	o.Protect = nil
	do(t, o)
	for open, want := range map[string][]string{
		"/Makefile":     {"Makefile"},
		"/.git":         {".git/config", ".git/hooks"},
		"/web":          {"web/package.json"},
		"/web/src/deep": nil, // ".." leads onto the mounts
		"/.git/hooks":   {".git/hooks"},
	} {
		d.ok("exec 7<" + at + open)
		o.Protect = paths
		// As a Bind that finds its token served; the one that replaces it is
		// refused while something is open.
		do(t, o)
		if want == nil {
			must(t, stands(t, src, o))
		} else {
			heldOpen(t, src, o, want...)
		}
		switch open {
		case "/web":
			d.ok("echo evil >/proc/self/fd/7/package.json") // so it is a hole
		case "/web/src/deep":
			d.fails("echo evil >/proc/self/fd/7/../../package.json", "Read-only")
		}
		d.ok("exec 7<&-")
		do(t, o)
		must(t, stands(t, src, o))
		do(t, Unbind{VMKey: testKey, Token: o.Token})
		o.Protect = nil
		do(t, o)
	}
	// Another file comes to be protected, in a directory the guest has open.
	o.Protect = paths[:3]
	do(t, o)
	must(t, stands(t, src, o))
	d.ok("exec 7<" + at + "/web")
	o.Protect = paths
	do(t, o)
	heldOpen(t, src, o, "web/package.json")
	d.ok("exec 7<&-")
	do(t, o)
	must(t, stands(t, src, o))
}

// TestProtectFileHandles: a daemon that opens by file handles shows nothing of
// what the guest remembers. What was bare while it ran is not known to be
// protected before it ends.
func TestProtectFileHandles(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	src, o := project(t, work)
	do(t, o)
	d := daemonFor(t, work, "--inode-file-handles=prefer")
	for range 2 {
		do(t, o)
		must(t, stands(t, src, o)) // it found every mount in place
	}
	replace(t, src, "Makefile", "all:\n")
	for range 2 {
		do(t, o)
		heldOpen(t, src, o, "Makefile")
	}
	d.end()
	do(t, o)
	d = daemonFor(t, work, "--inode-file-handles=prefer")
	do(t, o)
	must(t, stands(t, src, o))
	// A run that was killed before it wrote down what it had done.
	replace(t, src, "Makefile", "all:\n")
	ms, err := mountinfo.Read(mountinfo.Self)
	must(t, err)
	all, err := copies(one(t, filepath.Join(ExportRoot(testKey), o.Token)), mountinfo.At(ms, ExportRoot(testKey))[0])
	must(t, err)
	for _, c := range all {
		if _, _, err := c.ensure(o.Protect); err != nil {
			t.Fatal(err)
		}
	}
	do(t, o)
	heldOpen(t, src, o, "Makefile")
	d.end()
	do(t, o)
	daemonFor(t, work)
	do(t, o)
	must(t, stands(t, src, o))
}

// TestProtectSameInode: the number of a file that is gone is given to the next
// one, and a file can lose its name and get it back; the mount is gone each time.
func TestProtectSameInode(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	d := daemonFor(t, work)
	src, o := project(t, work)
	at := filepath.Join(ExportRoot(testKey), o.Token)
	file := filepath.Join(src, "Makefile")
	for name, change := range map[string]func(){
		"twice": func() {
			for range 2 {
				replace(t, src, "Makefile", "all:\n")
			}
		},
		"again": func() { must(t, os.Remove(file)); must(t, os.WriteFile(file, []byte("all:\n"), 0o644)) },
		"by a link": func() {
			must(t, os.Link(file, file+"2"))
			must(t, os.Remove(file))
			must(t, os.Rename(file+"2", file))
		},
	} {
		do(t, o)
		must(t, stands(t, src, o))
		change()
		if _, code := d.run("echo evil >" + at + "/Makefile"); code != 0 {
			t.Errorf("%s: the mount is still there", name)
		}
		if err := stands(t, src, o); err == nil {
			t.Errorf("%s: it counts as protected, and the guest wrote it", name)
		}
	}
	// A save in place changes no name: no hole, and nobody is bothered.
	do(t, o)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString("more:\n")
	must(t, err)
	must(t, f.Close())
	must(t, stands(t, src, o))
	d.fails("echo evil >"+at+"/Makefile", "Read-only")
	// What leads through a link by now is not said to be protected.
	must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	must(t, os.Symlink("web2", filepath.Join(src, "web")))
	do(t, o)
	if err := stands(t, src, o); err == nil || !strings.Contains(err.Error(), "web/package.json") {
		t.Errorf("%v", err)
	}
}

func TestKeepsDescriptors(t *testing.T) {
	for version, want := range map[string]bool{
		"virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nusing FUSE kernel interface version 7.36\n": true,
		"virtiofsd 1.13.2\n": true, "virtiofsd backend 1.10.0\n": true, "virtiofsd 1.14.0\n": false, "virtiofsd 2.0.0\n": false, "": false, "sh: no\n": false, "virtiofsd": false, "virtiofsd 1": false,
	} {
		if keepsDescriptors(version) != want {
			t.Errorf("%q: %v", version, !want)
		}
	}
}
