package provision

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// ptyGuest is an SSH server that runs commands by a login shell, on a pseudo terminal if the client
// asks for one, as sshd does.
type ptyGuest struct {
	t     *testing.T
	ln    net.Listener
	cfg   *ssh.ServerConfig
	home  string
	shell string
}

// newPTYGuest returns a guest for the VM "t", and writes the configuration with which ssh reaches it.
func newPTYGuest(t *testing.T, w *looptest.World) *ptyGuest {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	g := &ptyGuest{t: t, cfg: &ssh.ServerConfig{NoClientAuth: true}, home: t.TempDir(), shell: "bash"}
	g.cfg.AddHostKey(signer)
	if g.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.ln.Close() })
	go func() {
		for {
			c, err := g.ln.Accept()
			if err != nil {
				return
			}
			go g.serve(c)
		}
	}()
	known, conf := filepath.Join(w.Dir, "known"), w.SSH.ConfPath("t")
	_, port, _ := net.SplitHostPort(g.ln.Addr().String())
	for file, text := range map[string]string{
		known: knownhosts.Line([]string{"t"}, signer.PublicKey()) + "\n",
		conf:  fmt.Sprintf("Host t\nHostName 127.0.0.1\nPort %s\nUser agent\nHostKeyAlias t\nUserKnownHostsFile %s\nStrictHostKeyChecking yes\n", port, known),
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func (g *ptyGuest) serve(c net.Conn) {
	_, chans, reqs, err := ssh.NewServerConn(c, g.cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		if ch, reqs, err := nc.Accept(); err == nil {
			go g.session(ch, reqs)
		}
	}
}

func (g *ptyGuest) session(ch ssh.Channel, reqs <-chan *ssh.Request) {
	var ctrl, tty *os.File
	env := []string{"PATH=/usr/bin:/bin", "HOME=" + g.home, "SSH_CLIENT=192.0.2.1 1 22", "SHELL=/bin/" + g.shell}
	size := func(cols, rows uint32) {
		_ = unix.IoctlSetWinsize(int(ctrl.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
	}
	for req := range reqs {
		ok := true
		switch req.Type {
		case "pty-req":
			var p struct {
				Term                   string
				Cols, Rows, Wide, High uint32
				Modes                  string
			}
			_ = ssh.Unmarshal(req.Payload, &p)
			var err error
			if ctrl, tty, err = openPTY(); err != nil {
				g.t.Error(err)
				return
			}
			size(p.Cols, p.Rows)
			env = append(env, "TERM="+p.Term)
		case "window-change":
			var p struct{ Cols, Rows, Wide, High uint32 }
			if _ = ssh.Unmarshal(req.Payload, &p); ctrl != nil {
				size(p.Cols, p.Rows)
			}
		case "env":
			var v struct{ Name, Value string }
			if ok = ssh.Unmarshal(req.Payload, &v) == nil && v.Name == guest.BypassEnv; ok {
				env = append(env, v.Name+"="+v.Value)
			}
		case "exec", "shell":
			args := []string{"-l"}
			if req.Type == "exec" {
				args = []string{"-c", string(req.Payload[4:])}
			}
			go g.run(ch, ctrl, tty, env, args)
		default:
			ok = false
		}
		_ = req.Reply(ok, nil)
	}
}

func (g *ptyGuest) run(ch ssh.Channel, ctrl, tty *os.File, env, args []string) {
	defer ch.Close()
	cmd := exec.Command(g.shell, args...)
	cmd.Env, cmd.Dir = env, g.home
	var copied sync.WaitGroup
	if tty != nil {
		defer ctrl.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		go func() { _, _ = io.Copy(ctrl, ch) }()
		copied.Go(func() { _, _ = io.Copy(ch, ctrl) })
	} else {
		cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
		in, _ := cmd.StdinPipe()
		go func() { _, _ = io.Copy(in, ch); _ = in.Close() }()
	}
	err := cmd.Start()
	if tty != nil {
		_ = tty.Close()
	}
	if err == nil {
		err = cmd.Wait()
	}
	copied.Wait()
	code := 0
	if exited := new(exec.ExitError); errors.As(err, &exited) {
		code = exited.ExitCode()
	} else if err != nil {
		code = 126
	}
	_, _ = ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

// openPTY returns both ends of a new pseudo terminal (pts(4)).
func openPTY() (ctrl, tty *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	ctrl = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return ctrl, tty, err
}

// terminalEnv is set in the process that startOnTerminal starts: the directory of its World.
const terminalEnv = "AIVM_TEST_TERMINAL"

// TestMain runs the ssh program on this process's terminal if terminalEnv is set, like aivm ssh on the
// terminal of a user, and the tests otherwise.
func TestMain(m *testing.M) {
	dir := os.Getenv(terminalEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	s := &session.Session{Getenv: os.Getenv, SSH: sshcfg.Layout{ConfigDir: filepath.Join(dir, "conf", "ssh")}}
	e := newEnv(s.SetStreams(ui.Std()))
	f := &loop.Facts{Conn: startupGuest{bypass: os.Getenv("BYPASS") != ""}}
	err := e.remoteTerminal(context.Background(), &target.Target{Name: "t", OpenAt: "/"}, f, os.Args[2:], strings.Fields(os.Args[1]))
	if err != nil && !ui.IsStatus(err) {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(ui.ExitCode(err))
}

// startupGuest is a connection that knows no terminal, and on which ~/.bashrc is skipped or not.
type startupGuest struct {
	guest.Conn
	bypass bool
}

func (g startupGuest) BypassesStartup() bool                       { return g.bypass }
func (g startupGuest) Run(context.Context, guest.Cmd) (int, error) { return 1, nil }
func (g startupGuest) Close() error                                { return nil }

// onTerminal is a process on a terminal of its own.
type onTerminal struct {
	t    *testing.T
	ctrl *os.File
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
	done chan struct{}
}

func startOnTerminal(t *testing.T, w *looptest.World, env []string, flags string, argv ...string) *onTerminal {
	t.Helper()
	ctrl, tty, err := openPTY()
	if err != nil {
		t.Fatal(err)
	}
	o := &onTerminal{t: t, ctrl: ctrl, done: make(chan struct{})}
	o.resize(40, 100)
	o.cmd = exec.Command(os.Args[0], append([]string{flags}, argv...)...)
	o.cmd.Env = append(append(os.Environ(), terminalEnv+"="+w.Dir, "TERM=xterm"), env...)
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = tty, tty, tty
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close()
	go func() {
		defer close(o.done)
		buf := make([]byte, 4096)
		for {
			n, err := ctrl.Read(buf)
			o.mu.Lock()
			o.out.Write(buf[:n])
			o.mu.Unlock()
			if err != nil { // EIO after the last process has closed the terminal
				return
			}
		}
	}()
	t.Cleanup(func() { _ = o.cmd.Process.Kill(); _ = ctrl.Close() })
	return o
}

func (o *onTerminal) resize(rows, cols uint16) {
	raw, err := o.ctrl.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
		})
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *onTerminal) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out.String()
}

func (o *onTerminal) expect(text string) {
	o.t.Helper()
	for range 1500 {
		if strings.Contains(o.text(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	o.t.Fatalf("%q did not appear on the terminal:\n%s", text, o.text())
}

func (o *onTerminal) send(keys string) {
	if _, err := o.ctrl.WriteString(keys); err != nil {
		o.t.Error(err)
	}
}

// wait returns the process's exit status.
func (o *onTerminal) wait() int {
	o.t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = o.cmd.Process.Kill() })
	defer timer.Stop()
	_ = o.cmd.Wait()
	<-o.done
	return o.cmd.ProcessState.ExitCode()
}

// TestCommandOnTerminal runs commands on a terminal by the ssh program: they have a terminal of the same
// size, follow its changes, get Ctrl-C, and their status is that of aivm.
func TestCommandOnTerminal(t *testing.T) {
	w := newWorld(t)
	newPTYGuest(t, w)
	o := startOnTerminal(t, w, nil, "-t", "sh", "-c", `trap 'echo interrupted; exit 7' INT; tty; stty size; echo TERM=$TERM in $PWD; while :; do sleep 0.1; stty size; done`)
	o.expect("/dev/pts/")
	o.expect("40 100")
	o.expect("TERM=xterm in /")
	o.resize(50, 120)
	o.expect("50 120")
	o.send("\x03")
	o.expect("interrupted")
	if code := o.wait(); code != 7 {
		t.Errorf("exit %d", code)
	}
	if s := o.text(); strings.Contains(s, "onnection") {
		t.Errorf("ssh's own messages: %s", s)
	}

	// Arguments arrive literally, also through a login shell that treats some characters otherwise.
	args := []string{"a b", "it's", "hi!", "two\\nlines", `\`, "$HOME", "*"}
	o = startOnTerminal(t, w, nil, "-t", append([]string{"printf", "[%s]"}, args...)...)
	if code := o.wait(); code != 0 || !strings.Contains(o.text(), "["+strings.Join(args, "][")+"]") {
		t.Errorf("exit %d, %q", code, o.text())
	}
	o = startOnTerminal(t, w, nil, "-T", "sh", "-c", "tty; exit 3")
	if code := o.wait(); code != 3 || !strings.Contains(o.text(), "not a tty") {
		t.Errorf("-T: exit %d, %q", code, o.text())
	}
}

// TestUnknownTerminal checks that a command gets another TERM, with a note, if the guest does not know
// the terminal and its entry cannot be installed.
func TestUnknownTerminal(t *testing.T) {
	w := newWorld(t)
	newPTYGuest(t, w)
	for _, term := range []string{"xterm-ghostty", "../../etc/passwd", "x; touch /tmp/pwned", "-x"} {
		o := startOnTerminal(t, w, []string{"TERM=" + term}, "-t", "sh", "-c", "echo got $TERM")
		o.expect("VM t does not know the terminal " + term)
		o.expect("got xterm-256color")
		o.wait()
	}
}

// TestShellOnTerminal opens a login shell, also in a guest whose ~/.bashrc ends shells that run a
// command: there only if ssh sends the variable with which bash skips it.
func TestShellOnTerminal(t *testing.T) {
	w := newWorld(t)
	g := newPTYGuest(t, w)
	open := func(env ...string) *onTerminal { return startOnTerminal(t, w, env, "-t") }
	o := open()
	o.send("echo in-$PWD-$((6*7)); exit 5\r")
	o.expect("in-/-42")
	if code := o.wait(); code != 5 {
		t.Errorf("exit %d", code)
	}
	if err := os.WriteFile(filepath.Join(g.home, ".bashrc"), []byte("case $- in *i*) ;; *) echo ended; exit 0;; esac\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o = open()
	o.expect("ended")
	if code := o.wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	o = open("BYPASS=1")
	o.send("echo in-$PWD-$((6*7)); exit 6\r")
	o.expect("in-/-42")
	if code := o.wait(); code != 6 {
		t.Errorf("exit %d: %s", code, o.text())
	}
}

// TestWhenATerminalIsUsed lists for which streams and flags a shell or command gets a terminal.
func TestWhenATerminalIsUsed(t *testing.T) {
	cmd := []string{"true"}
	for _, c := range []struct {
		o       SSHOptions
		in, out bool
		flags   string
		wanted  bool
	}{
		{SSHOptions{Command: cmd}, true, true, "-t", true},
		{SSHOptions{Command: cmd}, true, false, "", false},
		{SSHOptions{Command: cmd}, false, true, "", false},
		{SSHOptions{Command: cmd}, false, false, "", false},
		{SSHOptions{Command: cmd, NoTTY: true}, true, true, "-T", false},
		{SSHOptions{Command: cmd, TTY: 1}, false, false, "-t", true},
		{SSHOptions{Command: cmd, TTY: 2}, false, false, "-t -t", true},
		{SSHOptions{Command: cmd, TTY: 9}, true, true, "-t -t", true},
		{SSHOptions{}, true, true, "-t", true},
		{SSHOptions{}, true, false, "-t", true},
		{SSHOptions{}, false, true, "", false},
		{SSHOptions{NoTTY: true}, true, true, "-T", false},
	} {
		flags, wanted := c.o.terminal(c.in, c.out)
		if strings.Join(flags, " ") != c.flags || wanted != c.wanted {
			t.Errorf("%+v, stdin %v, stdout %v: %q %v", c.o, c.in, c.out, flags, wanted)
		}
	}
}
