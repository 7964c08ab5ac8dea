package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// TestMain makes the test binary act as another process if AIVM_TEST_ROLE is set.
func TestMain(m *testing.M) {
	switch os.Getenv("AIVM_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "writer":
		play(roleWriter())
	case "killed":
		play(roleKilled())
	case "full":
		play(roleFull())
	case "holder":
		play(roleHolder())
	case "unwritable":
		play(roleUnwritable())
	}
}

func play(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func role(name, path string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "AIVM_TEST_ROLE="+name, "AIVM_TEST_STORE="+path), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

func attach(path, folder string) error { return attachOn(disk{}, path, folder) }

func roleWriter() error {
	for i := range 3 {
		if err := attach(os.Getenv("AIVM_TEST_STORE"), fmt.Sprintf("/p/%s/%d", os.Getenv("AIVM_TEST_N"), i)); err != nil {
			return err
		}
	}
	return nil
}

func TestTwentyWriters(t *testing.T) {
	const writers = 20
	for name, text := range map[string]string{
		"old":   "# head\nactive_vm = 'a' # stays\n[[vms]]\nname = 'a'\nmine = 1\n",
		"fresh": "",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "config.toml")
			if text != "" {
				path = write(t, text)
			}
			var wg sync.WaitGroup
			for n := range writers {
				wg.Add(1)
				go func() {
					defer wg.Done()
					if err := role("writer", path, "AIVM_TEST_N="+strconv.Itoa(n)).Run(); err != nil {
						t.Errorf("writer %d: %v", n, err)
					}
				}()
			}
			// Readers find a complete store at any time.
			stop := make(chan struct{})
			go func() {
				wg.Wait()
				close(stop)
			}()
			for done := false; !done; {
				select {
				case <-stop:
					done = true
				case <-time.After(time.Millisecond):
					if _, err := Load(path); err != nil {
						t.Errorf("while writing: %v", err)
					}
				}
			}
			got := map[string]int{}
			for _, a := range mustLoad(t, path).Config.Attachments {
				got[a.HostPath]++
			}
			for n := range writers {
				for i := range 3 {
					if p := fmt.Sprintf("/p/%d/%d", n, i); got[p] != 1 {
						t.Errorf("%s: %d times", p, got[p])
					}
				}
			}
			if !strings.HasPrefix(read(t, path), text) {
				t.Errorf("other bytes changed:\n%s", read(t, path))
			}
		})
	}
}

func roleKilled() error {
	at, err := strconv.Atoi(os.Getenv("AIVM_TEST_AT"))
	if err != nil {
		return err
	}
	n := 0
	d := disk{fault: func(string) {
		if n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		n++
	}}
	return attachOn(d, os.Getenv("AIVM_TEST_STORE"), "/new")
}

// TestKilledAnywhere kills the writer before each of its system calls in turn: the complete old or
// the complete new store must remain, and the next writer must succeed.
func TestKilledAnywhere(t *testing.T) {
	old := "# head\n" + smallText
	killed := 0
	for at := 0; ; at++ {
		path := write(t, old)
		cmd := role("killed", path, "AIVM_TEST_AT="+strconv.Itoa(at))
		err := cmd.Run()
		if err == nil {
			break // it ran out of calls
		}
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() {
			t.Fatalf("%d: %v", at, err)
		}
		killed++
		after := read(t, path)
		if after != old && !(strings.HasPrefix(after, old) && strings.Contains(after, "/new")) {
			t.Errorf("killed at %d: %q", at, after)
		}
		if prev, err := os.ReadFile(path + ".prev"); err == nil && string(prev) != old {
			t.Errorf("killed at %d, previous version: %q", at, prev)
		}
		if err := attach(path, "/next"); err != nil {
			t.Errorf("killed at %d, next: %v", at, err)
		}
		if c := mustLoad(t, path).Config; len(c.AttachmentsOf("/next")) != 1 || len(c.AttachmentsOf("/p")) != 1 {
			t.Errorf("killed at %d, next: %+v", at, c.Attachments)
		}
		if files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(files) != 1 {
			t.Errorf("killed at %d, remaining files: %v", at, files)
		}
	}
	if killed < 12 {
		t.Errorf("only %d places to be killed at", killed)
	}
}

// roleFull runs in a mount namespace of its own with a file system of 64 KiB.
func roleFull() error {
	dir := os.Getenv("AIVM_TEST_STORE")
	// Otherwise the mount would appear outside of the namespace if / is a shared mount.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		return err
	}
	path := filepath.Join(dir, "config.toml")
	old := "# head\n" + smallText
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		return err
	}
	// Fill it completely.
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		return err
	}
	for block := make([]byte, 512); err == nil; _, err = f.Write(block) {
	}
	_ = f.Close()
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("filling: %w", err)
	}
	return afterFull(path, old, attach(path, "/new"))
}

func afterFull(path, old string, err error) error {
	var ue *ui.Error
	if !errors.Is(err, unix.ENOSPC) || !errors.As(err, &ue) || !strings.Contains(ue.Message, "no space left") || len(ue.HintLines()) == 0 {
		return fmt.Errorf("full disk: %w", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != old {
		return fmt.Errorf("full disk: %q, %w", got, err)
	}
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.tmp")); len(files) != 0 {
		return fmt.Errorf("full disk: remaining files: %v", files)
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	t.Run("a full device", func(t *testing.T) {
		full := disk{openTemp: func(string) (*os.File, error) { return os.OpenFile("/dev/full", os.O_WRONLY, 0) }}
		old := "# head\n" + smallText
		path := write(t, old)
		if err := afterFull(path, old, attachOn(full, path, "/new")); err != nil {
			t.Error(err)
		}
	})
	t.Run("a full file system", func(t *testing.T) {
		cmd := role("full", t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		err := cmd.Run()
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EACCES) {
			t.Log("this user cannot create namespaces; only the full device above was tested")
		} else if err != nil {
			t.Error(err)
		}
	})
}

func roleHolder() error {
	f, err := openStore(context.Background(), os.Getenv("AIVM_TEST_STORE"))
	if err != nil {
		return err
	}
	unlock, err := f.lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	fmt.Println("held")
	time.Sleep(time.Minute)
	return nil
}

func TestLockWaitsAndTells(t *testing.T) {
	path := write(t, "")
	cmd := role("holder", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	calls := 0
	ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
	defer cancel()
	set := func(c *Config) error { c.ActiveVM = "x"; return nil }
	err = Update(OnWait(ctx, func(holder string) {
		calls++
		if holder != fmt.Sprintf("aivm (process %d)", cmd.Process.Pid) {
			t.Errorf("it reports waiting for %q", holder)
		}
	}), path, set)
	if !errors.Is(err, context.DeadlineExceeded) || calls != 1 || read(t, path) != "" {
		t.Errorf("%v, OnWait called %d times", err, calls)
	}
	// A killed holder leaves no lock.
	go func() {
		time.Sleep(50 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := Update(context.Background(), path, set); err != nil {
		t.Error(err)
	}
}

func TestWriteKeepsModeAndLinks(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "dotfiles", "aivm.toml")
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(target, 0o640)
	link, second := filepath.Join(dir, "link.toml"), filepath.Join(dir, "second.toml")
	for name, to := range map[string]string{link: "second.toml", second: "dotfiles/aivm.toml"} {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	update(t, link, active("a"))
	update(t, target, func(c *Config) { c.Behavior.Verbose = 2 })
	info, err := os.Stat(target)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if to, err := os.Readlink(link); to != "second.toml" {
		t.Errorf("%q, %v", to, err)
	}
	if got := read(t, target); got != "active_vm = \"a\"\n\n[behavior]\nverbose = 2\n" {
		t.Error(got)
	}
	if prev, err := os.Stat(target + ".prev"); err != nil || prev.Mode() != 0o640 {
		t.Errorf("%v", err)
	}
	// A link to a file that does not exist yet.
	dangling := filepath.Join(dir, "dangling.toml")
	if err := os.Symlink("dotfiles/new.toml", dangling); err != nil {
		t.Fatal(err)
	}
	update(t, dangling, active("b"))
	if got := read(t, filepath.Join(dir, "dotfiles", "new.toml")); !strings.Contains(got, "active_vm") {
		t.Error(got)
	}
}

func TestOwnerIsKept(t *testing.T) {
	if os.Geteuid() != 0 {
		// Only root can change the owner; for another user it is enough that the write succeeds.
		path := write(t, "")
		update(t, path, active("a"))
		return
	}
	path := write(t, "")
	if err := os.Chown(path, 12345, 23456); err != nil {
		t.Fatal(err)
	}
	update(t, path, active("a"))
	for _, p := range []string{path, path + ".prev"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != 12345 || st.Gid != 23456 {
			t.Errorf("%s: %d:%d", p, st.Uid, st.Gid)
		}
	}
}

// roleUnwritable runs as a user who is not root.
func roleUnwritable() error {
	dir := os.Getenv("AIVM_TEST_STORE")
	for name, prepare := range map[string]func(path string) error{
		"file": func(path string) error {
			return os.WriteFile(path, []byte("# mine\n"), 0o400)
		},
		"directory": func(path string) error {
			if err := os.WriteFile(path, []byte("# mine\n"), 0o600); err != nil {
				return err
			}
			return os.Chmod(filepath.Dir(path), 0o500)
		},
		"parent": func(path string) error {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				return err
			}
			return os.WriteFile(filepath.Dir(path), nil, 0o600)
		},
	} {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		path := filepath.Join(sub, "config.toml")
		if err := prepare(path); err != nil {
			return err
		}
		before, _ := os.ReadFile(path)
		err := attach(path, "/new")
		_ = os.Chmod(sub, 0o700)
		var ue *ui.Error
		if !errors.As(err, &ue) || len(ue.HintLines()) == 0 || !strings.Contains(ue.Message, path) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if after, _ := os.ReadFile(path); string(after) != string(before) {
			return fmt.Errorf("%s: %q became %q", name, before, after)
		}
		if files, _ := filepath.Glob(filepath.Join(sub, "*.prev")); len(files) > 0 {
			return fmt.Errorf("%s: remaining files: %v", name, files)
		}
	}
	return nil
}

func TestUnwritable(t *testing.T) {
	dir, err := os.MkdirTemp("", "aivm-config")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := role("unwritable", dir)
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		// The user has no access to the directory of the test binary.
		self := filepath.Join(dir, "self")
		if out, err := exec.Command("cp", os.Args[0], self).CombinedOutput(); err != nil {
			t.Fatalf("%s %v", out, err)
		}
		if err := os.Chmod(self, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Dir = self, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}

func TestUpdateRefusals(t *testing.T) {
	ctx := context.Background()
	boom := errors.New("boom")
	add := func(a Attachment) func(*Config) error {
		return func(c *Config) error { c.UpsertAttachment(a); return nil }
	}
	for name, tt := range map[string]struct {
		text string
		fn   func(*Config) error
		want string
	}{
		"newer":     {"schema_version = 7\n", add(small), "schema_version 7"},
		"not TOML":  {"x = \n", add(small), ":1:5: "},
		"bad value": {"[behavior]\nverbose = \"x\"\n", add(small), ":2:11: behavior.verbose"},
		"fn fails":  {"", func(c *Config) error { c.ActiveVM = "x"; return boom }, "boom"},
		"not UTF-8": {"", add(Attachment{HostPath: "/a\xff", VMName: "a"}), `cannot store attachments[0].host_path: "/a\xff" is not valid UTF-8`},
		"bad name":  {"", func(c *Config) error { c.ActiveVM = "<x>"; return nil }, "cannot store active_vm in the config: it must be a VM name"},
		"twice":     {"[[vms]]\nname='a'\n", func(c *Config) error { c.VMs = append(c.VMs, c.NewVM("a", "n")); return nil }, `"a" is already the name`},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tt.text)
			err := Update(ctx, path, tt.fn)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if files, _ := os.ReadDir(filepath.Dir(path)); read(t, path) != tt.text || len(files) != 1 {
				t.Errorf("%q, %v", read(t, path), files)
			}
		})
	}
	if err := Init(ctx, write(t, "schema_version = 6\n"), DefaultConfig().Defaults, true); err == nil {
		t.Error("Init wrote a newer store")
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	path := write(t, "")
	if err := Update(ctx, path, add(small)); !errors.Is(err, context.Canceled) || read(t, path) != "" {
		t.Errorf("%v", err)
	}
}

// TestEditorSavesDuringUpdate checks that a file which a text editor saves between Update's read and
// its rename is not overwritten.
func TestEditorSavesDuringUpdate(t *testing.T) {
	path := write(t, "active_vm = 'a'\n")
	saves := 0
	editor := disk{fault: func(point string) {
		if point == "temp.sync" && saves < 2 {
			saves++
			if err := os.WriteFile(path, []byte("# saved\nactive_vm = 'a'\n"+strings.Repeat("# again\n", saves)), 0o600); err != nil {
				t.Error(err)
			}
		}
	}}
	ctx := context.WithValue(t.Context(), diskKey{}, editor)
	if err := Update(ctx, path, func(c *Config) error { active("b")(c); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "# saved\nactive_vm = \"b\"\n# again\n# again\n" {
		t.Error(got)
	}
}
