package root

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// daemonFor is a receiver that passes for virtiofsd: by its program and
// arguments, and by libvirt's record of what it started.
func daemonFor(t *testing.T, work string, more ...string) *receiver {
	t.Helper()
	if len(more) == 0 {
		more = []string{keeps}
	}
	return startedByLibvirt(t, work, receive(t, append([]string{virtiofsd(t, work), "-s", "source=" + ExportRoot(testKey)}, more...)...))
}

// virtiofsd is a shell under that name.
func virtiofsd(t *testing.T, work string) string {
	t.Helper()
	sh := filepath.Join(work, "virtiofsd")
	if _, err := os.Stat(sh); err == nil {
		return sh
	}
	b, err := os.ReadFile("/bin/sh")
	must(t, err)
	must(t, os.WriteFile(sh, b, 0o755))
	return sh
}

// startedByLibvirt writes the process's number where libvirt does, in a /run of
// the test's own.
func startedByLibvirt(t *testing.T, work string, r *receiver) *receiver {
	t.Helper()
	run := filepath.Join(work, "run")
	if _, err := os.Stat(run); os.IsNotExist(err) {
		must(t, os.MkdirAll(filepath.Join(run, "libvirt/qemu"), 0o755))
		must(t, unix.Mount(run, "/run", "", unix.MS_BIND, ""))
	}
	must(t, os.WriteFile(fmt.Sprintf("%s/1-a-fs%d-fs.pid", libvirtState, r.pid), fmt.Appendln(nil, r.pid), 0o644))
	return r
}

// project makes a folder with files that run, and returns the record that
// shares it with them protected.
func project(t *testing.T, work string) (string, Bind) {
	t.Helper()
	src := folder(t, filepath.Join(work, "p"), 0, 0o755)
	for _, f := range []string{".git/hooks/pre-commit", ".git/config", ".git/HEAD", "Makefile", "web/package.json", "web/app.js"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(src, f)), 0o755))
		must(t, os.WriteFile(filepath.Join(src, f), []byte(f), 0o644))
	}
	must(t, os.Symlink("Makefile", filepath.Join(src, "justfile")))
	o := bindOf(t, src, "p-1")
	o.Protect = []string{".git/hooks", ".git/config", "Makefile", "web/package.json"}
	return src, o
}

// holdsInGuest is what a guest's root must not be able to do, and what it must.
func holdsInGuest(d *receiver, at string) {
	d.t.Helper()
	d.fails("echo evil >"+at+"/Makefile", "Read-only")
	d.fails("echo evil >"+at+"/.git/config", "Read-only")
	d.fails("echo evil >"+at+"/.git/hooks/post-checkout", "Read-only")
	d.fails("chmod 777 "+at+"/Makefile", "Read-only")
	d.fails("mv "+at+"/web/app.js "+at+"/Makefile", "")
	d.fails("rm -f "+at+"/Makefile", "busy")
	d.fails("mv "+at+"/.git "+at+"/.git2", "busy")
	d.fails("mv "+at+"/web "+at+"/web2", "busy")
	d.fails("mv "+at+"/.git/hooks "+at+"/.git/hooks2", "busy")
	d.fails("rm -rf "+at+"/.git/hooks", "")
	d.fails("ln "+at+"/Makefile "+at+"/other", "")
	d.ok("echo work >" + at + "/web/new.js && mv " + at + "/web/new.js " + at + "/web/new2.js && rm " + at + "/web/new2.js")
	d.ok("echo ref >" + at + "/.git/HEAD && mkdir " + at + "/src && mv " + at + "/src " + at + "/src2 && rmdir " + at + "/src2")
}

func TestProtectHoldsInTheDaemonAndNotHere(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_SHARED)
	do(t, Export{VMKey: testKey})
	d := daemonFor(t, work)
	src, o := project(t, work)
	point := filepath.Join(ExportRoot(testKey), o.Token)
	do(t, o)
	holdsInGuest(d, point)

	// Here the person works on as if nothing were shared.
	one(t, point)
	ms, err := mountinfo.Read(mountinfo.Self)
	must(t, err)
	if l := mountinfo.Below(ms, point); len(l) != 0 {
		t.Fatalf("mounts stay on this machine: %v", l)
	}
	p, err := ReadProtection(testKey, o.Token)
	must(t, err)
	if err := p.Holds(src, one(t, point)); err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(src, "new"), []byte("mine"), 0o644))
	must(t, os.Rename(filepath.Join(src, "new"), filepath.Join(src, "Makefile")))
	must(t, os.Rename(filepath.Join(src, "web"), filepath.Join(src, "web2")))
	must(t, os.Rename(filepath.Join(src, "web2"), filepath.Join(src, "web")))
	must(t, os.WriteFile(filepath.Join(src, ".git/hooks/mine"), []byte("mine"), 0o755))

	// What was replaced is noticed without rights, and protected again.
	if err := p.Holds(src, one(t, point)); err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Fatalf("%v", err)
	}
	do(t, o)
	holdsInGuest(d, point)
	if got := d.ok("cat " + point + "/Makefile"); got != "mine" {
		t.Fatalf("the guest sees %q", got)
	}
	p, err = ReadProtection(testKey, o.Token)
	must(t, err)
	if err := p.Holds(src, one(t, point)); err != nil {
		t.Fatal(err)
	}

	// Busy in the guest: refused, and still protected.
	d.ok("exec 7<" + point + "/.git/HEAD")
	refuses(t, Unbind{VMKey: testKey, Token: o.Token}, "in use", "virtiofsd (pid")
	holdsInGuest(d, point)
	d.ok("exec 7<&-; exec 8<" + point + "/Makefile")
	refuses(t, Unbind{VMKey: testKey, Token: o.Token}, "in use")
	holdsInGuest(d, point)
	d.ok("exec 8<&-")

	// Let go: out of everybody's reach.
	do(t, Unbind{VMKey: testKey, Token: o.Token})
	if l := at(t, point); len(l) != 0 {
		t.Fatalf("%v", l)
	}
	if out, _ := d.run("cat " + point + "/Makefile"); strings.Contains(out, "mine") {
		t.Fatalf("the guest still reads %q", out)
	}
	if _, err := ReadProtection(testKey, o.Token); !os.IsNotExist(err) {
		t.Fatalf("%v", err)
	}
	do(t, Unexport{VMKey: testKey})
	if b, err := os.ReadFile(filepath.Join(src, "Makefile")); err != nil || string(b) != "mine" {
		t.Fatalf("%q, %v", b, err)
	}
}

// TestProtectArmed: a daemon that starts later finds every mount in place, and
// the next bind takes them off here.
func TestProtectArmed(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	src, o := project(t, work)
	o.Protect = append(o.Protect, "justfile", "gone/Makefile")
	point := filepath.Join(ExportRoot(testKey), o.Token)
	if r := do(t, o); !strings.Contains(r.Note, "justfile") || !strings.Contains(r.Note, "gone/Makefile") {
		t.Fatalf("note %q", r.Note)
	}
	d := daemonFor(t, work)
	holdsInGuest(d, point)
	do(t, o)
	holdsInGuest(d, point)
	must(t, os.Rename(filepath.Join(src, "Makefile"), filepath.Join(src, "Makefile.old")))
	p, err := ReadProtection(testKey, o.Token)
	must(t, err)
	if len(p.Daemons) != 1 {
		t.Fatalf("%+v", p)
	}
	// The VM is started anew: its daemon is another, which is noticed.
	d.in.Close()
	for d.out.Scan() {
	}
	_ = d.cmd.Wait()
	if err := p.Holds(src, one(t, point)); err == nil {
		t.Fatal("a daemon that ended still counts")
	}
	do(t, o)
	d = daemonFor(t, work)
	d.fails("echo evil >"+point+"/.git/config", "Read-only")
	do(t, o)
	d.fails("echo evil >"+point+"/.git/config", "Read-only")
	do(t, Unbind{VMKey: testKey, Token: o.Token})
}

// TestProtectOwnDaemon: a daemon for the folder alone, plugged later, finds the
// protecting mounts although the one for all folders has them already.
func TestProtectOwnDaemon(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	all := daemonFor(t, work)
	src, o := project(t, work)
	o.Own = true
	point := filepath.Join(ExportRoot(testKey), o.Token)
	do(t, o)
	holdsInGuest(all, point)
	own := startedByLibvirt(t, work, receive(t, virtiofsd(t, work), "-s", "source="+point, keeps))
	// As virtiofsd does: the token becomes the root of its namespace, and the
	// shell is left with what is built into it.
	own.ok("mount --rbind " + point + " " + point + " && cd " + point + " && pivot_root . . && cd /")
	p, err := ReadProtection(testKey, o.Token)
	must(t, err)
	if err := p.Holds(src, one(t, point)); err == nil {
		t.Fatal("it counts as protected before its daemon is known to have it")
	}
	do(t, o)
	own.fails("echo evil >/Makefile", "Read-only")
	own.fails("echo evil >/.git/config", "Read-only")
	holdsInGuest(all, point)
	p, err = ReadProtection(testKey, o.Token)
	must(t, err)
	if err := p.Holds(src, one(t, point)); err != nil || len(p.Daemons) != 2 {
		t.Fatalf("%+v: %v", p, err)
	}
	must(t, os.Rename(filepath.Join(src, "Makefile"), filepath.Join(src, "M")))
	must(t, os.Rename(filepath.Join(src, "M"), filepath.Join(src, "Makefile")))
}

// TestProtectByHook: a VM that somebody starts without aivm is as protected, and
// afterwards nothing is in the person's way here.
func TestProtectByHook(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	src, o := project(t, work)
	point := filepath.Join(ExportRoot(testKey), o.Token)
	hook := func(op string) {
		t.Helper()
		must(t, RunHook(t.Context(), []string{"qemu", "a", op, "begin", "-"},
			strings.NewReader(`<domain><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/></metadata></domain>`), io.Discard))
	}
	end := func(d *receiver) {
		d.in.Close()
		for d.out.Scan() {
		}
		_ = d.cmd.Wait()
	}
	d := daemonFor(t, work)
	do(t, o)
	end(d)
	for range 2 {
		hook("prepare")
		d := daemonFor(t, work)
		holdsInGuest(d, point)
		hook("started")
		holdsInGuest(d, point)
		p, err := ReadProtection(testKey, o.Token)
		must(t, err)
		if err := p.Holds(src, one(t, point)); err != nil {
			t.Fatal(err)
		}
		must(t, os.Rename(filepath.Join(src, "Makefile"), filepath.Join(src, "M")))
		must(t, os.Rename(filepath.Join(src, "M"), filepath.Join(src, "Makefile")))
		do(t, o) // the Makefile was replaced
		end(d)
	}
}

// TestProtectPaths: the helper judges the paths again.
func TestProtectPaths(t *testing.T) {
	for _, p := range []string{"../x", "/etc", "a/../../b", ".", "", "a//b", "a\x00b", "a/"} {
		o := Bind{Src: "/p", VMKey: testKey, Token: "t", Ino: 1, Protect: []string{p}}
		if err := validate(o, -1); err == nil {
			t.Errorf("%q was taken", p)
		}
	}
	o := Bind{Src: "/p", VMKey: testKey, Token: "t", Ino: 1, Protect: make([]string, MaxProtected+1)}
	if err := validate(o, -1); err == nil {
		t.Error("any number of paths was taken")
	}
}
