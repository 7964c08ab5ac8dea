package root

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

const owner = 4321 // no user of the machine

// fileSystems are where a folder to share may lie: the disk, and memory.
func fileSystems(t *testing.T, work string) map[string]string {
	t.Helper()
	disk, mem := filepath.Join(work, "disk"), filepath.Join(work, "mem")
	must(t, os.MkdirAll(disk, 0o755))
	must(t, os.MkdirAll(mem, 0o755))
	must(t, unix.Mount("tmpfs", mem, "tmpfs", 0, "mode=755"))
	return map[string]string{"disk": disk, "tmpfs": mem}
}

// The primitive, from what a VM does to what is then on the disk.
func TestBindGivesTheOwnerToTheGuestUser(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	vm := newReceiver(t)
	for name, dir := range fileSystems(t, work) {
		src := folder(t, filepath.Join(dir, "my project"), owner, 0o755)
		must(t, os.WriteFile(filepath.Join(src, "mine"), []byte("x"), 0o600))
		must(t, os.Chown(filepath.Join(src, "mine"), owner, owner))
		token := "t-" + name
		if r := do(t, bindOf(t, src, token)); r.Note != "" {
			t.Fatalf("%s: note %q, want a file system that maps owners", name, r.Note)
		}
		in := filepath.Join(ExportRoot(testKey), token)
		m := one(t, in)
		for _, o := range []string{"nosuid", "nodev", "idmapped", "rw"} {
			if !m.Has(o) {
				t.Errorf("%s: options %v lack %s", name, m.Options, o)
			}
		}
		const agent = "setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "
		if got := vm.ok("stat -c %u:%g " + in + " " + in + "/mine"); got != "1000:1000\n1000:1000" {
			t.Errorf("%s: the guest sees owners %q", name, got)
		}
		// Writing as the guest's user: the owner's on the host.
		vm.ok("mount -o remount,bind,rw " + filepath.Dir(in) + " && chmod 755 " + filepath.Dir(filepath.Dir(in)) + " " + filepath.Dir(in)) // as the virtiofs root is for the VM
		vm.ok(agent + "'cd " + in + " && cat mine && echo y >made && mv made moved && ln moved hard && mkdir d && chmod 700 d && ln -s moved sym'")
		// Writing as guest root: nobody's, and its setuid bit is worth nothing.
		vm.ok("cd " + in + " && cp /usr/bin/id suid && chmod 4755 suid && echo r >root && mv root root2; cd /")
		for f, want := range map[string]int{"moved": owner, "d": owner, "hard": owner, "suid": nobody, "root2": nobody} {
			var st unix.Stat_t
			must(t, unix.Lstat(filepath.Join(src, f), &st))
			if int(st.Uid) != want || int(st.Gid) != want {
				t.Errorf("%s: %s belongs to %d:%d on the host, want %d", name, f, st.Uid, st.Gid, want)
			}
		}
		id := exec.Command(filepath.Join(src, "suid"), "-u")
		id.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 23456, Gid: 23456}}
		if out, err := id.Output(); err != nil || strings.TrimSpace(string(out)) == "0" {
			t.Errorf("%s: a setuid file of guest root ran on the host as uid %q (%v)", name, out, err)
		}
		// Through the token itself not even that.
		if out := vm.ok("setpriv --reuid 1000 --regid 1000 --clear-groups " + in + "/suid -u"); out != "1000" {
			t.Errorf("%s: nosuid does not hold on the token: %q", name, out)
		}
	}
}

func TestOwnersRootAndNobody(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	vm := newReceiver(t)
	for _, c := range []struct{ uid, guestRoot int }{{0, nobody}, {nobody, nobody - 1}, {1000, nobody}, {1<<32 - 2, nobody}} {
		token := fmt.Sprintf("o-%d", c.uid)
		src := folder(t, filepath.Join(work, token), c.uid, 0o755)
		do(t, bindOf(t, src, token))
		in := filepath.Join(ExportRoot(testKey), token)
		if got := vm.ok("stat -c %u:%g " + in); got != "1000:1000" {
			t.Errorf("owner %d appears as %s", c.uid, got)
		}
		vm.ok("touch " + in + "/r && mv " + in + "/r " + in + "/s && chown 1000:1000 " + in + "/s && touch " + in + "/r")
		for f, want := range map[string]int{"s": c.uid, "r": c.guestRoot} {
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(src, f), &st))
			if int(st.Uid) != want || int(st.Gid) != want {
				t.Errorf("owner %d: %s belongs to %d:%d on the host, want %d", c.uid, f, st.Uid, st.Gid, want)
			}
		}
	}
}

func TestReadOnlyHoldsWhereItPropagatesTo(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	vm := newReceiver(t)
	for name, dir := range fileSystems(t, work) {
		src := folder(t, filepath.Join(dir, "p"), owner, 0o777)
		b := bindOf(t, src, "ro-"+name)
		b.RO = true
		do(t, b)
		in := filepath.Join(ExportRoot(testKey), b.Token)
		vm.fails("touch "+in+"/x", "Read-only file system")
		first := one(t, in).ID
		do(t, b)
		if one(t, in).ID != first {
			t.Errorf("%s: a second bind was not a no-op", name)
		}
		b.RO = false
		do(t, b)
		vm.ok("touch " + in + "/x")
	}
}

func TestBindIsIdempotentAndNeverStacks(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	// As systemd leaves it: everything is one shared tree.
	stage(t, work, unix.MS_SHARED)
	exp := ExportRoot(testKey)
	do(t, Export{VMKey: testKey})
	do(t, Export{VMKey: testKey})
	if st, err := os.Stat(exp); err != nil || st.Mode().Perm() != rootMode {
		t.Errorf("export root: %v %v", st.Mode(), err)
	}
	one(t, exp)
	src := folder(t, filepath.Join(work, "p"), owner, 0o755)
	b := bindOf(t, src, "p")
	do(t, b)
	first := one(t, filepath.Join(exp, "p"))
	do(t, b)
	if again := one(t, filepath.Join(exp, "p")); again.ID != first.ID {
		t.Error("a second bind replaced the mount")
	}
	// What is mounted below the folder, before or after, stays on the host.
	sub := filepath.Join(src, "sub")
	must(t, os.Mkdir(sub, 0o755))
	must(t, unix.Mount("tmpfs", sub, "tmpfs", 0, ""))
	if l := at(t, filepath.Join(exp, "p", "sub")); len(l) != 0 {
		t.Error("a later mount below the folder reached the token:", l)
	}
	do(t, Unbind{VMKey: testKey, Token: "p"})
	do(t, b)
	if l := at(t, filepath.Join(exp, "p", "sub")); len(l) != 0 {
		t.Error("a mount below the folder came along:", l)
	}
	must(t, unix.Unmount(sub, 0))

	// A new owner needs a new map.
	must(t, os.Chown(src, owner+1, owner+1))
	b = bindOf(t, src, "p")
	do(t, b)
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(exp, "p"), &st))
	if st.Uid != guestUser {
		t.Errorf("after a change of owner the guest sees uid %d", st.Uid)
	}
	one(t, filepath.Join(exp, "p"))

	// The folder made anew: the record for the old one is refused, the new one replaces it.
	must(t, os.Rename(src, src+".old"))
	folder(t, src, owner, 0o755)
	refuses(t, b, "replaced meanwhile")
	do(t, bindOf(t, src, "p"))
	if m := one(t, filepath.Join(exp, "p")); strings.Contains(m.Root, ".old") {
		t.Error("the token still shows", m.Root)
	}

	refuses(t, Unexport{VMKey: testKey}, "still shared", "p")
	do(t, Unbind{VMKey: testKey, Token: "p"})
	do(t, Unbind{VMKey: testKey, Token: "p"})
	do(t, Unexport{VMKey: testKey})
	do(t, Unexport{VMKey: testKey})
	if _, err := os.Stat(exp); !os.IsNotExist(err) {
		t.Error("the export root is still there:", err)
	}
	if len(at(t, exp)) != 0 {
		t.Error("still mounted")
	}
	if _, err := os.Stat(filepath.Join(src+".old", "sub")); err != nil {
		t.Error("the folder was changed:", err)
	}
}

func TestBindRefusals(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	exp := ExportRoot(testKey)
	src := folder(t, filepath.Join(work, "p", "c"), owner, 0o755)
	b := bindOf(t, src, "c")
	refuses(t, b, "c")
	if len(at(t, exp)) != 0 {
		t.Fatal("bind without an export mounted something")
	}
	do(t, Export{VMKey: testKey})

	// The guest owns the parent and plants a link where the child was.
	must(t, os.Rename(src, src+".away"))
	must(t, os.Symlink("/etc", src))
	refuses(t, b, "symbolic link")
	// Also with the identity of what the link leads to.
	evil := bindOf(t, "/etc", "c")
	evil.Src = src
	refuses(t, evil, "symbolic link")
	must(t, os.Remove(src))
	// A link in the middle of the path.
	must(t, os.Symlink(src+".away", filepath.Join(work, "p", "l")))
	mid := folder(t, filepath.Join(src+".away", "deep"), owner, 0o755)
	through := bindOf(t, mid, "c")
	through.Src = filepath.Join(work, "p", "l", "deep")
	refuses(t, through, "symbolic link")
	must(t, os.WriteFile(src, nil, 0o644))
	refuses(t, b, "not a folder")
	must(t, os.Remove(src))
	refuses(t, b, "gone")
	must(t, os.Rename(src+".away", src))

	// Somebody else's mounts are left alone.
	point := filepath.Join(exp, "c")
	emptyToken(t, "c")
	must(t, unix.Mount("tmpfs", point, "tmpfs", 0, ""))
	refuses(t, b, "not ours")
	refuses(t, Unbind{VMKey: testKey, Token: "c"}, "not ours")
	must(t, unix.Unmount(point, 0))
	do(t, b)
	must(t, unix.Mount("tmpfs", point, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""))
	refuses(t, b, "on top of each other")
	refuses(t, Unbind{VMKey: testKey, Token: "c"}, "on top of each other")
	must(t, unix.Unmount(point, 0))
	do(t, b)

	// An export root in other hands.
	must(t, os.MkdirAll(ExportRoot("0-b"), 0o755))
	must(t, os.Chown(ExportRoot("0-b"), owner, owner))
	refuses(t, Export{VMKey: "0-b"}, "not to root")
	must(t, os.Symlink("/etc", ExportRoot("0-c")))
	refuses(t, Export{VMKey: "0-c"})
	if len(at(t, "/etc")) != 0 {
		t.Error("a link led a mount to /etc")
	}
}

func TestFileSystemThatCannotMap(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	dir := filepath.Join(work, "ramfs")
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount("ramfs", dir, "ramfs", 0, ""))
	src := folder(t, filepath.Join(dir, "p"), owner, 0o755)
	b := bindOf(t, src, "p")
	for range 2 {
		if r := do(t, b); !strings.Contains(r.Note, "cannot map owners") {
			t.Errorf("note %q", r.Note)
		}
	}
	if m := one(t, filepath.Join(ExportRoot(testKey), "p")); !m.Has("nosuid") || !m.Has("nodev") || m.Has("idmapped") {
		t.Errorf("options %v", m.Options)
	}
}

func TestBusyTokenNamesItsHolder(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	vm := newReceiver(t)
	src := folder(t, filepath.Join(work, "p"), owner, 0o755)
	must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o644))
	do(t, bindOf(t, src, "p"))
	in := filepath.Join(ExportRoot(testKey), "p")
	who := fmt.Sprintf("sh (pid %d)", vm.pid)
	for take, release := range map[string]string{"cd " + in: "cd /", "exec 7<" + in + "/f": "exec 7<&-"} {
		vm.ok(take)
		refuses(t, Unbind{VMKey: testKey, Token: "p"}, "in use", who)
		one(t, in)
		vm.ok(release)
	}
	// What is let go of a moment later is waited for.
	vm.ok("cd " + in + "; cd /; { exec 8<" + in + "; sleep 0.4; } & sleep 0.1")
	do(t, Unbind{VMKey: testKey, Token: "p"})
	do(t, bindOf(t, src, "p"))
	// A process of this namespace is named too.
	f, err := os.Open(in)
	must(t, err)
	refuses(t, Unbind{VMKey: testKey, Token: "p"}, fmt.Sprintf("(pid %d)", os.Getpid()))
	f.Close()
	do(t, Unbind{VMKey: testKey, Token: "p"})
	if out, _ := vm.run("grep -c " + in + " /proc/self/mountinfo"); out != "0" {
		t.Errorf("the token is still mounted %s times where it propagated to", out)
	}
}

// What a killed run can leave, then the same run again.
func TestKilledRunsAreFinished(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_SHARED)
	exp := ExportRoot(testKey)
	src := folder(t, filepath.Join(work, "p"), owner, 0o755)
	b := bindOf(t, src, "p")
	check := func(what string) {
		t.Helper()
		do(t, Export{VMKey: testKey})
		do(t, b)
		if _, ok := one(t, exp).Shared(); !ok {
			t.Error(what, ": the export is not shared")
		}
		if m := one(t, filepath.Join(exp, "p")); !m.Has("idmapped") {
			t.Error(what, ": options", m.Options)
		}
		do(t, Unbind{VMKey: testKey, Token: "p"})
		do(t, Unexport{VMKey: testKey})
	}
	must(t, os.MkdirAll(exp, 0o755))
	check("directories only")
	must(t, os.MkdirAll(exp, 0o700))
	must(t, unix.Mount(exp, exp, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", exp, "", unix.MS_PRIVATE, ""))
	check("mounted, not shared")
	do(t, Export{VMKey: testKey})
	emptyToken(t, "p")
	check("token directory only")

	// And really killed, at twenty moments.
	self, err := os.Executable()
	must(t, err)
	for i := range 20 {
		cmd := exec.Command(self, src)
		cmd.Env = append(os.Environ(), roleEnv+"=mount")
		must(t, cmd.Start())
		time.Sleep(time.Duration(i) * 500 * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		check(fmt.Sprintf("kill %d", i))
	}
}

// emptyToken makes the directory of a token as an older aivm did.
func emptyToken(t *testing.T, token string) {
	t.Helper()
	d, err := openExport(testKey, false)
	must(t, err)
	defer d.close()
	fd, err := d.writable()
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Mkdirat(fd, token, 0o755))
}

// mountRole binds and unbinds the folder of its argument until it is killed.
func mountRole() int {
	var st unix.Stat_t
	if err := unix.Stat(os.Args[1], &st); err != nil {
		return 1
	}
	a := New(Options{Euid: 0})
	for {
		for _, op := range []Op{
			Export{VMKey: testKey},
			Bind{Src: os.Args[1], VMKey: testKey, Token: "p", UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino},
			Unbind{VMKey: testKey, Token: "p"},
			Unexport{VMKey: testKey},
		} {
			if _, err := a.Do(context.Background(), op, nil); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
}

func TestErrorsAreForPeople(t *testing.T) {
	var e *ui.Error
	_, err := New(Options{Euid: 0}).Do(t.Context(), Unbind{VMKey: "../../etc", Token: "x"}, nil)
	if !errors.As(err, &e) || e.Exit != ui.ExitRefused {
		t.Errorf("got %v", err)
	}
}
