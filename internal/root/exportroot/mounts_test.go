package exportroot_test

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

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/exportroot"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/ui"
)

// fileSystems returns a directory on disk and one on a tmpfs, by name.
func fileSystems(t *testing.T, work string) map[string]string {
	t.Helper()
	disk, mem := filepath.Join(work, "disk"), filepath.Join(work, "mem")
	roottest.Must(t, os.MkdirAll(disk, 0o755))
	roottest.Must(t, os.MkdirAll(mem, 0o755))
	roottest.Must(t, unix.Mount("tmpfs", mem, "tmpfs", 0, "mode=755"))
	return map[string]string{"disk": disk, "tmpfs": mem}
}

// Bind maps owners: what the guest user and guest root write belongs to the
// folder's owner and to nobody on the host.
func TestBindGivesTheOwnerToTheGuestUser(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	vm := roottest.NewReceiver(t)
	for name, dir := range fileSystems(t, work) {
		src := roottest.Folder(t, filepath.Join(dir, "my project"), roottest.Owner, 0o755)
		roottest.Must(t, os.WriteFile(filepath.Join(src, "own"), []byte("x"), 0o600))
		roottest.Must(t, os.Chown(filepath.Join(src, "own"), roottest.Owner, roottest.Owner))
		token := "t-" + name
		if r := roottest.Do(t, roottest.BindOf(t, src, token)); r.Note != "" {
			t.Fatalf("%s: note %q, want a file system that maps owners", name, r.Note)
		}
		in := filepath.Join(rootfile.ExportRoot(roottest.Key), token)
		m := roottest.One(t, in)
		for _, o := range []string{"nosuid", "nodev", "idmapped", "rw"} {
			if !m.Has(o) {
				t.Errorf("%s: options %v lack %s", name, m.Options, o)
			}
		}
		const agent = "setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "
		if got := vm.OK("stat -c %u:%g " + in + " " + in + "/own"); got != "1000:1000\n1000:1000" {
			t.Errorf("%s: the guest sees owners %q", name, got)
		}
		// Files written as the guest user belong to the folder's owner on the host. The
		// virtiofs root is writable and accessible for the VM, too.
		vm.OK("mount -o remount,bind,rw " + filepath.Dir(in) + " && chmod 755 " + filepath.Dir(filepath.Dir(in)) + " " + filepath.Dir(in))
		vm.OK(agent + "'cd " + in + " && cat own && echo y >made && mv made moved && ln moved hard && mkdir d && chmod 700 d && ln -s moved sym'")
		// Files written as guest root belong to nobody, and their setuid bit has no
		// effect.
		vm.OK("cd " + in + " && cp /usr/bin/id suid && chmod 4755 suid && echo r >root && mv root root2; cd /")
		for f, want := range map[string]int{"moved": roottest.Owner, "d": roottest.Owner, "hard": roottest.Owner, "suid": record.Nobody, "root2": record.Nobody} {
			var st unix.Stat_t
			roottest.Must(t, unix.Lstat(filepath.Join(src, f), &st))
			if int(st.Uid) != want || int(st.Gid) != want {
				t.Errorf("%s: %s belongs to %d:%d on the host, want %d", name, f, st.Uid, st.Gid, want)
			}
		}
		id := exec.Command(filepath.Join(src, "suid"), "-u")
		id.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 23456, Gid: 23456}}
		if out, err := id.Output(); err != nil || strings.TrimSpace(string(out)) == "0" {
			t.Errorf("%s: a setuid file of guest root ran on the host as uid %q (%v)", name, out, err)
		}
		// Through the token, nosuid also holds.
		if out := vm.OK("setpriv --reuid 1000 --regid 1000 --clear-groups " + in + "/suid -u"); out != "1000" {
			t.Errorf("%s: nosuid does not hold on the token: %q", name, out)
		}
	}
}

func TestOwnersRootAndNobody(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	vm := roottest.NewReceiver(t)
	for _, c := range []struct{ uid, guestRoot int }{{0, record.Nobody}, {record.Nobody, record.Nobody - 1}, {1000, record.Nobody}, {1<<32 - 2, record.Nobody}} {
		token := fmt.Sprintf("o-%d", c.uid)
		src := roottest.Folder(t, filepath.Join(work, token), c.uid, 0o755)
		roottest.Do(t, roottest.BindOf(t, src, token))
		in := filepath.Join(rootfile.ExportRoot(roottest.Key), token)
		if got := vm.OK("stat -c %u:%g " + in); got != "1000:1000" {
			t.Errorf("owner %d appears as %s", c.uid, got)
		}
		vm.OK("touch " + in + "/r && mv " + in + "/r " + in + "/s && chown 1000:1000 " + in + "/s && touch " + in + "/r")
		for f, want := range map[string]int{"s": c.uid, "r": c.guestRoot} {
			var st unix.Stat_t
			roottest.Must(t, unix.Stat(filepath.Join(src, f), &st))
			if int(st.Uid) != want || int(st.Gid) != want {
				t.Errorf("owner %d: %s belongs to %d:%d on the host, want %d", c.uid, f, st.Uid, st.Gid, want)
			}
		}
	}
}

func TestReadOnlyHoldsInOtherNamespaces(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	vm := roottest.NewReceiver(t)
	for name, dir := range fileSystems(t, work) {
		src := roottest.Folder(t, filepath.Join(dir, "p"), roottest.Owner, 0o777)
		b := roottest.BindOf(t, src, "ro-"+name)
		b.RO = true
		roottest.Do(t, b)
		in := filepath.Join(rootfile.ExportRoot(roottest.Key), b.Token)
		vm.Fails("touch "+in+"/x", "Read-only file system")
		first := roottest.One(t, in).ID
		roottest.Do(t, b)
		if roottest.One(t, in).ID != first {
			t.Errorf("%s: a second bind was not a no-op", name)
		}
		b.RO = false
		roottest.Do(t, b)
		vm.OK("touch " + in + "/x")
	}
}

func TestBindIsIdempotentAndNeverStacks(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	// As systemd sets it up: all mounts are shared.
	roottest.Stage(t, work, unix.MS_SHARED)
	exp := rootfile.ExportRoot(roottest.Key)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	if st, err := os.Stat(exp); err != nil || st.Mode().Perm() != rootfile.OwnMode {
		t.Errorf("export root: %v %v", st.Mode(), err)
	}
	roottest.One(t, exp)
	src := roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755)
	b := roottest.BindOf(t, src, "p")
	roottest.Do(t, b)
	first := roottest.One(t, filepath.Join(exp, "p"))
	roottest.Do(t, b)
	if again := roottest.One(t, filepath.Join(exp, "p")); again.ID != first.ID {
		t.Error("a second bind replaced the mount")
	}
	// Mounts below the folder, made before or after, do not appear in the token.
	sub := filepath.Join(src, "sub")
	roottest.Must(t, os.Mkdir(sub, 0o755))
	roottest.Must(t, unix.Mount("tmpfs", sub, "tmpfs", 0, ""))
	if l := roottest.At(t, filepath.Join(exp, "p", "sub")); len(l) != 0 {
		t.Error("a later mount below the folder reached the token:", l)
	}
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
	roottest.Do(t, b)
	if l := roottest.At(t, filepath.Join(exp, "p", "sub")); len(l) != 0 {
		t.Error("an earlier mount below the folder is in the token:", l)
	}
	roottest.Must(t, unix.Unmount(sub, 0))

	// A new owner needs a new map.
	roottest.Must(t, os.Chown(src, roottest.Owner+1, roottest.Owner+1))
	b = roottest.BindOf(t, src, "p")
	roottest.Do(t, b)
	var st unix.Stat_t
	roottest.Must(t, unix.Stat(filepath.Join(exp, "p"), &st))
	if st.Uid != record.GuestUser {
		t.Errorf("after a change of owner the guest sees uid %d", st.Uid)
	}
	roottest.One(t, filepath.Join(exp, "p"))

	// The folder was recreated: the record for the old one is refused, and the new
	// folder replaces it.
	roottest.Must(t, os.Rename(src, src+".old"))
	roottest.Folder(t, src, roottest.Owner, 0o755)
	roottest.Refuses(t, b, "was replaced since")
	roottest.Do(t, roottest.BindOf(t, src, "p"))
	if m := roottest.One(t, filepath.Join(exp, "p")); strings.Contains(m.Root, ".old") {
		t.Error("the token still shows", m.Root)
	}

	roottest.Refuses(t, record.Unexport{VMKey: roottest.Key}, "still shared", "p")
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
	roottest.Do(t, record.Unexport{VMKey: roottest.Key})
	roottest.Do(t, record.Unexport{VMKey: roottest.Key})
	if _, err := os.Stat(exp); !os.IsNotExist(err) {
		t.Error("the export root is still there:", err)
	}
	if len(roottest.At(t, exp)) != 0 {
		t.Error("still mounted")
	}
	if _, err := os.Stat(filepath.Join(src+".old", "sub")); err != nil {
		t.Error("the folder was changed:", err)
	}
}

func TestBindRefusals(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	exp := rootfile.ExportRoot(roottest.Key)
	src := roottest.Folder(t, filepath.Join(work, "p", "c"), roottest.Owner, 0o755)
	b := roottest.BindOf(t, src, "c")
	roottest.Refuses(t, b, "c")
	if len(roottest.At(t, exp)) != 0 {
		t.Fatal("bind without an export mounted something")
	}
	roottest.Do(t, record.Export{VMKey: roottest.Key})

	// The guest owns the parent and puts a link in the place of the child.
	roottest.Must(t, os.Rename(src, src+".away"))
	roottest.Must(t, os.Symlink("/etc", src))
	roottest.Refuses(t, b, "symbolic link")
	// The same with the device and inode of the link's target.
	evil := roottest.BindOf(t, "/etc", "c")
	evil.Src = src
	roottest.Refuses(t, evil, "symbolic link")
	roottest.Must(t, os.Remove(src))
	// A link in the middle of the path.
	roottest.Must(t, os.Symlink(src+".away", filepath.Join(work, "p", "l")))
	mid := roottest.Folder(t, filepath.Join(src+".away", "deep"), roottest.Owner, 0o755)
	through := roottest.BindOf(t, mid, "c")
	through.Src = filepath.Join(work, "p", "l", "deep")
	roottest.Refuses(t, through, "symbolic link")
	roottest.Must(t, os.WriteFile(src, nil, 0o644))
	roottest.Refuses(t, b, "not a folder")
	roottest.Must(t, os.Remove(src))
	roottest.Refuses(t, b, "does not exist")
	roottest.Must(t, os.Rename(src+".away", src))

	// Another program's mounts are not changed.
	point := filepath.Join(exp, "c")
	emptyToken(t, "c")
	roottest.Must(t, unix.Mount("tmpfs", point, "tmpfs", 0, ""))
	roottest.Refuses(t, b, "not aivm's")
	roottest.Refuses(t, record.Unbind{VMKey: roottest.Key, Token: "c"}, "not aivm's")
	roottest.Must(t, unix.Unmount(point, 0))
	roottest.Do(t, b)
	roottest.Must(t, unix.Mount("tmpfs", point, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""))
	roottest.Refuses(t, b, "on top of each other")
	roottest.Refuses(t, record.Unbind{VMKey: roottest.Key, Token: "c"}, "on top of each other")
	roottest.Must(t, unix.Unmount(point, 0))
	roottest.Do(t, b)

	// An export root that another user owns, or that is a link.
	roottest.Must(t, os.MkdirAll(rootfile.ExportRoot("0-b"), 0o755))
	roottest.Must(t, os.Chown(rootfile.ExportRoot("0-b"), roottest.Owner, roottest.Owner))
	roottest.Refuses(t, record.Export{VMKey: "0-b"}, "not to root")
	roottest.Must(t, os.Symlink("/etc", rootfile.ExportRoot("0-c")))
	roottest.Refuses(t, record.Export{VMKey: "0-c"})
	if len(roottest.At(t, "/etc")) != 0 {
		t.Error("a mount followed a link to /etc")
	}
}

func TestFileSystemThatCannotMap(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	dir := filepath.Join(work, "ramfs")
	roottest.Must(t, os.Mkdir(dir, 0o755))
	roottest.Must(t, unix.Mount("ramfs", dir, "ramfs", 0, ""))
	src := roottest.Folder(t, filepath.Join(dir, "p"), roottest.Owner, 0o755)
	b := roottest.BindOf(t, src, "p")
	for range 2 {
		if r := roottest.Do(t, b); !strings.Contains(r.Note, "cannot map owners") {
			t.Errorf("note %q", r.Note)
		}
	}
	if m := roottest.One(t, filepath.Join(rootfile.ExportRoot(roottest.Key), "p")); !m.Has("nosuid") || !m.Has("nodev") || m.Has("idmapped") {
		t.Errorf("options %v", m.Options)
	}
}

func TestBusyTokenNamesItsHolder(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	vm := roottest.NewReceiver(t)
	src := roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755)
	roottest.Must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o644))
	roottest.Do(t, roottest.BindOf(t, src, "p"))
	in := filepath.Join(rootfile.ExportRoot(roottest.Key), "p")
	who := fmt.Sprintf("sh (pid %d)", vm.PID)
	for use, release := range map[string]string{"cd " + in: "cd /", "exec 7<" + in + "/f": "exec 7<&-"} {
		vm.OK(use)
		roottest.Refuses(t, record.Unbind{VMKey: roottest.Key, Token: "p"}, "in use", who)
		roottest.One(t, in)
		vm.OK(release)
	}
	// Unbind waits for a process that closes the folder a moment later.
	vm.OK("cd " + in + "; cd /; { exec 8<" + in + "; sleep 0.4; } & sleep 0.1")
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
	roottest.Do(t, roottest.BindOf(t, src, "p"))
	// The error also names a process in this mount namespace.
	f, err := os.Open(in)
	roottest.Must(t, err)
	roottest.Refuses(t, record.Unbind{VMKey: roottest.Key, Token: "p"}, fmt.Sprintf("(pid %d)", os.Getpid()))
	f.Close()
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
	if out, _ := vm.Run("grep -c " + in + " /proc/self/mountinfo"); out != "0" {
		t.Errorf("the token is still mounted %s times where it propagated to", out)
	}
}

// The same actions succeed after a run that was killed at any step.
func TestKilledRunsAreFinished(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_SHARED)
	exp := rootfile.ExportRoot(roottest.Key)
	src := roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755)
	b := roottest.BindOf(t, src, "p")
	check := func(what string) {
		t.Helper()
		roottest.Do(t, record.Export{VMKey: roottest.Key})
		roottest.Do(t, b)
		if _, ok := roottest.One(t, exp).Shared(); !ok {
			t.Error(what, ": the export is not shared")
		}
		if m := roottest.One(t, filepath.Join(exp, "p")); !m.Has("idmapped") {
			t.Error(what, ": options", m.Options)
		}
		roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
		roottest.Do(t, record.Unexport{VMKey: roottest.Key})
	}
	roottest.Must(t, os.MkdirAll(exp, 0o755))
	check("directories only")
	roottest.Must(t, os.MkdirAll(exp, 0o700))
	roottest.Must(t, unix.Mount(exp, exp, "", unix.MS_BIND, ""))
	roottest.Must(t, unix.Mount("", exp, "", unix.MS_PRIVATE, ""))
	check("mounted, not shared")
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	emptyToken(t, "p")
	check("token directory only")

	// A real process, killed at twenty moments.
	self, err := os.Executable()
	roottest.Must(t, err)
	for i := range 20 {
		cmd := exec.Command(self, src)
		cmd.Env = append(os.Environ(), roottest.RoleEnv+"=mount")
		roottest.Must(t, cmd.Start())
		time.Sleep(time.Duration(i) * 500 * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		check(fmt.Sprintf("kill %d", i))
	}
}

// emptyToken makes the directory of a token as an older aivm did.
func emptyToken(t *testing.T, token string) {
	t.Helper()
	d, err := exportroot.OpenExport(roottest.Key, false)
	roottest.Must(t, err)
	defer d.Close()
	fd, err := d.Writable()
	roottest.Must(t, err)
	defer unix.Close(fd)
	roottest.Must(t, unix.Mkdirat(fd, token, 0o755))
}

// mountRole binds and unbinds the folder of its argument until it is killed.
func mountRole() int {
	var st unix.Stat_t
	if err := unix.Stat(os.Args[1], &st); err != nil {
		return 1
	}
	a := root.New(root.Options{Euid: 0})
	for {
		for _, op := range []record.Op{
			record.Export{VMKey: roottest.Key},
			record.Bind{Src: os.Args[1], VMKey: roottest.Key, Token: "p", UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino},
			record.Unbind{VMKey: roottest.Key, Token: "p"},
			record.Unexport{VMKey: roottest.Key},
		} {
			if _, err := a.Do(context.Background(), op, nil); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
}

func TestInvalidRecordIsRefused(t *testing.T) {
	var e *ui.Error
	_, err := root.New(root.Options{Euid: 0}).Do(t.Context(), record.Unbind{VMKey: "../../etc", Token: "x"}, nil)
	if !errors.As(err, &e) || e.Exit != ui.ExitRefused {
		t.Errorf("got %v", err)
	}
}
