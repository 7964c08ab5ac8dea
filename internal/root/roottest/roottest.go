// Package roottest sets up the environment of internal/root's tests: mount namespaces
// with an empty /var/lib, shells in other namespaces, a libvirtd of the test's own, and
// the roles in which a test starts its own binary again.
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

// MountTable returns the mount table of this process.
func MountTable(t *testing.T) []mountinfo.Mount {
	t.Helper()
	ms, err := mountinfo.Read(mountinfo.Self)
	Must(t, err)
	return ms
}

// Environment variables of a test binary that a test started again.
const (
	WorkEnv = "AIVM_ROOT_TEST_WORK" // work folder; set in the test's own mount namespace
	RoleEnv = "AIVM_ROOT_TEST_ROLE" // role, a key of Main's roles
)

// Privately reports whether this process may mount: it is root in a mount namespace of
// its own, in which Stage replaces /var/lib by an empty folder in work. If it is not,
// Privately runs the test again in such a process and reports its result; the caller
// then returns. more are further namespace flags (CLONE_NEW*).
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
			t.Fatalf("this test makes real mounts and needs root; it tried sudo -n, which failed: %v\n%s", err, out)
		}
		return "", false
	}
	// On the disk, and removed by this process, after the namespace and its mounts have
	// ended.
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
		t.Fatalf("the test in its own mount namespace: %v\n%s", err, out)
	}
	return "", false
}

// Stage prepares the namespace: it sets the propagation of /, and mounts empty folders
// on /var/lib and /var/cache.
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

// Do executes an action as root, which must succeed.
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

// BindOf returns the Bind record of a folder, with its present owner and inode.
func BindOf(t *testing.T, src, token string) record.Bind {
	t.Helper()
	var st unix.Stat_t
	Must(t, unix.Stat(src, &st))
	return record.Bind{Src: src, VMKey: Key, Token: token, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino}
}

// At returns the mounts on point, the lowest first.
func At(t *testing.T, point string) []mountinfo.Mount {
	t.Helper()
	ms, err := mountinfo.Read(mountinfo.Self)
	Must(t, err)
	return mountinfo.At(ms, point)
}

// One returns the only mount on point, and fails the test if there is another number.
func One(t *testing.T, point string) mountinfo.Mount {
	t.Helper()
	l := At(t, point)
	if len(l) != 1 {
		t.Fatalf("%d mounts on %s, want 1: %v", len(l), point, l)
	}
	return l[0]
}

// Folder makes a folder with this owner and mode.
func Folder(t *testing.T, path string, uid int, mode os.FileMode) string {
	t.Helper()
	Must(t, os.MkdirAll(path, 0o755))
	Must(t, os.Chmod(path, mode))
	Must(t, os.Chown(path, uid, uid))
	return path
}

// Owner is the uid of the tests' folders; no user of the machine has it.
const Owner = 4321

// Sh runs a shell command, which must succeed.
func Sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// Main is the TestMain of packages whose tests start their binary again: as the helper,
// with these builders, as the hook, or in one of these roles.
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

// HookLockLimit is how long the test binary, run as a hook, waits for its locks.
const HookLockLimit = 2 * time.Second
