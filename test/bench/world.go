package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	userName = "aivm-bench"
	userUID  = 4322
)

// The names of the VMs. The first two are root's, the third is the throwaway user's; the last one
// is defined by the bench itself, without aivm.
const (
	vmMain    = "bench"
	vmFurther = "bench2"
	vmUser    = "bench-user"
	vmSeed    = "bench-seed"
)

// baseDir is the bench's own storage pool: the first `vm create` uploads the base image to it, and
// all its new files are the bench's.
const baseDir = "/var/lib/libvirt/aivm-bench"

// world is the environment of one user: home, environment variables, user ID.
type world struct {
	b     *bench
	label string
	home  string
	vm    string
	env   []string
	cred  *syscall.Credential // nil = root
}

func (b *bench) rootWorld() *world {
	home := filepath.Join(b.work, "root")
	return &world{b: b, label: "root", home: home, vm: vmMain, env: []string{
		"HOME=" + home, "PATH=" + b.bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
		"XDG_CACHE_HOME=" + cacheHome, "AIVM_SSH_CONFIG=" + filepath.Join(home, ".ssh/config"),
	}}
}

func (b *bench) userWorld() *world {
	home := "/home/" + userName
	return &world{
		b: b, label: "sudo user", home: home, vm: vmUser,
		env:  []string{"HOME=" + home, "USER=" + userName, "PATH=" + b.bin + ":/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"},
		cred: &syscall.Credential{Uid: userUID, Gid: userUID},
	}
}

// writeFiles writes the home's config: VM name, memory and pool.
func (w *world) writeFiles() error {
	text := fmt.Sprintf("[defaults.vm]\nname = %q\nram_mb = 2048\n\n[defaults.paths]\nbase_dir = %q\n", w.vm, baseDir)
	for path, text := range map[string]string{".config/aivm/config.toml": text, "project/hello.txt": "hello\n"} {
		path = filepath.Join(w.home, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if w.cred == nil {
		return nil
	}
	return filepath.WalkDir(w.home, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(w.cred.Uid), int(w.cred.Gid))
	})
}

func (w *world) project() string { return filepath.Join(w.home, "project") }

// command prepares a program of this world; cancelling sends it SIGINT, as Ctrl-C does.
func (w *world) command(ctx context.Context, dir string, env []string, argv ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir = dir
	c.Env = append(append([]string{}, w.env...), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: w.cred}
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 20 * time.Second
	return c
}

// run runs a program to its end and returns its output and wall time. An exit status other than 0
// is an error.
func (w *world) run(ctx context.Context, dir string, env []string, argv ...string) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	c := w.command(ctx, dir, env, argv...)
	var out, errw bytes.Buffer
	c.Stdout, c.Stderr = &out, &errw
	began := time.Now()
	err := c.Run()
	took := time.Since(began)
	if err != nil {
		return out.String(), took, failed(argv, err, errw.Bytes())
	}
	return out.String(), took, nil
}

func failed(argv []string, err error, stderr []byte) error {
	lines := strings.Split(strings.TrimSpace(string(stderr)), "\n")
	return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.Join(lines[max(0, len(lines)-3):], " | "))
}

func (w *world) program(name string) string { return filepath.Join(w.b.bin, name) }

func (w *world) aivm(ctx context.Context, dir string, args ...string) (string, time.Duration, error) {
	return w.run(ctx, dir, nil, append([]string{w.program("aivm")}, args...)...)
}

// login runs one command in the guest through plain ssh.
func (w *world) login(line string) (string, time.Duration, error) {
	return w.run(w.b.ctx, w.home, nil, "ssh", "-F", filepath.Join(w.home, ".ssh/config"), "-o", "BatchMode=yes", w.vm, line)
}

// address returns the address of a VM of this world; it is known before the VM is created.
func (w *world) address(vm string) (string, error) {
	var in struct{ Address string }
	b, err := os.ReadFile(filepath.Join(w.home, ".local/state/aivm", vm, "instance.json"))
	if err != nil {
		return "", err
	}
	return in.Address, errors.Join(json.Unmarshal(b, &in), nilIf(in.Address != "", "instance.json has no address"))
}

func nilIf(ok bool, why string) error {
	if ok {
		return nil
	}
	return errors.New(why)
}

// snapshot returns size, mode and change time of everything below the home; a directory's time
// reveals a file that was created and removed.
func (w *world) snapshot() (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(w.home, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		out[p] = fmt.Sprint(st.Size(), st.Mode(), st.Sys().(*syscall.Stat_t).Ctim)
		return nil
	})
	return out, err
}

// host runs a program of the host as root.
func host(ctx context.Context, argv ...string) (string, error) {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		return "", failed(argv, err, ee.Stderr)
	}
	return string(out), err
}

func virsh(ctx context.Context, args ...string) (string, error) {
	return host(ctx, append([]string{"virsh", "-q", "-c", "qemu:///system"}, args...)...)
}
