package oneshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/program"
	"aivm.dev/aivm/internal/qemu"
	"aivm.dev/aivm/internal/template"
)

const (
	onlyUser = 4416 // of the tests, if they are started as root
	maxRun   = 4 * time.Minute
	makeEnv  = "AIVM_ONESHOT_MAKE" // the image, for the process that makes the template
)

// lab is the user the tests run aivm as, and what belongs to it.
var lab struct {
	dir, home, runtime, bin string
	uid                     int
	cred                    *syscall.Credential // nil: this process's user
}

func TestMain(m *testing.M) {
	if os.Getenv("AIVM_ONESHOT") != "1" {
		fmt.Println("real one-shot VMs: skipped without AIVM_ONESHOT=1")
		os.Exit(0)
	}
	if image := os.Getenv(makeEnv); image != "" {
		exitOn(makeTemplate(os.Args[len(os.Args)-1], image))
		os.Exit(0)
	}
	remove, err := setUp()
	exitOn(err)
	code := m.Run()
	remove()
	os.Exit(code)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// setUp prepares the user, the program and the template.
func setUp() (remove func(), err error) {
	remove = func() {}
	lab.uid, lab.dir = os.Getuid(), os.Getenv("AIVM_ONESHOT_DIR")
	if lab.dir == "" { // not in /tmp, which may be a tmpfs: a template's memory must not be on one
		if lab.dir, err = os.MkdirTemp("/var/tmp", "aivm-oneshot-"); err != nil {
			return nil, err
		}
		remove = func() { _ = os.RemoveAll(lab.dir) }
	}
	if lab.uid == 0 {
		lab.uid = onlyUser
		lab.cred = &syscall.Credential{Uid: onlyUser, Gid: onlyUser, NoSetGroups: false}
	}
	lab.home, lab.runtime, lab.bin = filepath.Join(lab.dir, "home"), filepath.Join(lab.dir, "run"), filepath.Join(lab.dir, "bin", "aivm")
	for dir, mode := range map[string]os.FileMode{lab.dir: 0o755, filepath.Dir(lab.bin): 0o755, lab.home: 0o700, lab.runtime: 0o700} {
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			return nil, err
		}
		if lab.cred != nil && (dir == lab.home || dir == lab.runtime) {
			if err := os.Chown(dir, lab.uid, lab.uid); err != nil {
				return nil, err
			}
		}
	}
	if bin := os.Getenv("AIVM_ONESHOT_BIN"); bin != "" {
		lab.bin = bin
	} else {
		build := exec.Command("go", "build", "-o", lab.bin, "aivm.dev/aivm/cmd/aivm")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building aivm: %w\n%s", err, out)
		}
	}
	return remove, needTemplate()
}

// needTemplate makes the template, unless an earlier run of the tests did.
func needTemplate() error {
	store := filepath.Join(lab.home, ".cache", "aivm", "templates")
	if all, err := (template.Store{Dir: store}).List(); err == nil && len(all) > 0 {
		return nil
	}
	image := os.Getenv("AIVM_ONESHOT_IMAGE")
	if image == "" {
		out, err := command(context.Background(), lab.home, lab.bin, "setup", "--yes").CombinedOutput()
		if err != nil {
			return fmt.Errorf("aivm setup: %w\n%s", err, out)
		}
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The user may not be able to read the image where it is.
	readable := filepath.Join(lab.dir, "image.qcow2")
	if out, err := exec.Command("install", "-m", "0444", image, readable).CombinedOutput(); err != nil {
		return fmt.Errorf("copying the image: %w\n%s", err, out)
	}
	own := filepath.Join(lab.dir, "bin", "make-template")
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(own, b, 0o755)
	}
	if err != nil {
		return err
	}
	c := command(context.Background(), lab.home, own, "-test.run=^$", store)
	c.Env = append(c.Env, "AIVM_ONESHOT=1", makeEnv+"="+readable)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("making the template: %w\n%s", err, out)
	}
	return nil
}

// makeTemplate makes a template of an image as it is.
func makeTemplate(dir, image string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	path, err := qemu.Find()
	if err != nil {
		return err
	}
	p, err := qemu.Probe(ctx, path)
	if err != nil {
		return err
	}
	agent, err := program.Agent(runtime.GOARCH)
	if err != nil {
		return err
	}
	accel, _ := qemu.Accelerated(ctx, p)
	key := template.NewKey(template.Wanted{Name: "default", Program: p, Accel: accel, MemoryMiB: 512, CPUs: 2, DiskGiB: 8, Image: "0", Agent: agent})
	store := template.Store{Dir: dir}
	d, err := store.NewDraft(ctx, key, p, image, agent)
	if err != nil {
		return err
	}
	defer d.Discard()
	r, err := d.Start(ctx, template.Options{})
	if err != nil {
		return err
	}
	s, err := guestd.ConnectWithin(ctx, r.Control, 5*time.Minute)
	if err != nil {
		r.Close()
		return err
	}
	if err := s.Prepare(ctx, []string{"/bin/true"}, []string{"/bin/sh", "-c", "id"}, []string{"/bin/bash", "-lc", "true"}); err != nil {
		return err
	}
	if err := d.Save(ctx, r); err != nil {
		return err
	}
	_, err = d.Publish(ctx, func(ctx context.Context, s *guestd.Session) error {
		return s.Setup(ctx, guestd.Setup{Hostname: "trial"})
	})
	return err
}

// command returns a command of the lab's user.
func command(ctx context.Context, dir string, argv ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir = dir
	c.Env = []string{
		"HOME=" + lab.home, "USER=tester", "XDG_RUNTIME_DIR=" + lab.runtime, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
		"TERM=xterm-256color", "LANG=C.UTF-8", "SECRET_OF_THE_HOST=leak",
	}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: lab.cred}
	c.WaitDelay = 10 * time.Second
	return c
}

// folder makes a folder of the user, with files.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp(lab.home, "p-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if lab.cred != nil {
		if out, err := exec.Command("chown", "-R", strconv.Itoa(lab.uid)+":"+strconv.Itoa(lab.uid), dir).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	return dir
}

// result is how an aivm ended.
type result struct {
	code        int
	out, errout string
}

// aivm runs aivm in dir.
func aivm(t *testing.T, dir, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), maxRun)
	defer cancel()
	c := command(ctx, dir, append([]string{lab.bin}, args...)...)
	var out, errout bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errout
	err := c.Run()
	if ctx.Err() != nil {
		t.Fatalf("aivm %q did not end: %s", args, errout.String())
	}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errout.String()}
}

// run runs a command in a VM that must succeed, and returns its output.
func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	r := aivm(t, dir, "", append([]string{"run"}, args...)...)
	if r.code != 0 {
		t.Fatalf("aivm run %q: status %d\n%s\n%s", args, r.code, r.out, r.errout)
	}
	return r.out
}

// processes returns the processes of the user that belong to runs.
func processes(t *testing.T) []string {
	t.Helper()
	ents, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range ents {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat("/proc/"+e.Name(), &st) != nil || int(st.Uid) != lab.uid {
			continue
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		text := strings.ReplaceAll(string(line), "\x00", " ")
		if err == nil && (strings.Contains(text, "qemu-system") || strings.Contains(text, "aivm")) && !strings.Contains(text, ".test ") {
			out = append(out, e.Name()+" "+text)
		}
	}
	return out
}

// nothingLeft fails if five seconds after a run something of it is there.
func nothingLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := processes(t)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %q", left)
		}
		time.Sleep(50 * time.Millisecond)
	}
	store := filepath.Join(lab.home, ".cache", "aivm", "templates")
	ents, err := os.ReadDir(store)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), ".removed") || strings.HasPrefix(e.Name(), ".draft") {
			t.Errorf("left in the store: %s", e.Name())
		}
	}
}

// noRuns fails if a run is recorded after aivm has listed the runs.
func noRuns(t *testing.T) {
	t.Helper()
	if r := aivm(t, lab.home, "", "runs", "--json"); r.code != 0 || !strings.Contains(r.out, `"runs": []`) && !strings.Contains(r.out, `"runs":[]`) {
		t.Errorf("aivm runs: %+v", r)
	}
	ents, err := os.ReadDir(filepath.Join(lab.runtime, "aivm", "runs"))
	if err != nil {
		t.Fatal(err)
	}
	if left := slices.DeleteFunc(ents, func(e os.DirEntry) bool { return e.Name() == ".names" }); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
