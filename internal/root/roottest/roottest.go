// Package roottest is the stage on which the tests of internal/root play: mount
// namespaces with an empty /var/lib, shells in other namespaces, a libvirtd of
// the test's own, and the roles the test binary plays when it is started again.
package roottest

import (
	"bytes"
	"context"
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
	"aivm.dev/aivm/internal/root/hookrun"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
)

// MountTable is the mount table of this process.
func MountTable(t *testing.T) []mountinfo.Mount {
	t.Helper()
	ms, err := mountinfo.Read(mountinfo.Self)
	Must(t, err)
	return ms
}

// What tells the test binary, when a test starts it again, where it is and which
// role it plays.
const (
	WorkEnv = "AIVM_ROOT_TEST_WORK" // set: in a mount namespace of the test's own; its folder
	RoleEnv = "AIVM_ROOT_TEST_ROLE"
)

// Privately reports whether this is the process in which a test may mount: root
// in a mount namespace of its own, with /var/lib replaced by an empty folder.
// If it is not, it runs the test there and reports its result. more are
// further namespaces it gets.
func Privately(t *testing.T, more ...uintptr) (work string, ok bool) {
	t.Helper()
	if work := os.Getenv(WorkEnv); work != "" {
		return work, true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	if os.Geteuid() != 0 {
		out, err := exec.Command("sudo", append([]string{"-n", "--", self}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("this test makes real mounts and needs root; as a user it uses sudo -n, which did not do: %v\n%s", err, out)
		}
		return "", false
	}
	// On the disk, and removed here, when the namespace and its mounts are gone.
	dir, err := os.MkdirTemp("/var/tmp", "aivm-root-test-")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	Must(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"lib", "cache"} {
		Must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), WorkEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	for _, m := range more {
		cmd.SysProcAttr.Unshareflags |= m
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("in a mount namespace of its own: %v\n%s", err, out)
	}
	return "", false
}

// Stage prepares the namespace: propagation of / as asked, and /var/lib and
// /var/cache empty.
func Stage(t *testing.T, work string, rootPropagation uintptr) {
	t.Helper()
	Must(t, unix.Mount("", "/", "", rootPropagation|unix.MS_REC, ""))
	for _, d := range []string{"lib", "cache"} {
		Must(t, unix.Mount(filepath.Join(work, d), "/var/"+d, "", unix.MS_BIND, ""))
	}
}

// Must ends the test on an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Key is the VM key of the tests.
const Key = "0-a"

// Do executes an action as root, which must work.
func Do(t *testing.T, op record.Op) record.Result {
	t.Helper()
	r, err := root.New(root.Options{Euid: 0}).Do(t.Context(), op, nil)
	if err != nil {
		t.Fatalf("%s: %v", op.Kind(), err)
	}
	return r
}

// Refuses executes an action, which must fail with all these words.
func Refuses(t *testing.T, op record.Op, wants ...string) {
	t.Helper()
	_, err := root.New(root.Options{Euid: 0}).Do(t.Context(), op, nil)
	if err == nil {
		t.Fatalf("%s %+v: no error", op.Kind(), op)
	}
	for _, w := range wants {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %q does not mention %q", op.Kind(), err, w)
		}
	}
}

// BindOf is the record for a folder as it is now.
func BindOf(t *testing.T, src, token string) record.Bind {
	t.Helper()
	var st unix.Stat_t
	Must(t, unix.Stat(src, &st))
	return record.Bind{Src: src, VMKey: Key, Token: token, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino}
}

// At are the mounts on point, the lowest first.
func At(t *testing.T, point string) []mountinfo.Mount {
	t.Helper()
	ms, err := mountinfo.Read(mountinfo.Self)
	Must(t, err)
	return mountinfo.At(ms, point)
}

// One is the only mount on point.
func One(t *testing.T, point string) mountinfo.Mount {
	t.Helper()
	l := At(t, point)
	if len(l) != 1 {
		t.Fatalf("%d mounts on %s, want 1: %v", len(l), point, l)
	}
	return l[0]
}

// Folder makes a folder of this user.
func Folder(t *testing.T, path string, uid int, mode os.FileMode) string {
	t.Helper()
	Must(t, os.MkdirAll(path, 0o755))
	Must(t, os.Chmod(path, mode))
	Must(t, os.Chown(path, uid, uid))
	return path
}

// Owner is no user of the machine.
const Owner = 4321

// Sh runs a line of shell, which must work.
func Sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// Main is TestMain of a test whose binary is started again: as the helper, with
// these builders, as the hook, or in one of these roles.
func Main(m *testing.M, roles map[string]func() int, builders map[string]record.BuildFunc) {
	if len(os.Args) > 1 && os.Args[1] == root.Command {
		if err := root.Serve(context.Background(), os.Stdin, builders); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == rootfile.HookCommand {
		if err := hookrun.Run(context.Background(), HookLockLimit, os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	if role := os.Getenv(RoleEnv); role != "" {
		os.Exit(roles[role]())
	}
	os.Exit(m.Run())
}

// HookLockLimit is how long a hook that the test binary plays waits for its locks.
const HookLockLimit = 2 * time.Second
