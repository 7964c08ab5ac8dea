package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// fill mounts a file system on a loop device and starts a second process, as the build does, and
// waits.
const fill = `
set -e
mount -t proc proc /proc
cd "$WORK"
truncate -s 16M disk.raw
mke2fs -q -F disk.raw
mkdir -p root
mount -t ext4 -o loop disk.raw root
sleep 987654 &
echo 0.5 mounted >&3
wait
`

func TestMain(m *testing.M) {
	if dir := os.Getenv("AIVM_TEST_BUILD"); dir != "" {
		err := runScript(context.Background(), fill, environment(nil, map[string]string{"WORK": dir}),
			newWatch(func(l string, _ float64) { fmt.Println(l) }))
		fmt.Println("ended", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func noTrace(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		what := trace(t, dir)
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// trace names a remnant of a build in dir, or returns "".
func trace(t *testing.T, dir string) string {
	t.Helper()
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, p := range loops {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), dir) {
			return "loop device remains: " + p
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), dir) {
		return "a mount remains"
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, p := range procs {
		if target, err := os.Readlink(p); err == nil && strings.HasPrefix(target, dir) {
			return "a process remains: " + p
		}
	}
	return ""
}

// A build whose helper process is killed leaves nothing but files. Run as a user, a build is
// refused.
func TestBuildKilled(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		_, err := Build(context.Background(), Debian12, dir, nil)
		var e *ui.Error
		if !errors.As(err, &e) || e.Exit != ui.ExitRefused {
			t.Fatalf("built as a user: %v", err)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), "AIVM_TEST_BUILD="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, _ := out.Read(b)
	if got := string(b[:n]); got != "mounted\n" {
		_ = c.Process.Kill()
		t.Fatalf("the script printed %q", got)
	}
	if got := trace(t, dir); !strings.HasPrefix(got, "loop") {
		t.Fatalf("the build made no loop device: %q", got)
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), dir) {
		t.Error("the mount is visible outside its namespace")
	}
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	noTrace(t, dir)
}

func TestBuildCancelled(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var lines []string
	err := runScript(ctx, fill, environment(nil, map[string]string{"WORK": dir}), newWatch(func(l string, _ float64) {
		lines = append(lines, l)
		cancel()
	}))
	if os.Geteuid() != 0 {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("namespaces as a user: %v", err)
		}
		return
	}
	if !errors.Is(err, context.Canceled) || len(lines) != 1 {
		t.Errorf("%v %q", err, lines)
	}
	noTrace(t, dir)
}

func TestBuildFails(t *testing.T) {
	if os.Geteuid() == 0 {
		err := runScript(context.Background(), "set -e; echo 0.3 trying things >&3; echo noise; echo 'E: no such mirror' >&2; exit 7",
			environment(nil, nil), newWatch(func(string, float64) {}))
		var e *ui.Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, "while trying things: exit status 7: E: no such mirror") {
			t.Errorf("%v", err)
		}
	}
	if _, err := Build(context.Background(), "debian-99", t.TempDir(), nil); err == nil {
		t.Error("built an unknown distribution")
	}
	if Builders()[Debian12] == nil || len(Builders()) != len(recipes) {
		t.Error("a distribution has no builder")
	}
	var _ map[string]root.BuildFunc = Builders()
}

func TestWatch(t *testing.T) {
	var lines []string
	var at []float64
	w := newWatch(func(l string, f float64) { lines, at = append(lines, l), append(at, f) })
	w.step("0.02 fetching the packages")
	w.step("nonsense")
	for range 300 {
		fmt.Fprint(w, "Unpacking libc6:amd64 (2.36-9) ...\r\nPreparing to unp")
		fmt.Fprint(w, "ack\nSetting up \x1b[1mevil (1) ...\n")
	}
	w.step("0.94 compressing the image")
	for i := 1; i < len(at); i++ {
		if at[i] < at[i-1] || at[i] > 1 {
			t.Fatalf("progress goes from %v to %v", at[i-1], at[i])
		}
	}
	if lines[0] != "fetching the packages" || lines[1] != "unpacking libc6:amd64" || strings.Contains(lines[2], "\x1b") || len(lines) != 602 {
		t.Errorf("%d %q", len(lines), lines[:3])
	}
	fmt.Fprint(w, "Err:1 http://m.example bookworm InRelease\nE: Failed to fetch it\n")
	var e *ui.Error
	if err := w.failure(errors.New("exit status 100")); !errors.As(err, &e) || len(e.HintLines()) != 1 || !strings.Contains(e.HintLines()[0], "apt-get update") {
		t.Errorf("%v", err)
	}
	w = newWatch(func(string, float64) {})
	fmt.Fprint(w, strings.Repeat("x", 1<<20))
	if len(w.part) > lineLimit {
		t.Error("an endless line is kept in memory")
	}
}

func TestRecipe(t *testing.T) {
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	var b strings.Builder
	for _, f := range append(early(id), bookworm.late(id, "SOURCES\n", "CONF\n")...) {
		b.WriteString("== " + f.path + "\n" + f.content)
	}
	golden(t, "files.txt", b.String())

	dir := t.TempDir()
	old := syscall.Umask(0o077)
	err := os.Mkdir(filepath.Join(dir, "tree"), 0o700)
	if err == nil {
		err = writeTree(filepath.Join(dir, "tree"), bookworm.late(id, "SOURCES\n", ""))
	}
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for p, mode := range map[string]fs.FileMode{".": 0o755, "etc": 0o755, "etc/machine-id": 0o644, "boot/extlinux": 0o755} {
		if st, err := os.Stat(filepath.Join(dir, "tree", p)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", p, st.Mode(), err)
		}
	}
	if end := partStart + partSectors; end+33 > diskSectors || partSectors%8 != 0 {
		t.Errorf("the partition ends at %d of %d", end, diskSectors)
	}
}

func TestHostApt(t *testing.T) {
	build, guest := hostApt("APT \"\";\nAcquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://u:p@proxy.example:3142\";\n" +
		"Acquire::https::Verify-Peer \"true\";\nAcquire::http::Proxy::local.example \"DIRECT\";\nAcquire::Check-Valid-Until \"false\";\n" +
		"DPkg::Post-Invoke:: \"rm -f /x\";\nDir::Etc \"etc/apt\";\n")
	if want := "Acquire::http::Proxy \"http://u:p@proxy.example:3142\";\nAcquire::https::Verify-Peer \"true\";\n" +
		"Acquire::http::Proxy::local.example \"DIRECT\";\nAcquire::Check-Valid-Until \"false\";\n"; build != want {
		t.Errorf("build:\n%s", build)
	}
	if guest != "Acquire::Check-Valid-Until \"false\";\n" {
		t.Errorf("guest:\n%s", guest)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"http_proxy=http://p", "HTTPS_PROXY=http://q", "BASH_ENV=/evil", "LD_PRELOAD=/evil", "TMPDIR=/x"}, map[string]string{"WORK": "/w"})
	for _, kv := range got {
		if strings.Contains(kv, "evil") || strings.HasPrefix(kv, "TMPDIR=") {
			t.Errorf("the build's environment has %s", kv)
		}
	}
	if s := strings.Join(got, " "); !strings.Contains(s, "http_proxy=http://p") || !strings.Contains(s, "HTTPS_PROXY=http://q") || !strings.Contains(s, "WORK=/w") {
		t.Error(s)
	}
}
