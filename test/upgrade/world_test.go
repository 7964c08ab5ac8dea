package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("AIVM_E2E") == "" {
		fmt.Println("upgrade: these tests define VMs and install older programs for libvirt's hooks; run them with: make e2e")
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "upgrade: root is needed (make e2e uses sudo)")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// programs are the paths of aivm and of aivm-faulty, which can be killed at a fault point.
type programs struct{ aivm, faulty string }

// build compiles both programs from a checkout.
func build(t *testing.T, checkout string) programs {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "./cmd/aivm", "./test/e2e/aivm-faulty")
	c.Dir = checkout
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", checkout, err, out)
	}
	return programs{filepath.Join(dir, "aivm"), filepath.Join(dir, "aivm-faulty")}
}

// world is the environment of one user with one VM, with names unique to this test.
type world struct {
	t                 *testing.T
	home, base        string
	vm, net           string
	bridge, sub       string
	env               []string
	store, state, ssh string
}

func newWorld(t *testing.T, n int) *world {
	t.Helper()
	// Not t.TempDir: QEMU's own user must be able to read the disk in it.
	home, err := os.MkdirTemp("/var/tmp", "aivm-upgrade-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, home: home, base: filepath.Join(home, "pool"), vm: fmt.Sprintf("e2e-up%d", n), net: fmt.Sprintf("e2e-upnet%d", n),
		bridge: fmt.Sprintf("virbr-e2eup%d", n), sub: fmt.Sprintf("10.99.%d", 240+n),
		store: filepath.Join(home, ".config/aivm/config.toml"), state: filepath.Join(home, ".local/state/aivm"), ssh: filepath.Join(home, ".ssh/config"),
	}
	w.env = []string{
		"HOME=" + home, "USER=root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
		"AIVM_SSH_CONFIG=" + w.ssh, "HTTPS_PROXY=http://127.0.0.1:1",
	}
	t.Cleanup(w.sweep)
	w.sweepLibvirt() // remains of a killed run
	write(t, w.store, fmt.Sprintf("schema_version = 5\n# mine, and it stays\n[defaults.vm]\nname = %q\ncpus = 1\nram_mb = 512 # enough\ndisk_gb = 4\n\n[defaults.network]\nname = %q\nbridge = %q\nsubnet_cidr = \"%[4]s.0/24\"\n"+
		"gateway_ip = \"%[4]s.1\"\ndhcp_start = \"%[4]s.100\"\ndhcp_end = \"%[4]s.200\"\n\n[defaults.paths]\nbase_dir = %[5]q\n", w.vm, w.net, w.bridge, w.sub, w.base))
	write(t, w.ssh, "# mine\nHost other\n  User me\n")
	// Not a bootable system, but enough of a disk to be accepted as one.
	img := make([]byte, 64<<10)
	img[510], img[511] = 0x55, 0xaa
	write(t, filepath.Join(home, "tiny.img"), string(img))
	for _, p := range []string{"p1", "p2", "p3"} {
		write(t, filepath.Join(home, p, "Makefile"), "all:\n")
	}
	return w
}

// sweep removes what the test created, in any state.
func (w *world) sweep() {
	w.sweepLibvirt()
	_ = exec.Command("virsh", "-q", "-c", "qemu:///system", "pool-list", "--all", "--name").Run()
	for _, n := range strings.Fields(virsh("pool-list", "--all", "--name")) {
		if strings.Contains(virsh("pool-dumpxml", n), "<path>"+w.home) {
			virsh("pool-destroy", n)
			virsh("pool-undefine", n)
		}
	}
	if err := os.RemoveAll(w.home); err != nil {
		w.t.Error(err)
	}
}

func (w *world) sweepLibvirt() {
	virsh("destroy", w.vm)
	virsh("undefine", w.vm, "--snapshots-metadata")
	virsh("net-destroy", w.net)
	virsh("net-undefine", w.net)
	key := "0-" + w.vm
	export := filepath.Join("/var/lib/aivm/export", key)
	tokens, _ := filepath.Glob(export + "/*")
	for _, p := range append(tokens, export) {
		_ = exec.Command("umount", p).Run() // not lazily: a mount in use stays, and is noticed
		_ = os.Remove(p)
	}
	for _, f := range []string{"net-" + w.net, "vm-" + key} {
		_ = os.Remove("/var/lib/aivm/manifest/" + f + ".json")
	}
	// The names of the tables contain a digest.
	for _, family := range []string{"inet", "bridge"} {
		out, _ := exec.Command("nft", "list", "tables", family).Output()
		for _, f := range strings.Fields(string(out)) {
			if strings.Contains(f, strings.ReplaceAll(w.net, "-", "_")) {
				_ = exec.Command("nft", "delete", "table", family, f).Run()
			}
		}
	}
}

func virsh(args ...string) string {
	out, err := exec.Command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

type result struct {
	code           int
	stdout, stderr string
}

func (w *world) run(env []string, argv ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir, c.Env = w.home, append(slices.Clone(w.env), env...)
	var out, errw bytes.Buffer
	c.Stdout, c.Stderr = &out, &errw
	err := c.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		w.t.Fatalf("%v: %v", argv, err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errw.String()}
}

func (w *world) must(argv ...string) result {
	w.t.Helper()
	r := w.run(nil, argv...)
	if r.code != 0 {
		w.t.Fatalf("%s: exit %d\n%s%s", strings.Join(argv, " "), r.code, r.stdout, r.stderr)
	}
	return r
}

// killedAt runs the faulty program until it kills itself at a fault point.
func (w *world) killedAt(point string, argv ...string) {
	w.t.Helper()
	if r := w.run([]string{"AIVM_KILL_AT=" + point}, argv...); r.code != -1 {
		w.t.Fatalf("%s did not come to %s: exit %d\n%s%s", strings.Join(argv, " "), point, r.code, r.stdout, r.stderr)
	}
}

// planned returns the IDs of the actions of a dry run.
func (w *world) planned(argv ...string) []string {
	w.t.Helper()
	r := w.must(append(argv, "--dry-run", "--json")...)
	var d struct {
		Stages []struct{ Actions []struct{ ID string } }
	}
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil {
		w.t.Fatalf("%v\n%s", err, r.stdout)
	}
	var out []string
	for _, s := range d.Stages {
		for _, a := range s.Actions {
			out = append(out, a.ID)
		}
	}
	return out
}

// files returns every file below some directories, with its mode and the digest of its content.
func files(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			st, err := d.Info()
			if err != nil {
				return err
			}
			b, err := os.ReadFile(p)
			out[p] = fmt.Sprintf("%v %x", st.Mode(), sha256.Sum256(b))
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
