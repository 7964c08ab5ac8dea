// Package e2e tests the aivm program with real VMs: libvirt, QEMU, virtiofsd, dnsmasq, cloud-init
// and OpenSSH. Only the editor is a substitute (test/fakecode). The tests need root; `make test`
// uses sudo where necessary.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// cacheHome keeps the guest image between test runs. A missing image is rebuilt.
const cacheHome = "/var/cache/aivm-test"

// bin is the directory of the programs under test. TestMain builds them once.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv("AIVM_E2E") == "" {
		fmt.Println("e2e: these tests create real VMs; run them with: make test")
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: these tests need root (make test uses sudo)")
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "aivm-e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = dir
	for out, pkg := range map[string]string{"aivm": "../../cmd/aivm", "aivm-faulty": "./aivm-faulty", "code": "../fakecode"} {
		c := exec.Command("go", "build", "-o", filepath.Join(dir, out), pkg)
		if b, err := c.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", pkg, err, b)
			return 1
		}
	}
	sweep()
	// `vm delete` keeps the network for the next VM. So networks that these tests or an earlier,
	// killed run created are removed here; all others stay.
	existing := networks()
	if b, err := os.ReadFile(networksBefore); err == nil {
		existing = map[string]bool{}
		for _, n := range strings.Fields(string(b)) {
			existing[n] = true
		}
		removeNetworks(existing)
	} else if err := os.WriteFile(networksBefore, []byte(strings.Join(slices.Sorted(maps.Keys(existing)), "\n")), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	removeNetworks(existing)
	_ = os.Remove(networksBefore)
	return code
}

// networksBefore is a file that lists, while the tests run, the libvirt networks that existed before.
const networksBefore = cacheHome + "/networks-before"

// removeNetworks removes the networks that tests created: aivm-net* and e2e-*, except those in keep.
func removeNetworks(keep map[string]bool) {
	for n := range networks() {
		if !keep[n] && (strings.HasPrefix(n, "aivm-net") || strings.HasPrefix(n, "e2e-")) {
			_ = exec.Command("virsh", "-c", "qemu:///system", "net-destroy", n).Run()
			_ = exec.Command("virsh", "-c", "qemu:///system", "net-undefine", n).Run()
			_ = os.Remove("/var/lib/aivm/manifest/net-" + n + ".json")
		}
	}
}

func networks() map[string]bool {
	out, _ := exec.Command("virsh", "-c", "qemu:///system", "net-list", "--all", "--name").Output()
	names := map[string]bool{}
	for _, n := range strings.Fields(string(out)) {
		names[n] = true
	}
	return names
}

// world is the environment in which a test runs programs as one user: home directory, environment
// variables, user name.
type world struct {
	t    *testing.T
	home string
	user string // "" = root
	env  []string
	log  string // file in which test/fakecode logs
}

// rootWorld returns a world of root with an empty temporary home. It does not use root's real ssh
// configuration.
func rootWorld(t *testing.T) *world {
	t.Helper()
	home := t.TempDir()
	w := &world{t: t, home: home, log: filepath.Join(home, "code.log")}
	w.env = []string{
		"HOME=" + home, "PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
		"XDG_CACHE_HOME=" + cacheHome, "AIVM_SSH_CONFIG=" + filepath.Join(home, ".ssh/config"), "FAKECODE_LOG=" + w.log,
	}
	return w
}

type result struct {
	code           int
	stdout, stderr string
	took           time.Duration
}

// run runs a program in this world, for at most 15 minutes. dir "" is the home.
func (w *world) run(dir string, stdin []byte, env []string, argv ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	if w.user != "" {
		argv = append([]string{"sudo", "-u", w.user, "env", "-i", "-C", firstNonEmpty(dir, w.home)}, append(append(append([]string{}, w.env...), env...), argv...)...)
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir = firstNonEmpty(dir, w.home)
	if w.user == "" {
		c.Env = append(append([]string{}, w.env...), env...)
		if p, err := exec.LookPath(filepath.Join(bin, argv[0])); err == nil {
			c.Path = p
			c.Err = nil
		}
	}
	var out, errw bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &errw
	began := time.Now()
	err := c.Run()
	r := result{stdout: out.String(), stderr: errw.String(), took: time.Since(began)}
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		r.code = ee.ExitCode()
	case err != nil:
		w.t.Fatalf("%v: %v", argv, err)
	}
	return r
}

func firstNonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (w *world) aivm(dir string, args ...string) result {
	w.t.Helper()
	return w.run(dir, nil, nil, append([]string{filepath.Join(bin, "aivm")}, args...)...)
}

// must runs aivm and fails the test unless it exits 0.
func (w *world) must(dir string, args ...string) result {
	w.t.Helper()
	r := w.aivm(dir, args...)
	if r.code != 0 {
		w.t.Fatalf("aivm %s: exit %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r
}

// ssh runs the OpenSSH client with this world's ssh configuration.
func (w *world) ssh(stdin []byte, args ...string) result {
	w.t.Helper()
	return w.run("", stdin, nil, append([]string{"ssh", "-F", filepath.Join(w.home, ".ssh/config"), "-o", "BatchMode=yes"}, args...)...)
}

// guest runs a shell command in the guest and returns its stdout. It fails the test unless the
// command exits 0. Calls share one SSH connection, because a login takes one to two seconds with an
// emulated CPU.
func (w *world) guest(alias, line string) string {
	w.t.Helper()
	return w.output(line, "-o", "ControlMaster=auto", "-o", "ControlPath="+filepath.Join(bin, "ssh-%C"), "-o", "ControlPersist=60",
		"-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2", alias, line)
}

// login is guest with a new SSH connection, for tests that count logins.
func (w *world) login(alias, line string) string {
	w.t.Helper()
	return w.output(line, alias, line)
}

func (w *world) output(line string, args ...string) string {
	w.t.Helper()
	r := w.ssh(nil, args...)
	if r.code != 0 {
		w.t.Fatalf("in the guest: %s: exit %d\n%s%s", line, r.code, r.stdout, r.stderr)
	}
	return strings.TrimRight(r.stdout, "\n")
}

// steps returns a function that runs one step of a test as a subtest and logs how long it took.
// The test ends at the first step that fails, because later steps depend on it.
func (w *world) steps() func(name string, f func(t *testing.T)) {
	t := w.t
	return func(name string, f func(t *testing.T)) {
		t.Helper()
		began := time.Now()
		ok := t.Run(name, func(t *testing.T) { w.t = t; f(t) })
		t.Logf("%s: %.1f s", name, time.Since(began).Seconds())
		if w.t = t; !ok {
			t.FailNow()
		}
	}
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-c", "qemu:///system"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// guestImage returns the path of the guest image in the tests' cache and builds it if it is missing.
func guestImage(t *testing.T) string {
	t.Helper()
	find := func() []string {
		imgs, err := filepath.Glob(filepath.Join(cacheHome, "aivm/images/*.qcow2"))
		if err != nil {
			t.Fatal(err)
		}
		return imgs
	}
	if len(find()) == 0 {
		rootWorld(t).must("", "host", "image-fetch", "--image", "packages:debian-12", "--yes")
	}
	return smallest(t, find())
}

func smallest(t *testing.T, files []string) string {
	t.Helper()
	best, size := "", int64(0)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && (best == "" || st.Size() < size) {
			best, size = f, st.Size()
		}
	}
	return best
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// opened returns the last summary that test/fakecode logged.
func (w *world) opened() (rec struct {
	Event, Alias, Path, Error string
	Asked, Forward, Folder    bool
},
) {
	w.t.Helper()
	b, err := os.ReadFile(w.log)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, `"event":"summary"`) {
			if err := json.Unmarshal([]byte(line), &rec); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return rec
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// runHost runs a program on the host and returns its output.
func runHost(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}
