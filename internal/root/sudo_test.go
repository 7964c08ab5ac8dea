package root_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/imagebuild"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/ui"
)

// Builders of the test helper: pid-1 writes its process ID, wait-1 waits for the
// cancellation.
var testBuilders = map[string]record.BuildFunc{
	"pid-1": func(_ context.Context, dir string, progress record.Progress) (string, error) {
		progress("half way", 0.5)
		p := filepath.Join(dir, "image")
		return p, os.WriteFile(p, []byte(strconv.Itoa(os.Getpid())), 0o600)
	},
	"wait-1": func(ctx context.Context, _ string, progress record.Progress) (string, error) {
		progress("pid "+strconv.Itoa(os.Getpid()), -1)
		<-ctx.Done()
		return "", ctx.Err()
	},
}

const (
	testUser = "aivm-sudo-test"
	testUID  = 54321
	testPass = "correct horse"
)

// addSudoer adds a user with sudo rights to a copy of /etc that only this mount
// namespace sees, so that nothing remains after the test. It returns the path of a
// copy of the test program that the user may run.
func addSudoer(t *testing.T, work, sudoers string) (self string) {
	t.Helper()
	roottest.Stage(t, work, unix.MS_PRIVATE)
	etc := filepath.Join(work, "etc")
	// Without /etc/libvirt, which other tests change at the same time.
	roottest.Sh(t, "mkdir "+etc+" && tar -C /etc --exclude=./libvirt -cf - . | tar -C "+etc+" -xpf -")
	roottest.Must(t, unix.Mount(etc, "/etc", "", unix.MS_BIND, ""))
	roottest.Sh(t, fmt.Sprintf("groupadd -g %d %s && useradd -M -u %[1]d -g %[1]d %[2]s && echo '%[2]s:%[3]s' | chpasswd", testUID, testUser, testPass))
	self = filepath.Join(work, "aivm")
	exe, err := os.Executable()
	roottest.Must(t, err)
	roottest.Sh(t, "cp "+exe+" "+self+" && chmod 755 "+self)
	roottest.Must(t, os.WriteFile("/etc/sudoers.d/"+testUser, []byte(fmt.Sprintf(sudoers, testUser)+"\n"), 0o440))
	roottest.Sh(t, "visudo -cq -f /etc/sudoers.d/"+testUser)
	return self
}

// asUser returns the command of the client role, to run as the test user.
func asUser(self, scene string) *exec.Cmd {
	cmd := exec.Command(self, scene)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), roottest.RoleEnv + "=client", roottest.WorkEnv + "=" + os.Getenv(roottest.WorkEnv)}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testUID, Gid: testUID}}
	return cmd
}

// clientRole runs the actions of a scene as an ordinary user and prints the results.
func clientRole() int {
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	scene := os.Args[1]
	a := root.New(root.Options{Euid: os.Geteuid(), Self: []string{self}, NonInteractive: scene != "tty", Stderr: os.Stderr})
	defer a.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	try := func(ctx context.Context, op record.Op, progress record.Progress) {
		r, err := a.Do(ctx, op, progress)
		var e *ui.Error
		switch {
		case errors.As(err, &e):
			fmt.Printf("%s: %s %d: %s | %s\n", op.Kind(), e.Kind, e.Exit, e.Message, strings.Join(e.HintLines(), "; "))
		case err != nil:
			fmt.Printf("%s: error: %v\n", op.Kind(), err)
		case r.File != nil:
			b, _ := io.ReadAll(r.File)
			_, werr := r.File.Write([]byte("x"))
			fmt.Printf("%s: file %s, writable %v\n", op.Kind(), b, werr == nil)
			r.File.Close()
		default:
			fmt.Printf("%s: done %s\n", op.Kind(), r.Note)
		}
	}
	printProgress := func(l string, f float64) { fmt.Printf("progress %s %g\n", l, f) }
	key := rootfile.VMKey(testUID, "a")
	switch scene {
	case "work", "tty":
		try(ctx, record.BuildImage{Distro: "pid-1"}, printProgress)
		if scene == "tty" {
			fmt.Println("ready")
			line, err := bufio.NewReader(os.Stdin).ReadString('\n')
			fmt.Printf("read %q %v\n", line, err)
		}
		try(ctx, record.Export{VMKey: key}, nil)
		src := filepath.Join(os.Getenv(roottest.WorkEnv), "project")
		var st unix.Stat_t
		if err := unix.Stat(src, &st); err != nil {
			return 1
		}
		try(ctx, record.Bind{Src: src, VMKey: key, Token: "p", UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino}, nil)
		try(ctx, record.Bind{Src: src, VMKey: key, Token: "q", UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino + 1}, nil)
		try(ctx, record.Export{VMKey: "0-a"}, nil)
		c2, cancel2 := context.WithCancel(ctx)
		try(c2, record.BuildImage{Distro: "wait-1"}, func(string, float64) { cancel2() })
		try(ctx, record.BuildImage{Distro: "pid-1"}, nil)
	case "forged":
		// The helper must not trust its client: send records that Do refuses.
		c := a.(*root.Client)
		h, err := c.Start(ctx)
		if err != nil {
			return 1
		}
		for _, line := range []string{
			`{"kind":"export","op":{"vm_key":"0-a"}}`,
			`{"kind":"shell","op":{}}`,
			`{"kind":"unbind","op":{"vm_key":"54321-a","token":"../x"}}`,
			`{"kind":"export","op":{"vm_key":"54321-a"},"x":1}`,
		} {
			_, _ = h.Conn.Write([]byte(line + "\n"))
			r := <-h.Replies
			fmt.Printf("%s: %s\n", r.Error.Kind, r.Error.Message)
		}
		if _, open := <-h.Replies; open {
			return 1
		}
		fmt.Println("connection closed")
	case "wait":
		try(ctx, record.BuildImage{Distro: "wait-1"}, printProgress)
	case "ask":
		try(ctx, record.Export{VMKey: key}, nil)
	}
	return 0
}

func TestThroughSudo(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	self := addSudoer(t, work, "%s ALL=(root) NOPASSWD: ALL")
	roottest.Folder(t, filepath.Join(work, "project"), testUID, 0o700)
	var out, errs bytes.Buffer
	cmd := asUser(self, "work")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &out, &errs)
	}
	pid := regexp.MustCompile(`build-image: file (\d+),`).FindAllStringSubmatch(out.String(), -1)
	if len(pid) != 2 || pid[0][1] != pid[1][1] {
		t.Fatalf("more than one helper in the run: %v\n%s%s", pid, &out, &errs)
	}
	want := `progress half way 0.5
build-image: file PID, writable false
export: done
bind: done
bind: refused 2: folder WORK/project was replaced since aivm checked it | if you replaced it, run the command again
export: refused 2: vm key "0-a" belongs to uid 0, not to uid 54321, who called sudo |
build-image: error: context canceled
build-image: file PID, writable false
`
	want = strings.NewReplacer("PID", pid[0][1], "WORK", work).Replace(want)
	if got := regexp.MustCompile(` +\n`).ReplaceAllString(out.String(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s\nstderr %s", got, want, &errs)
	}
	if m := roottest.One(t, filepath.Join(rootfile.ExportRoot(rootfile.VMKey(testUID, "a")), "p")); !m.Has("idmapped") {
		t.Errorf("mounted with %v", m.Options)
	}
	if remaining, _ := os.ReadDir(imagebuild.Base); len(remaining) != 0 {
		t.Errorf("the builds did not remove %v", remaining)
	}
	waitGone(t, pid[0][1])

	cmd = asUser(self, "forged")
	forged, err := cmd.Output()
	roottest.Must(t, err)
	if got := string(forged); strings.Count(got, "refused: ") != 4 || !strings.HasSuffix(got, "connection closed\n") {
		t.Errorf("forged records:\n%s", got)
	}
}

// waitGone waits until a process has ended.
func waitGone(t *testing.T, pid string) {
	t.Helper()
	for range 100 {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("the helper %s is still running", pid)
}

func TestHelperDiesWithItsClient(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	self := addSudoer(t, work, "%s ALL=(root) NOPASSWD: ALL")
	cmd := asUser(self, "wait")
	out, err := cmd.StdoutPipe()
	roottest.Must(t, err)
	roottest.Must(t, cmd.Start())
	var pid string
	_, err = fmt.Fscanf(out, "progress pid %s", &pid)
	roottest.Must(t, err)
	roottest.Must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	waitGone(t, pid)
	if remaining, _ := os.ReadDir(imagebuild.Base); len(remaining) != 0 {
		t.Errorf("the build did not remove %v", remaining)
	}
}

func TestSudoThatWouldAsk(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	self := addSudoer(t, work, "%s ALL=(root) ALL")
	out, err := asUser(self, "ask").CombinedOutput()
	roottest.Must(t, err)
	if !strings.Contains(string(out), "export: approval 3: ") || !strings.Contains(string(out), "sudo -v") {
		t.Errorf("without a terminal: %s", out)
	}
	// No sudo at all.
	cmd := asUser(self, "ask")
	cmd.Env[0] = "PATH=/nonexistent"
	if out, err = cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "export: refused 2: ") || !strings.Contains(string(out), "not installed") {
		t.Errorf("without sudo: %s %v", out, err)
	}
}

// On a terminal sudo asks once, and does not change the terminal while the helper
// runs, also with use_pty.
func TestSudoAsksOnceOnATerminal(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	self := addSudoer(t, work, "Defaults use_pty\n%s ALL=(root) ALL")
	roottest.Folder(t, filepath.Join(work, "project"), testUID, 0o700)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	roottest.Must(t, err)
	defer master.Close()
	roottest.Must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	roottest.Must(t, err)
	name := fmt.Sprintf("/dev/pts/%d", n)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	roottest.Must(t, err)
	defer slave.Close()
	roottest.Must(t, os.Chown(name, testUID, -1))
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	roottest.Must(t, err)
	cmd := asUser(self, "tty")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	roottest.Must(t, cmd.Start())
	var seen bytes.Buffer
	asked, checked := 0, false
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "context canceled") {
		roottest.Must(t, unix.SetNonblock(int(master.Fd()), false))
		k, err := master.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, &seen)
		}
		seen.Write(buf[:k])
		if c := strings.Count(seen.String(), "password for"); c > asked {
			asked = c
			time.Sleep(100 * time.Millisecond) // until sudo has switched off the echo
			_, err := master.WriteString(testPass + "\n")
			roottest.Must(t, err)
		}
		if !checked && strings.Contains(seen.String(), "ready\r\n") {
			checked = true
			time.Sleep(200 * time.Millisecond)
			now, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			roottest.Must(t, err)
			if *now != *before {
				t.Errorf("the terminal's settings changed while the helper runs: %+v, before %+v", now, before)
			}
			_, err = master.WriteString("typed\n")
			roottest.Must(t, err)
		}
	}
	roottest.Must(t, <-ended)
	if !strings.Contains(seen.String(), `read "typed\n" <nil>`) {
		t.Errorf("typed input does not reach aivm: %q", &seen)
	}
	if asked != 1 {
		t.Errorf("sudo asked %d times: %q", asked, &seen)
	}
	if strings.Contains(seen.String(), testPass) {
		t.Error("the password was echoed")
	}
	roottest.One(t, filepath.Join(rootfile.ExportRoot(rootfile.VMKey(testUID, "a")), "p"))
}
