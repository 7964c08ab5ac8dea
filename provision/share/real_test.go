package share

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
)

const workEnv = "AIVM_SHARE_TEST_WORK"

// privateDirs are directories that a test sees empty: mounts are made in them, and the
// scripts for guests write to them.
var privateDirs = []string{"/var/lib", "/run", "/usr/local/sbin", "/etc/systemd/system"}

// privately runs the test again as root in its own mount namespace, where privateDirs are
// empty. It returns ok in that run and false in the calling one.
func privately(t *testing.T) (work string, ok bool) {
	t.Helper()
	if work := os.Getenv(workEnv); work != "" {
		for _, d := range privateDirs {
			must(t, unix.Mount(filepath.Join(work, "sys", d), d, "", unix.MS_BIND, ""))
		}
		return work, true
	}
	self, err := os.Executable()
	must(t, err)
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	if os.Geteuid() != 0 {
		if out, err := exec.Command("sudo", append([]string{"-n", "--", self}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("this test makes real mounts and needs root; as a user it uses sudo -n, which failed: %v\n%s", err, out)
		}
		return "", false
	}
	dir, err := os.MkdirTemp("/var/tmp", "aivm-share-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	dir, err = filepath.EvalSymlinks(dir)
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "g"), 0o755))
	for _, d := range privateDirs {
		must(t, os.MkdirAll(filepath.Join(dir, "sys", d), 0o755))
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), workEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("in its own mount namespace: %v\n%s", err, out)
	}
	return "", false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ids(as []plan.Action) string {
	var s []string
	for _, a := range as {
		s = append(s, a.ID+"="+string(a.Consent))
	}
	return strings.Join(s, " ")
}

// After observing, planning and applying, nothing is left to do, as root and as a user.
func TestHostPlanConverges(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	must(t, unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""))
	a := Attachment{HostPath: filepath.Join(work, "p q"), VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: "/p"}
	b := Attachment{HostPath: "/mnt/m", VM: "a", Mode: SharedRoot, Access: "ro", GuestDst: "/m"}
	atts := []Attachment{a, b}
	for _, x := range atts {
		must(t, os.Mkdir(x.HostPath, 0o700))
		must(t, os.Chown(x.HostPath, 4321, 4322))
	}
	observe := func() HostFacts {
		t.Helper()
		f, err := ObserveHost("0-a", atts, nil)
		must(t, err)
		return f
	}
	planned := func() []plan.Action {
		t.Helper()
		as, err := PlanHost(observe(), "0-a", atts, func(x Attachment) bool { return x.HostPath == b.HostPath })
		must(t, err)
		return as
	}
	apply := func(as []plan.Action) {
		t.Helper()
		for _, x := range as {
			if _, err := root.New(root.Options{}).Do(t.Context(), x.Root, nil); err != nil {
				t.Fatalf("%s: %v", x.ID, err)
			}
		}
	}
	first := planned()
	bindA, bindB := "share.bind:"+Token(a.HostPath), "share.bind:"+Token(b.HostPath)
	if got, want := ids(first), "share.export=ask "+bindA+"=none "+bindB+"=ask"; got != want {
		t.Errorf("planned %s, want %s", got, want)
	}
	apply(first)
	if as := planned(); len(as) != 0 {
		t.Fatalf("after it was done, planned %s", ids(as))
	}
	if f := observe(); !f.Mapped(a) || f.Folders[a.HostPath].UID != 4321 || f.Folders[a.HostPath].GID != 4322 || len(f.Strays(atts[:1])) != 1 {
		t.Errorf("facts %+v", f)
	}

	expect := func(what, want string) {
		t.Helper()
		as := planned()
		if ids(as) != want {
			t.Errorf("%s: planned %s, want %s", what, ids(as), want)
		}
		apply(as)
		if as := planned(); len(as) != 0 {
			t.Errorf("%s, and done: planned %s", what, ids(as))
		}
	}
	atts[0].Access = "ro"
	expect("access changed", bindA+"=none")
	// Another folder has the same name now.
	must(t, os.Rename(a.HostPath, a.HostPath+".old"))
	must(t, os.Mkdir(a.HostPath, 0o755))
	expect("folder created again", bindA+"=none")
	must(t, os.Remove(a.HostPath))
	must(t, os.Mkdir(a.HostPath, 0o755))
	expect("folder deleted and created again", bindA+"=none")
	must(t, unix.Unmount(filepath.Join(root.ExportRoot("0-a"), Token(b.HostPath)), 0))
	expect("one mount lost", bindB+"=ask")
	// Another owner: the host's mount table does not show it, the guest does.
	must(t, os.Chown(a.HostPath, 4323, 4323))
	if as := planned(); len(as) != 0 {
		t.Fatalf("the changed owner was not reported, but planned %s", ids(as))
	}
	seen := func() GuestFacts {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(root.ExportRoot("0-a"), Token(a.HostPath)), &st))
		g, err := ParseGuest(fmt.Appendf(nil, "aivm-share 2\n41 27 0:31 /%s /p rw - virtiofs aivm-root rw\naivm-share dirs\n41ed %d %d %d /p\naivm-share pass\n/p\naivm-share same\naivm-share list\naivm-share end\n",
			Token(a.HostPath), st.Ino, st.Uid, st.Gid), []Attachment{a})
		must(t, err)
		return g
	}
	if err := Verify(seen(), observe(), atts[0]); !errors.Is(err, ErrOwner) {
		t.Errorf("the guest sees the wrong owner: %v", err)
	}
	as, err := PlanHost(observe().WithGuestOwners(seen(), atts), "0-a", atts, nil)
	if must(t, err); ids(as) != bindA+"=none" {
		t.Errorf("the guest reported the changed owner, planned %s", ids(as))
	}
	apply(as)
	if err := Verify(seen(), observe(), atts[0]); err != nil {
		t.Errorf("after it was mounted again: %v", err)
	}
	if as, err := PlanHost(observe().WithGuestOwners(seen(), atts), "0-a", atts, nil); err != nil || len(as) != 0 {
		t.Errorf("and planned again: %s %v", ids(as), err)
	}
	for _, x := range atts {
		must(t, unix.Unmount(filepath.Join(root.ExportRoot("0-a"), Token(x.HostPath)), 0))
	}
	must(t, unix.Unmount(root.ExportRoot("0-a"), 0))
	expect("after a reboot", "share.export=ask "+bindA+"=none "+bindB+"=ask")
	// A mount in the folder is reported, and its content stays on the host.
	must(t, os.Mkdir(a.HostPath+"/sub", 0o755))
	must(t, unix.Mount("tmpfs", a.HostPath+"/sub", "tmpfs", 0, ""))
	if f := observe(); len(f.Folders[a.HostPath].Submounts) != 1 || !f.Bound(atts[0]) {
		t.Errorf("submounts %v", f.Folders[a.HostPath].Submounts)
	}
}

// ExportedFolders reports the mounts, not what was planned.
func TestExportedFolders(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	must(t, unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""))
	shared := map[string]bool{filepath.Join(work, "on disk"): false, "/mnt/x/in memory": true}
	do := func(op root.Op) {
		t.Helper()
		_, err := root.New(root.Options{}).Do(t.Context(), op, nil)
		must(t, err)
	}
	do(root.Export{VMKey: "0-a"})
	for p, ro := range shared {
		must(t, os.MkdirAll(p, 0o755))
		var st unix.Stat_t
		must(t, unix.Stat(p, &st))
		do(root.Bind{Src: p, VMKey: "0-a", Token: Token(p), RO: ro, Dev: st.Dev, Ino: st.Ino})
	}
	check := func(what string, want map[string]bool) {
		t.Helper()
		f, err := ObserveHost("0-a", nil, nil)
		must(t, err)
		got := map[string]bool{}
		for _, r := range f.ExportedFolders() {
			if got[r.Path] = r.RO; r.Found == (r.Path == r.Point) {
				t.Errorf("%s: %+v", what, r)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("as shared", shared)
	// The same file system is mounted a second time, earlier in the order of paths.
	must(t, os.MkdirAll("/run/again", 0o755))
	must(t, unix.Mount("/mnt/x", "/run/again", "", unix.MS_BIND, ""))
	must(t, unix.Mount("/mnt", "/run/again", "", unix.MS_BIND, ""))
	check("mounted twice", shared)
	must(t, os.Rename("/mnt/x/in memory", "/mnt/x/now"))
	check("renamed", map[string]bool{filepath.Join(work, "on disk"): false, "/mnt/x/now": true})
	must(t, os.Remove("/mnt/x/now"))
	check("deleted", map[string]bool{filepath.Join(work, "on disk"): false, filepath.Join(root.ExportRoot("0-a"), Token("/mnt/x/in memory")): true})
}

func TestHostFoldersThatCannotBeShared(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Mkdir(dir+"/real", 0o755))
	must(t, os.Mkdir(dir+"/ok", 0o755))
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	must(t, os.Symlink(dir+"/real", dir+"/link"))
	var atts []Attachment
	for name := range map[string]string{"missing": "", "file": "", "link": "", "link/x": "", "ok": ""} {
		atts = append(atts, Attachment{HostPath: filepath.Join(dir, name), VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: "/g/" + name})
	}
	f, err := ObserveHost("0-a", atts, nil)
	must(t, err)
	as, err := PlanHost(f, "0-a", atts, nil)
	if got := ids(as); got != "share.export=none share.bind:"+Token(dir+"/ok")+"=none" {
		t.Errorf("planned %s", got)
	}
	for _, want := range []string{"missing does not exist", "file is not a folder", "symbolic link"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	for name, folder := range map[string]Folder{"no permission to read": {Writable: true}, "only be shared read-only": {Readable: true}} {
		f.Folders[dir+"/ok"] = folder
		if _, err := PlanHost(f, "0-a", []Attachment{{HostPath: dir + "/ok", VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: "/g"}}, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// here adapts a guest script to the host: tmpfs instead of virtiofs, and other paths for
// the kernel's caches and /etc/environment, which the test must not change.
var here = strings.NewReplacer("virtiofs", "tmpfs", "65735546", "1021994", "/proc/sys/vm/drop_caches", "/dev/null", "/etc/environment", "/run/environment")

// guest stands in for a VM: the test's mount namespace, with a tmpfs in place of the
// virtiofs device. The scripts make real mounts and directories.
type guest struct {
	t    *testing.T
	host HostFacts
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	must(t, os.MkdirAll(ExportMount, 0o700))
	must(t, unix.Mount(FSTag, ExportMount, "tmpfs", 0, "mode=700"))
	return &guest{t, HostFacts{Folders: map[string]Folder{}}}
}

// token creates a shared folder as the device shows it.
func (g *guest) token(hostPath, guestDst string) Attachment {
	g.t.Helper()
	dir := filepath.Join(ExportMount, Token(hostPath))
	must(g.t, os.Mkdir(dir, 0o755))
	must(g.t, os.Chown(dir, 1000, 1000))
	var st unix.Stat_t
	must(g.t, unix.Stat(dir, &st))
	g.host.Folders[hostPath] = Folder{Ino: st.Ino}
	return Attachment{HostPath: hostPath, VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: guestDst}
}

func (g *guest) probe(atts []Attachment) GuestFacts {
	g.t.Helper()
	cmd := exec.Command("sh", "-s")
	cmd.Stdin = strings.NewReader(here.Replace(GuestProbe(atts)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	must(g.t, err)
	for _, source := range []string{"aivm-root", "none"} {
		out = bytes.ReplaceAll(out, []byte(" tmpfs "+source+" "), []byte(" virtiofs "+source+" "))
	}
	f, err := ParseGuest(out, atts)
	if err != nil {
		g.t.Fatalf("%v in\n%s", err, out)
	}
	return f
}

// run plans and runs the guest script; steps is how many folders it mounted.
func (g *guest) run(atts ...Attachment) (steps int, err error) {
	g.t.Helper()
	script, as, err := PlanGuest(g.probe(atts), g.host, atts)
	must(g.t, err)
	if script == "" {
		return 0, nil
	}
	cmd := exec.Command("sh", "-s")
	cmd.Stdin = strings.NewReader(here.Replace(script))
	cmd.Dir = "/"
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // GuestError handles its status
	if strings.HasPrefix(as[0].ID, "guest.mount") {
		steps = len(as[0].Shows)
	}
	return steps, GuestError(cmd.ProcessState.ExitCode(), out.Bytes(), errs.Bytes(), atts)
}

// release unmounts a in the guest.
func (g *guest) release(a Attachment) (exit int, err error) {
	g.t.Helper()
	script := here.Replace(ReleaseScript([]Attachment{a}, nil))
	cmd := exec.Command("sh", "-s")
	cmd.Stdin, cmd.Dir = strings.NewReader(script), "/"
	out, _ := cmd.Output() // GuestError handles its status
	exit = cmd.ProcessState.ExitCode()
	return exit, GuestError(exit, out, nil, []Attachment{a})
}

func (g *guest) mounts(want int, atts ...Attachment) {
	g.t.Helper()
	n, err := g.run(atts...)
	if err != nil || n != want {
		g.t.Fatalf("mounted %d, want %d: %v", n, want, err)
	}
	f := g.probe(atts)
	for _, a := range atts {
		if err := Verify(f, g.host, a); err != nil {
			g.t.Fatal(err)
		}
	}
	if n, err := g.run(atts...); n != 0 || err != nil {
		g.t.Fatalf("again: mounted %d: %v", n, err)
	}
}

func (g *guest) refuses(a Attachment, want string, others ...Attachment) {
	g.t.Helper()
	if _, err := g.run(append(others, a)...); err == nil || !strings.Contains(err.Error(), want) {
		g.t.Errorf("%s: got %v, want %q", a.GuestDst, err, want)
	}
}

func mode(t *testing.T, p string) string {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(p, &st))
	return fmt.Sprintf("%o %d", st.Mode&0o7777, st.Uid)
}

func TestGuestScripts(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	g, at := newGuest(t), filepath.Join(work, "g")
	must(t, os.MkdirAll(at+"/root", 0o700)) // as /root is
	must(t, os.MkdirAll(at+"/home", 0o755))
	must(t, os.Mkdir(at+"/home/agent", 0o700))
	must(t, os.Chown(at+"/home/agent", 1000, 1000))

	a := g.token("/h/a", at+"/root/deep er/it's $HOME/a")
	b := g.token("/h/b", at+"/home/agent/x/b\\040\tc")
	g.mounts(2, a, b)
	for p, want := range map[string]string{
		"/root": "711 0", "/root/deep er": "755 0", "/home/agent": "700 1000", "/home/agent/x": "755 1000",
	} {
		if got := mode(t, at+p); got != want {
			t.Errorf("%s has mode and owner %s, want %s", p, got, want)
		}
	}
	// The guest's user can write in them.
	touch := exec.Command("touch", a.GuestDst+"/f", b.GuestDst+"/f")
	touch.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if out, err := touch.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}

	// A child of a's folder, then a parent over a mounted child.
	must(t, os.Mkdir(a.GuestDst+"/in", 0o755))
	in := g.token("/h/a/in", a.GuestDst+"/in")
	g.mounts(1, a, b, in)
	child := g.token("/h/c/child", at+"/c/child")
	g.mounts(1, child)
	parent := g.token("/h/c", at+"/c")
	g.refuses(child, "inside another shared folder", parent)
	must(t, os.Mkdir(filepath.Join(ExportMount, Token("/h/c"), "child"), 0o755))
	g.mounts(1, child, parent) // parent is mounted by now

	// The host's folder was created again: the old mount is replaced.
	must(t, os.RemoveAll(filepath.Join(ExportMount, Token("/h/b"))))
	b = g.token("/h/b", b.GuestDst)
	g.mounts(1, a, b)
	// A wrong mount of aivm's on the path is replaced as well.
	must(t, unix.Mount(filepath.Join(ExportMount, Token("/h/a")), b.GuestDst, "", unix.MS_BIND, ""))
	g.mounts(1, b)
	// A folder in use is reported and not unmounted by force.
	must(t, os.RemoveAll(filepath.Join(ExportMount, Token("/h/b"))))
	b = g.token("/h/b", b.GuestDst)
	f, err := os.Open(b.GuestDst)
	must(t, err)
	g.refuses(b, "in use")
	if exit, err := g.release(b); exit == 0 || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("a folder in use was unmounted: %d %v", exit, err)
	}
	f.Close()
	g.mounts(1, b)

	// Unmounting so that the host can unmount too can be repeated.
	for range 2 {
		if exit, err := g.release(b); exit != 0 {
			t.Errorf("not unmounted: %d %v", exit, err)
		}
		if err := Verify(g.probe([]Attachment{b}), g.host, b); err == nil || !strings.Contains(err.Error(), "nothing is mounted") {
			t.Errorf("unmounted, but Verify: %v", err)
		}
	}
	g.mounts(1, b)

	// What is not aivm's stays.
	bad := func(name string) Attachment { return g.token("/h/"+name, at+"/bad/"+name) }
	must(t, os.MkdirAll(at+"/bad/full/d", 0o755))
	must(t, os.WriteFile(at+"/bad/full/d/f", []byte("mine"), 0o644))
	g.refuses(bad("full"), "is not empty")
	must(t, os.MkdirAll(at+"/bad/empty/dirs/only", 0o755))
	g.mounts(1, bad("empty"))
	must(t, os.WriteFile(at+"/bad/file", nil, 0o644))
	g.refuses(bad("file"), "is a file")
	must(t, os.Symlink(at+"/home", at+"/bad/link"))
	g.refuses(bad("link"), "symbolic link")
	g.refuses(bad("link/x"), "symbolic link")
	must(t, os.Mkdir(at+"/bad/taken", 0o755))
	must(t, unix.Mount("other", at+"/bad/taken", "tmpfs", 0, ""))
	g.refuses(bad("taken"), "something else is mounted")
	if b, err := os.ReadFile(at + "/bad/full/d/f"); err != nil || string(b) != "mine" {
		t.Errorf("%q %v", b, err)
	}
	// A folder that cannot be mounted does not prevent the others from being mounted.
	more := g.token("/h/more", at+"/zz/y/x/more")
	g.refuses(Attachment{HostPath: "/h/full", VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: at + "/bad/full"}, "is not empty", more)
	g.mounts(0, more)
	lost := bad("lost")
	must(t, os.Remove(filepath.Join(ExportMount, Token(lost.HostPath))))
	g.refuses(lost, "does not appear")
}

// A script that arrives incomplete does nothing.
func TestGuestScriptCutOff(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	g := newGuest(t)
	a := g.token("/h/a", filepath.Join(work, "g", "cut"))
	script, _, err := PlanGuest(g.probe([]Attachment{a}), g.host, []Attachment{a})
	must(t, err)
	for _, n := range []int{len(script) / 2, len(script) - 2, len(script) - len("main\n")} {
		cmd := exec.Command("sh", "-s")
		cmd.Stdin = strings.NewReader(here.Replace(script[:n]))
		_ = cmd.Run() // a syntax error, or nothing
		if _, err := os.Stat(a.GuestDst); err == nil {
			t.Errorf("%d of %d bytes did something", n, len(script))
		}
	}
}
