package userfs

import (
	"bytes"
	"context"
	"encoding/json"
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

	"aivm.dev/aivm/internal/userfs/jail"
)

const (
	roleEnv = "AIVM_USERFS_ROLE"
	testUID = 4410
)

// TestMain also runs the other processes of the tests: the server, a host process of an ordinary
// user that starts it, and a guest that mounts it.
func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == Arg0:
		os.Exit(Main(os.Args[1:]))
	case os.Getenv(roleEnv) == "host":
		os.Exit(hostRole())
	case os.Getenv(roleEnv) == "guest":
		os.Exit(guestRole())
	}
	os.Exit(m.Run())
}

// hostSettings is the argument of the host process.
type hostSettings struct {
	Exports []Export
	Jails   []jail.Kind
}

// hostReport is what the host process writes to stdout: when the server is ready, and at the end.
type hostReport struct {
	PID     int
	Error   string
	Written []Written
}

// hostRole starts a server on descriptor 3, and ends it when stdin ends.
func hostRole() int {
	var c hostSettings
	out := json.NewEncoder(os.Stdout)
	if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
		panic(err)
	}
	s, err := Start(context.Background(), Config{Exports: c.Exports, Jails: c.Jails, Relay: os.NewFile(3, "relay")})
	if err != nil {
		_ = out.Encode(hostReport{Error: err.Error()})
		return 1
	}
	_ = out.Encode(hostReport{PID: s.PID()})
	_, _ = io.Copy(io.Discard, os.Stdin)
	report := hostReport{}
	if err := s.Close(); err != nil {
		report.Error = err.Error()
	}
	report.Written, _ = s.Written()
	_ = out.Encode(report)
	return 0
}

// guestRole mounts what is served on descriptor 3 in a mount namespace of its own, copying between
// /dev/fuse and the descriptor as the agent does in a VM, and runs a shell script there.
func guestRole() int {
	dir, script := os.Args[1], os.Args[2]
	if err := mountRelay(dir, 3); err != nil {
		fmt.Fprintln(os.Stderr, "mounting:", err)
		return 99
	}
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), roleEnv+"=", "LC_ALL=C.UTF-8", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 98
	}
	return 0
}

func mountRelay(dir string, relayFD int) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=%d", dev, 1<<20)
	if err := unix.Mount("aivm", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 2<<20)
		for {
			n, err := unix.Read(dev, buf)
			if err == unix.EINTR || err == unix.ENOENT {
				continue
			}
			if err != nil {
				return
			}
			for out := buf[:n]; len(out) > 0; {
				n, err := unix.Write(relayFD, out)
				if err != nil {
					return
				}
				out = out[n:]
			}
		}
	}()
	go func() {
		in := os.NewFile(uintptr(relayFD), "relay")
		buf := make([]byte, 2<<20)
		for {
			if _, err := io.ReadFull(in, buf[:4]); err != nil {
				return
			}
			n := int(buf[0]) | int(buf[1])<<8 | int(buf[2])<<16
			if _, err := io.ReadFull(in, buf[4:n]); err != nil {
				return
			}
			if _, err := unix.Write(dev, buf[:n]); err != nil && err != unix.ENOENT {
				fmt.Fprintln(os.Stderr, "the kernel refused a reply:", err, buf[:min(n, 64)])
			}
		}
	}()
	_ = os.WriteFile(fmt.Sprintf("/sys/class/bdi/%s/read_ahead_kb", bdi(dir)), []byte("1024"), 0)
	return nil
}

func bdi(dir string) string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}

// trial is a server of an ordinary user with its exports below Dir.
type trial struct {
	t     testing.TB
	Dir   string // of the host: "0", "1" are the exports, "canary" a file outside
	guest *os.File
	host  *exec.Cmd
	stdin io.Closer
	out   *json.Decoder
	PID   int
}

// newTrial starts a server in a jail. Exports "0" is writable, "1" read-only.
func newTrial(t testing.TB, kind jail.Kind) *trial {
	t.Helper()
	tr := newFolders(t)
	tr.start(kind)
	return tr
}

// newFolders makes the folders of a trial.
func newFolders(t testing.TB) *trial {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, err := os.MkdirTemp("", "aivm-userfs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tr := &trial{t: t, Dir: dir}
	for _, d := range []string{"", "0", "1", "outside", "mnt"} {
		p := filepath.Join(dir, d)
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{os.Chmod(p, 0o755), os.Chown(p, testUID, testUID)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	tr.write("1/file", "read-only\n")
	tr.write("outside/canary", "secret\n")
	return tr
}

func (tr *trial) write(name, text string) {
	tr.t.Helper()
	p := filepath.Join(tr.Dir, name)
	for _, err := range []error{os.WriteFile(p, []byte(text), 0o644), os.Chown(p, testUID, testUID)} {
		if err != nil {
			tr.t.Fatal(err)
		}
	}
}

func (tr *trial) start(kind jail.Kind) {
	t := tr.t
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	relay := os.NewFile(uintptr(ends[0]), "relay")
	tr.guest = os.NewFile(uintptr(ends[1]), "guest")
	arg, err := json.Marshal(hostSettings{Exports: []Export{{Dir: tr.Dir + "/0"}, {Dir: tr.Dir + "/1", ReadOnly: true}}, Jails: []jail.Kind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	tr.host = exec.Command("/proc/self/exe", string(arg))
	tr.host.Env = append(os.Environ(), roleEnv+"=host")
	tr.host.ExtraFiles = []*os.File{relay}
	tr.host.Stderr = os.Stderr
	tr.host.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testUID, Gid: testUID}}
	tr.stdin, err = tr.host.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := tr.host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	tr.out = json.NewDecoder(out)
	if err := tr.host.Start(); err != nil {
		t.Fatal(err)
	}
	relay.Close()
	var r hostReport
	if err := tr.out.Decode(&r); err != nil || r.Error != "" {
		t.Fatalf("the server did not start: %v %s", err, r.Error)
	}
	tr.PID = r.PID
	t.Cleanup(func() {
		tr.guest.Close()
		tr.stdin.Close()
		if tr.host.ProcessState == nil {
			_ = tr.host.Wait()
		}
	})
}

// run runs a script in a guest as root, in the root of the mount, and returns its output.
func (tr *trial) run(script string) string {
	tr.t.Helper()
	out, err := tr.command(script).CombinedOutput()
	if err != nil {
		tr.t.Fatalf("the script in the guest failed: %v\n%s", err, out)
	}
	return string(bytes.TrimSpace(out))
}

// asUser returns a script that runs script as the user.
func asUser(script string) string {
	return fmt.Sprintf("export HOME=/tmp; exec setpriv --reuid %d --regid %d --clear-groups bash -euc '%s'", testUID, testUID, strings.ReplaceAll(script, "'", `'\''`))
}

func (tr *trial) command(script string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", tr.Dir+"/mnt", script)
	cmd.Env = append(os.Environ(), roleEnv+"=guest")
	cmd.ExtraFiles = []*os.File{tr.guest}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// end ends the server and returns what it reported.
func (tr *trial) end() hostReport {
	tr.t.Helper()
	tr.stdin.Close()
	var r hostReport
	if err := tr.out.Decode(&r); err != nil {
		tr.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tr.host.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		tr.t.Fatal("the host process did not end")
	}
	return r
}

// eachJail runs a test in both jails.
func eachJail(t *testing.T, test func(t *testing.T, kind jail.Kind)) {
	for _, kind := range []jail.Kind{jail.Namespaces, jail.Landlock} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

// execChown gives everything below dir to the user of the server.
func execChown(dir string) ([]byte, error) {
	return exec.Command("chown", "-hR", fmt.Sprintf("%d:%d", testUID, testUID), dir).CombinedOutput()
}

// snapshot describes a directory: names, contents, times and modes.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	out := &strings.Builder{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(out, e.Name(), string(text), st.Mode, st.Nlink, st.Mtim, st.Ctim)
	}
	return out.String()
}
