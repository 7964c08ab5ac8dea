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

// keepDescriptors is virtiofsd's option to keep descriptors instead of file handles.
// The daemon in these tests is a shell: it opens files as virtiofsd does, and writes
// through /proc/self/fd as virtiofsd does.
const keepDescriptors = "--inode-file-handles=never"

// check checks the recorded protection as the folder's owner does.
func check(t *testing.T, src string, o record.Bind) error {
	t.Helper()
	p, err := protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	return p.Holds(src, roottest.One(t, filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)))
}

// wantOpen checks that exactly these paths are reported as open in the guest.
func wantOpen(t *testing.T, src string, o record.Bind, paths ...string) {
	t.Helper()
	err := check(t, src, o)
	e := new(protect.OpenError)
	if !errors.As(err, &e) || !slices.Equal(e.Paths, paths) {
		t.Errorf("%v: want %v to be open in the VM", err, paths)
	}
}

// replace saves a file by renaming, as most editors and git do.
func replace(t *testing.T, src, rel, text string) {
	t.Helper()
	tmp := filepath.Join(src, rel+".lock")
	roottest.Must(t, os.WriteFile(tmp, []byte(text), 0o644))
	roottest.Must(t, os.Rename(tmp, filepath.Join(src, rel)))
}

// A file that the guest opened while it was being replaced on this machine stays open
// after it is mounted again, for writing or for a reopen with write access. The check
// reports it until it is closed.
func TestProtectOpenDescriptor(t *testing.T) {
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
	roottest.Must(t, check(t, src, o))
	closed := func() {
		t.Helper()
		roottest.Do(t, o)
		if err := check(t, src, o); err != nil {
			t.Errorf("with nothing open: %v", err)
		}
		checkProtected(d, at)
	}
	for how, open := range map[string]string{
		"for writing":    "exec 7>>" + at + "/.git/config",
		"and can reopen": "exec 7<" + at + "/.git/config", // as an O_PATH descriptor
	} {
		replace(t, src, ".git/config", "[core]\n")
		if err := check(t, src, o); err == nil || !strings.Contains(err.Error(), ".git/config was replaced") {
			t.Errorf("%s: %v", how, err)
		}
		d.OK(open)
		for range 2 {
			roottest.Do(t, o)
			wantOpen(t, src, o, ".git/config")
		}
		d.Fails("echo evil >"+at+"/.git/config", "Read-only")
		d.OK("echo '\thooksPath = evil' >>/proc/self/fd/7") // the descriptor bypasses the mount
		if b, _ := os.ReadFile(filepath.Join(src, ".git/config")); !strings.Contains(string(b), "evil") {
			t.Fatalf("%s: the attack does not work: %q", how, b)
		}
		d.OK("exec 7>&-")
		closed()
	}

	// Through a second hard link: one that is removed again, and one that stays.
	replace(t, src, "Makefile", "all:\n")
	d.OK("ln " + at + "/Makefile " + at + "/x && exec 7<" + at + "/x && rm " + at + "/x")
	roottest.Do(t, o)
	wantOpen(t, src, o, "Makefile")
	d.OK("exec 7<&-")
	closed()
	replace(t, src, "Makefile", "all:\n")
	d.OK("ln " + at + "/Makefile " + at + "/second")
	roottest.Do(t, o)
	if err := check(t, src, o); err == nil || !strings.Contains(err.Error(), "Makefile has a second hard link") {
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
		wantOpen(t, src, o, ".git/hooks")
		d.OK("exec 7<&-")
		closed()
	}
	// A file that is moved into it on this machine may be open in the guest.
	roottest.Must(t, os.WriteFile(filepath.Join(src, "web/commit-msg"), nil, 0o755))
	d.OK("exec 7<" + at + "/web/commit-msg")
	roottest.Must(t, os.Rename(filepath.Join(src, "web/commit-msg"), filepath.Join(src, ".git/hooks/commit-msg")))
	if err := check(t, src, o); err == nil {
		t.Error("a file that was moved into a protected directory is not noticed")
	}
	roottest.Do(t, o)
	wantOpen(t, src, o, ".git/hooks")
	d.OK("exec 7<&-")
	closed()
}

// Files that the guest opened before the folder, or another file of it, was protected
// are reported. So are open directories in the path of a protected file, since a
// lookup from there does not meet the mounts.
func TestProtectOpenedBefore(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := startDaemon(t, work)
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
		// This Bind finds its token served. A Bind that replaces the mount would be
		// refused while something is open.
		roottest.Do(t, o)
		if want == nil {
			roottest.Must(t, check(t, src, o))
		} else {
			wantOpen(t, src, o, want...)
		}
		switch open {
		case "/web":
			d.OK("echo evil >/proc/self/fd/7/package.json") // the descriptor bypasses the mount
		case "/web/src/deep":
			d.Fails("echo evil >/proc/self/fd/7/../../package.json", "Read-only")
		}
		d.OK("exec 7<&-")
		roottest.Do(t, o)
		roottest.Must(t, check(t, src, o))
		roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: o.Token})
		o.Protect = nil
		roottest.Do(t, o)
	}
	// One more file is protected, in a directory that the guest has open.
	o.Protect = paths[:3]
	roottest.Do(t, o)
	roottest.Must(t, check(t, src, o))
	d.OK("exec 7<" + at + "/web")
	o.Protect = paths
	roottest.Do(t, o)
	wantOpen(t, src, o, "web/package.json")
	d.OK("exec 7<&-")
	roottest.Do(t, o)
	roottest.Must(t, check(t, src, o))
}

// A daemon that opens by file handles does not show which files the guest has cached.
// A path that lost its mount while it ran counts as protected only after it ended.
func TestProtectFileHandles(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	src, o := project(t, work)
	roottest.Do(t, o)
	d := startDaemon(t, work, "--inode-file-handles=prefer")
	for range 2 {
		roottest.Do(t, o)
		roottest.Must(t, check(t, src, o)) // it had all mounts from its start
	}
	replace(t, src, "Makefile", "all:\n")
	for range 2 {
		roottest.Do(t, o)
		wantOpen(t, src, o, "Makefile")
	}
	d.End()
	roottest.Do(t, o)
	d = startDaemon(t, work, "--inode-file-handles=prefer")
	roottest.Do(t, o)
	roottest.Must(t, check(t, src, o))
	// A run that was killed after mounting and before writing the record.
	replace(t, src, "Makefile", "all:\n")
	ms, err := mountinfo.Read(mountinfo.Self)
	roottest.Must(t, err)
	all, err := mount.Copies(roottest.One(t, filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)), mountinfo.At(ms, rootfile.ExportRoot(roottest.Key))[0])
	roottest.Must(t, err)
	for _, c := range all {
		if _, _, err := protect.AddMissing(c, o.Protect); err != nil {
			t.Fatal(err)
		}
	}
	roottest.Do(t, o)
	wantOpen(t, src, o, "Makefile")
	d.End()
	roottest.Do(t, o)
	startDaemon(t, work)
	roottest.Do(t, o)
	roottest.Must(t, check(t, src, o))
}

// The inode number of a deleted file is reused, and a file can lose its name and get
// it back; the kernel drops the mount each time, and the check notices it.
func TestProtectSameInode(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := startDaemon(t, work)
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
		roottest.Must(t, check(t, src, o))
		change()
		if _, code := d.Run("echo evil >" + at + "/Makefile"); code != 0 {
			t.Errorf("%s: the mount is still there", name)
		}
		if err := check(t, src, o); err == nil {
			t.Errorf("%s: the file counts as protected, and the guest wrote it", name)
		}
	}
	// A save in place changes no name: the mount stays, and the check is silent.
	roottest.Do(t, o)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	roottest.Must(t, err)
	_, err = f.WriteString("more:\n")
	roottest.Must(t, err)
	roottest.Must(t, f.Close())
	roottest.Must(t, check(t, src, o))
	d.Fails("echo evil >"+at+"/Makefile", "Read-only")
	// A path that goes through a link now does not count as protected.
	roottest.Must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	roottest.Must(t, os.Symlink("web2", filepath.Join(src, "web")))
	roottest.Do(t, o)
	if err := check(t, src, o); err == nil || !strings.Contains(err.Error(), "web/package.json") {
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
