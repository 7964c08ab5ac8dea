package protect_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/hookrun"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/protect"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// startDaemon starts a receiver that aivm takes for virtiofsd: it has the program name
// and arguments of one, and libvirt's pid file.
func startDaemon(t *testing.T, work string, more ...string) *roottest.Receiver {
	t.Helper()
	if len(more) == 0 {
		more = []string{keepDescriptors}
	}
	return startedByLibvirt(t, work, roottest.Receive(t, append([]string{fakeVirtiofsd(t, work), "-s", "source=" + rootfile.ExportRoot(roottest.Key)}, more...)...))
}

// fakeVirtiofsd returns the path of a shell called virtiofsd.
func fakeVirtiofsd(t *testing.T, work string) string {
	t.Helper()
	sh := filepath.Join(work, "virtiofsd")
	if _, err := os.Stat(sh); err == nil {
		return sh
	}
	b, err := os.ReadFile("/bin/sh")
	roottest.Must(t, err)
	roottest.Must(t, os.WriteFile(sh, b, 0o755))
	return sh
}

// startedByLibvirt writes a pid file of the process as libvirt does, in a private /run
// of the test.
func startedByLibvirt(t *testing.T, work string, r *roottest.Receiver) *roottest.Receiver {
	t.Helper()
	run := filepath.Join(work, "run")
	if _, err := os.Stat(run); os.IsNotExist(err) {
		roottest.Must(t, os.MkdirAll(filepath.Join(run, "libvirt/qemu"), 0o755))
		roottest.Must(t, unix.Mount(run, "/run", "", unix.MS_BIND, ""))
	}
	roottest.Must(t, os.WriteFile(fmt.Sprintf("%s/1-a-fs%d-fs.pid", virtiofsd.LibvirtState, r.PID), fmt.Appendln(nil, r.PID), 0o644))
	return r
}

// project makes a folder with host-executed files, and returns the record that shares
// it with these files protected.
func project(t *testing.T, work string) (string, record.Bind) {
	t.Helper()
	src := roottest.Folder(t, filepath.Join(work, "p"), 0, 0o755)
	for _, f := range []string{".git/hooks/pre-commit", ".git/config", ".git/HEAD", "Makefile", "web/package.json", "web/app.js"} {
		roottest.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(src, f)), 0o755))
		roottest.Must(t, os.WriteFile(filepath.Join(src, f), []byte(f), 0o644))
	}
	roottest.Must(t, os.Symlink("Makefile", filepath.Join(src, "justfile")))
	o := roottest.BindOf(t, src, "p-1")
	o.Protect = []string{".git/hooks", ".git/config", "Makefile", "web/package.json"}
	return src, o
}

// checkProtected checks that guest root cannot write or replace the protected paths,
// and can write the others.
func checkProtected(d *roottest.Receiver, at string) {
	d.T.Helper()
	d.Fails("echo evil >"+at+"/Makefile", "Read-only")
	d.Fails("echo evil >"+at+"/.git/config", "Read-only")
	d.Fails("echo evil >"+at+"/.git/hooks/post-checkout", "Read-only")
	d.Fails("chmod 777 "+at+"/Makefile", "Read-only")
	d.Fails("mv "+at+"/web/app.js "+at+"/Makefile", "")
	d.Fails("rm -f "+at+"/Makefile", "busy")
	d.Fails("mv "+at+"/.git "+at+"/.git2", "busy")
	d.Fails("mv "+at+"/web "+at+"/web2", "busy")
	d.Fails("mv "+at+"/.git/hooks "+at+"/.git/hooks2", "busy")
	d.Fails("rm -rf "+at+"/.git/hooks", "")
	d.Fails("ln "+at+"/Makefile "+at+"/other", "")
	d.OK("echo work >" + at + "/web/new.js && mv " + at + "/web/new.js " + at + "/web/new2.js && rm " + at + "/web/new2.js")
	d.OK("echo ref >" + at + "/.git/HEAD && mkdir " + at + "/src && mv " + at + "/src " + at + "/src2 && rmdir " + at + "/src2")
}

func TestProtectOnlyInTheDaemonsNamespace(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_SHARED)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	d := startDaemon(t, work)
	src, o := project(t, work)
	point := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	roottest.Do(t, o)
	checkProtected(d, point)

	// On this machine the owner can change the files as if nothing were shared.
	roottest.One(t, point)
	ms, err := mountinfo.Read(mountinfo.Self)
	roottest.Must(t, err)
	if l := mountinfo.Below(ms, point); len(l) != 0 {
		t.Fatalf("mounts remain on this machine: %v", l)
	}
	p, err := protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	if err := p.Holds(src, roottest.One(t, point)); err != nil {
		t.Fatal(err)
	}
	roottest.Must(t, os.WriteFile(filepath.Join(src, "new"), []byte("host"), 0o644))
	roottest.Must(t, os.Rename(filepath.Join(src, "new"), filepath.Join(src, "Makefile")))
	roottest.Must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	roottest.Must(t, os.Rename(filepath.Join(src, "web2"), filepath.Join(src, "web")))
	roottest.Must(t, os.WriteFile(filepath.Join(src, ".git/hooks/host"), []byte("host"), 0o755))

	// The check needs no root to notice replaced files; a bind protects them again.
	if err := p.Holds(src, roottest.One(t, point)); err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Fatalf("%v", err)
	}
	roottest.Do(t, o)
	checkProtected(d, point)
	if got := d.OK("cat " + point + "/Makefile"); got != "host" {
		t.Fatalf("the guest sees %q", got)
	}
	p, err = protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	if err := p.Holds(src, roottest.One(t, point)); err != nil {
		t.Fatal(err)
	}

	// Busy in the guest: refused, and still protected.
	d.OK("exec 7<" + point + "/.git/HEAD")
	roottest.Refuses(t, record.Unbind{VMKey: roottest.Key, Token: o.Token}, "in use", "virtiofsd (pid")
	checkProtected(d, point)
	d.OK("exec 7<&-; exec 8<" + point + "/Makefile")
	roottest.Refuses(t, record.Unbind{VMKey: roottest.Key, Token: o.Token}, "in use")
	checkProtected(d, point)
	d.OK("exec 8<&-")

	// After unbind no process can access the folder through the token.
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: o.Token})
	if l := roottest.At(t, point); len(l) != 0 {
		t.Fatalf("%v", l)
	}
	if out, _ := d.Run("cat " + point + "/Makefile"); strings.Contains(out, "host") {
		t.Fatalf("the guest still reads %q", out)
	}
	if _, err := protect.Read(roottest.Key, o.Token); !os.IsNotExist(err) {
		t.Fatalf("%v", err)
	}
	roottest.Do(t, record.Unexport{VMKey: roottest.Key})
	if b, err := os.ReadFile(filepath.Join(src, "Makefile")); err != nil || string(b) != "host" {
		t.Fatalf("%q, %v", b, err)
	}
}

// A daemon that starts after the bind finds all protecting mounts, and the next bind
// unmounts them on this machine.
func TestProtectBeforeTheDaemonStarts(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	src, o := project(t, work)
	o.Protect = append(o.Protect, "justfile", "gone/Makefile")
	point := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	if r := roottest.Do(t, o); !strings.Contains(r.Note, "justfile") || !strings.Contains(r.Note, "gone/Makefile") {
		t.Fatalf("note %q", r.Note)
	}
	d := startDaemon(t, work)
	checkProtected(d, point)
	roottest.Do(t, o)
	checkProtected(d, point)
	roottest.Must(t, os.Rename(filepath.Join(src, "Makefile"), filepath.Join(src, "Makefile.old")))
	p, err := protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	if len(p.Daemons) != 1 {
		t.Fatalf("%+v", p)
	}
	// The VM is restarted: the check notices that its daemon is another process.
	d.In.Close()
	for d.Out.Scan() {
	}
	_ = d.Cmd.Wait()
	if err := p.Holds(src, roottest.One(t, point)); err == nil {
		t.Fatal("the protection counts although its daemon has ended")
	}
	roottest.Do(t, o)
	d = startDaemon(t, work)
	d.Fails("echo evil >"+point+"/.git/config", "Read-only")
	roottest.Do(t, o)
	d.Fails("echo evil >"+point+"/.git/config", "Read-only")
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: o.Token})
}

// A daemon for only this folder, hot-plugged later, also gets the protecting mounts,
// although the daemon for all folders already has them.
func TestProtectOwnDaemon(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	all := startDaemon(t, work)
	src, o := project(t, work)
	o.Own = true
	point := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	roottest.Do(t, o)
	checkProtected(all, point)
	own := startedByLibvirt(t, work, roottest.Receive(t, fakeVirtiofsd(t, work), "-s", "source="+point, keepDescriptors))
	// As virtiofsd does: the token becomes the root of its mount namespace. The shell
	// then has only its builtin commands.
	own.OK("mount --rbind " + point + " " + point + " && cd " + point + " && pivot_root . . && cd /")
	p, err := protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	if err := p.Holds(src, roottest.One(t, point)); err == nil {
		t.Fatal("the path counts as protected before its daemon has the mounts")
	}
	roottest.Do(t, o)
	own.Fails("echo evil >/Makefile", "Read-only")
	own.Fails("echo evil >/.git/config", "Read-only")
	checkProtected(all, point)
	p, err = protect.Read(roottest.Key, o.Token)
	roottest.Must(t, err)
	if err := p.Holds(src, roottest.One(t, point)); err != nil || len(p.Daemons) != 2 {
		t.Fatalf("%+v: %v", p, err)
	}
	roottest.Must(t, os.Rename(filepath.Join(src, "Makefile"), filepath.Join(src, "M")))
	roottest.Must(t, os.Rename(filepath.Join(src, "M"), filepath.Join(src, "Makefile")))
}

// A VM that is started without aivm is protected as well, and after the start no
// protecting mount remains on this machine.
func TestProtectByHook(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	src, o := project(t, work)
	point := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	hook := func(op string) {
		t.Helper()
		roottest.Must(t, hookrun.Run(t.Context(), hookrun.LockLimit, []string{"qemu", "a", op, "begin", "-"},
			strings.NewReader(`<domain><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/></metadata></domain>`), io.Discard))
	}
	end := func(d *roottest.Receiver) {
		d.In.Close()
		for d.Out.Scan() {
		}
		_ = d.Cmd.Wait()
	}
	d := startDaemon(t, work)
	roottest.Do(t, o)
	end(d)
	for range 2 {
		hook("prepare")
		d := startDaemon(t, work)
		checkProtected(d, point)
		hook("started")
		checkProtected(d, point)
		p, err := protect.Read(roottest.Key, o.Token)
		roottest.Must(t, err)
		if err := p.Holds(src, roottest.One(t, point)); err != nil {
			t.Fatal(err)
		}
		roottest.Must(t, os.Rename(filepath.Join(src, "Makefile"), filepath.Join(src, "M")))
		roottest.Must(t, os.Rename(filepath.Join(src, "M"), filepath.Join(src, "Makefile")))
		roottest.Do(t, o) // the Makefile was replaced
		end(d)
	}
}

// The helper checks the paths itself.
func TestProtectPaths(t *testing.T) {
	for _, p := range []string{"../x", "/etc", "a/../../b", ".", "", "a//b", "a\x00b", "a/"} {
		o := record.Bind{Src: "/p", VMKey: roottest.Key, Token: "t", Ino: 1, Protect: []string{p}}
		if err := record.Check(o, -1); err == nil {
			t.Errorf("%q was accepted", p)
		}
	}
	o := record.Bind{Src: "/p", VMKey: roottest.Key, Token: "t", Ino: 1, Protect: make([]string, record.MaxProtected+1)}
	if err := record.Check(o, -1); err == nil {
		t.Error("more than MaxProtected paths were accepted")
	}
}
