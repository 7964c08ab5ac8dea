package root

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// Roles this test binary plays when a test starts it again.
const (
	workEnv = "AIVM_ROOT_TEST_WORK" // set: in a mount namespace of the test's own; its folder
	roleEnv = "AIVM_ROOT_TEST_ROLE"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		if err := Serve(context.Background(), os.Stdin, testBuilders); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == HookCommand {
		hookLockLimit = 2 * time.Second
		if err := RunHook(context.Background(), os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(roles[role]())
	}
	os.Exit(m.Run())
}

var roles = map[string]func() int{
	"daemon": fakeDaemon,
	"client": clientRole,
	"mount":  mountRole,
	"lock":   lockRole,
	"holder": holderRole,
}

// privately reports whether this is the process in which a test may mount: root
// in a mount namespace of its own, with /var/lib replaced by an empty folder.
// If it is not, it runs the test there and reports its result. more are
// further namespaces it gets.
func privately(t *testing.T, more ...uintptr) (work string, ok bool) {
	t.Helper()
	if work := os.Getenv(workEnv); work != "" {
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
	must(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"lib", "cache"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), workEnv+"="+dir)
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

// stage prepares the namespace: propagation of / as asked, and /var/lib and
// /var/cache empty.
func stage(t *testing.T, work string, rootPropagation uintptr) {
	t.Helper()
	must(t, unix.Mount("", "/", "", rootPropagation|unix.MS_REC, ""))
	for _, d := range []string{"lib", "cache"} {
		must(t, unix.Mount(filepath.Join(work, d), "/var/"+d, "", unix.MS_BIND, ""))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const testKey = "0-a"

func do(t *testing.T, op Op) Result {
	t.Helper()
	r, err := New(Options{Euid: 0}).Do(t.Context(), op, nil)
	if err != nil {
		t.Fatalf("%s: %v", op.Kind(), err)
	}
	return r
}

func refuses(t *testing.T, op Op, wants ...string) {
	t.Helper()
	_, err := New(Options{Euid: 0}).Do(t.Context(), op, nil)
	if err == nil {
		t.Fatalf("%s %+v: no error", op.Kind(), op)
	}
	for _, w := range wants {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %q does not mention %q", op.Kind(), err, w)
		}
	}
}

// bindOf is the record for a folder as it is now.
func bindOf(t *testing.T, src, token string) Bind {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(src, &st))
	return Bind{Src: src, VMKey: testKey, Token: token, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino}
}

func at(t *testing.T, point string) []mountinfo.Mount {
	t.Helper()
	ms, err := mountinfo.Read(mountinfo.Self)
	must(t, err)
	return mountinfo.At(ms, point)
}

// one is the only mount on point.
func one(t *testing.T, point string) mountinfo.Mount {
	t.Helper()
	l := at(t, point)
	if len(l) != 1 {
		t.Fatalf("%d mounts on %s, want 1: %v", len(l), point, l)
	}
	return l[0]
}

func folder(t *testing.T, path string, uid int, mode os.FileMode) string {
	t.Helper()
	must(t, os.MkdirAll(path, 0o755))
	must(t, os.Chmod(path, mode))
	must(t, os.Chown(path, uid, uid))
	return path
}

// receiver is a shell in a second mount namespace that receives what is
// mounted here, as virtiofsd's does.
type receiver struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
	cmd *exec.Cmd
	pid int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	return receive(t, "sh")
}

// receive is a receiver with a shell of one's own.
func receive(t *testing.T, shell ...string) *receiver {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"-m", "--propagation", "slave"}, shell...)...)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	r := &receiver{t: t, in: in, out: bufio.NewScanner(out), cmd: cmd, pid: cmd.Process.Pid}
	r.run("true") // the namespace is there now
	return r
}

// run runs a line there and returns what it printed, and its status.
func (r *receiver) run(line string) (string, int) {
	r.t.Helper()
	fmt.Fprintf(r.in, "{ %s\n} 2>&1; echo \"==$?\"\n", line)
	var b strings.Builder
	for r.out.Scan() {
		// A program may end without a newline before the mark.
		if text, status, ok := strings.Cut(r.out.Text(), "=="); ok {
			b.WriteString(text)
			code := 0
			fmt.Sscan(status, &code)
			return strings.TrimSpace(b.String()), code
		}
		b.WriteString(r.out.Text() + "\n")
	}
	r.t.Fatalf("the shell ended at %q", line)
	return "", 0
}

func (r *receiver) ok(line string) string {
	r.t.Helper()
	out, code := r.run(line)
	if code != 0 {
		r.t.Fatalf("%s: status %d: %s", line, code, out)
	}
	return out
}

func (r *receiver) fails(line, want string) {
	r.t.Helper()
	if out, code := r.run(line); code == 0 || !strings.Contains(out, want) {
		r.t.Errorf("%s: status %d, %q; want a failure with %q", line, code, out, want)
	}
}
