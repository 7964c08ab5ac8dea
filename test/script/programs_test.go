package script

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/cmd"
	"aivm.dev/aivm/internal/config"
)

// programs are commands that scripts find in PATH in addition to the host's.
var programs = map[string]func(){
	"aivm":   aivm,
	"code":   code,
	"as":     as,
	"hiding": hiding,
	"relay":  relay,

	"connected": connected,

	"imageserver": imageserver,
}

// Environment variables of the program under test. The shipped program does not have them.
const (
	changeEnv = "AIVM_TEST_CHANGE" // "1": this script may change libvirt
	killEnv   = "AIVM_TEST_KILL"   // pattern of a fault point: SIGKILL there
	intEnv    = "AIVM_TEST_INT"    // the same with SIGINT
	dropEnv   = "AIVM_TEST_DROP"   // the same, but libvirt's connections are closed (hiding relay)
	relayEnv  = "AIVM_TEST_RELAY"  // process id of the relay, set by hiding
	pointsEnv = "AIVM_TEST_POINTS" // file that gets a line for each fault point
	codeEnv   = "FAKE_CODE_LOG"    // file that gets a JSON array for each start of code
)

func aivm() {
	checked := false
	os.Exit(cmd.Main(os.Args[1:], func(point string) {
		if !checked {
			mayChange()
			checked = true
		}
		if f := os.Getenv(pointsEnv); f != "" {
			appendLine(f, point)
		}
		if p := os.Getenv(dropEnv); p != "" {
			if ok, err := path.Match(p, point); err != nil || ok {
				dropLibvirt()
			}
		}
		for env, sig := range map[string]syscall.Signal{killEnv: unix.SIGKILL, intEnv: unix.SIGINT} {
			if p := os.Getenv(env); p != "" {
				if ok, err := path.Match(p, point); err != nil || ok {
					_ = unix.Kill(os.Getpid(), sig)
					if sig == unix.SIGKILL {
						select {}
					}
				}
			}
		}
	}))
}

// mayChange is called before the first action of a run. It ends a script that did not call "changes", or
// whose config names VMs, networks or directories that are not a test's.
func mayChange() {
	bug := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "SCRIPT BUG: "+format+"\n", args...)
		os.Exit(97)
	}
	if os.Getenv(changeEnv) != "1" {
		bug("the script is about to change something without %s=1", changeEnv)
	}
	file, err := config.DefaultPath()
	if err != nil {
		bug("%v", err)
	}
	for i, a := range os.Args {
		if a == "--config" && i+1 < len(os.Args) {
			file = os.Args[i+1]
		}
	}
	s, err := config.Load(file)
	if err != nil {
		bug("%v", err)
	}
	d := s.Config.Defaults
	own := strings.HasPrefix(d.VM.Name, "scr") && strings.HasPrefix(d.Network.Name, "scr") && strings.HasPrefix(d.Paths.BaseDir, stageBase)
	for _, v := range s.Config.VMs {
		own = own && strings.HasPrefix(v.Name, "scr") && strings.HasPrefix(v.Paths.BaseDir, stageBase)
	}
	for _, n := range s.Config.Networks {
		own = own && strings.HasPrefix(n.Network.Name, "scr")
	}
	if !own {
		bug("the config %s names VMs, networks or directories that are not a script's", file)
	}
}

func appendLine(file, text string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err == nil {
		_, err = f.WriteString(text + "\n")
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "SCRIPT BUG:", err)
		os.Exit(97)
	}
}

// code is a substitute for Visual Studio Code that opens nothing: it logs its arguments, and lists
// Remote-SSH as an installed extension, unless FAKE_CODE_BARE is set.
func code() {
	if b, err := json.Marshal(os.Args[1:]); err == nil && os.Getenv(codeEnv) != "" {
		appendLine(os.Getenv(codeEnv), string(b))
	}
	if len(os.Args) > 1 && os.Args[1] == "--list-extensions" && os.Getenv("FAKE_CODE_BARE") == "" {
		fmt.Println("ms-vscode-remote.remote-ssh")
	}
}

// as runs a command as one of the tests' users, with that user's home below $WORK: as USER PROGRAM ARG...
func as() {
	u, err := user.Lookup(os.Args[1])
	must(err)
	uid, err := strconv.Atoi(u.Uid)
	must(err)
	home := filepath.Join(os.Getenv("WORK"), "home-"+u.Username)
	must(os.MkdirAll(home, 0o700))
	must(os.Chown(home, uid, uid))
	prog, err := exec.LookPath(os.Args[2])
	must(err)
	for _, k := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"} {
		must(os.Unsetenv(k))
	}
	must(os.Setenv("HOME", home))
	must(os.Setenv("USER", u.Username))
	must(os.Setenv("AIVM_SSH_CONFIG", filepath.Join(home, ".ssh", "config")))
	must(syscall.Setgroups([]int{uid}))
	must(syscall.Setgid(uid))
	must(syscall.Setuid(uid))
	must(syscall.Exec(prog, os.Args[2:], os.Environ()))
}

// hiding runs a command in a mount namespace in which libvirt or a program is hidden:
//
//	hiding libvirt PROGRAM ARG...   libvirt has no socket and cannot be started
//	hiding socket MODE PROGRAM ...  libvirt's socket accepts connections and never answers
//	hiding program NAME PROGRAM ... the program NAME is not installed
//	hiding relay PROGRAM ARG...     libvirt is reached through a relay that can be killed
func hiding() {
	runtime.LockOSThread()
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	// A second libvirtd would take over the host's domains, so none can be started.
	no := filepath.Join(os.Getenv("WORK"), ".no-daemon")
	must(os.WriteFile(no, []byte("#!/bin/sh\necho \"$0: out of order\" >&2\nexit 7\n"), 0o755))
	for _, d := range []string{"libvirtd", "virtlogd", "virtqemud"} {
		if p, err := exec.LookPath(d); err == nil {
			must(unix.Mount(no, p, "", unix.MS_BIND, ""))
		}
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "libvirt":
		must(unix.Mount("tmpfs", "/run/libvirt", "tmpfs", 0, "mode=755"))
		for _, p := range []string{"/run/libvirtd.pid", "/run/virtlogd.pid"} {
			if _, err := os.Stat(p); err == nil {
				must(unix.Mount("/dev/null", p, "", unix.MS_BIND, ""))
			}
		}
	case "socket":
		mode, err := strconv.ParseUint(args[0], 8, 32)
		must(err)
		args = args[1:]
		must(unix.Mount("tmpfs", "/run/libvirt", "tmpfs", 0, "mode=755"))
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // without CLOEXEC, so that it still listens after exec
		must(err)
		must(unix.Bind(fd, &unix.SockaddrUnix{Name: "/run/libvirt/libvirt-sock"}))
		must(unix.Listen(fd, 5))
		must(os.Chmod("/run/libvirt/libvirt-sock", os.FileMode(mode)))
	case "program":
		for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
			if p := filepath.Join(dir, args[0]); exists(p) {
				must(unix.Mount("/dev/null", p, "", unix.MS_BIND, "")) // a device is not executable
			}
		}
		args = args[1:]
	case "relay":
		behind := filepath.Join(os.Getenv("WORK"), ".behind")
		must(os.MkdirAll(behind, 0o755))
		must(unix.Mount("/run/libvirt", behind, "", unix.MS_BIND, ""))
		must(unix.Mount("tmpfs", "/run/libvirt", "tmpfs", 0, "mode=755"))
		c := exec.Command("/proc/self/exe", "/run/libvirt/libvirt-sock", filepath.Join(behind, "libvirt-sock"))
		c.Args[0] = "relay"
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		ready, err := c.StdoutPipe()
		must(err)
		must(c.Start())
		_, err = ready.Read(make([]byte, 1))
		must(err)
		must(os.Setenv(relayEnv, strconv.Itoa(c.Process.Pid)))
	default:
		must(fmt.Errorf("usage: hiding libvirt|socket|program|relay ..."))
	}
	prog, err := exec.LookPath(args[0])
	must(err)
	must(syscall.Exec(prog, args, os.Environ()))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// relay forwards connections from one Unix socket to another until it is killed: relay LISTEN TO.
func relay() {
	l, err := net.Listen("unix", os.Args[1])
	must(err)
	fmt.Println("ready")
	for {
		a, err := l.Accept()
		must(err)
		b, err := net.Dial("unix", os.Args[2])
		must(err)
		for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
			go func() {
				_, _ = io.Copy(way[0], way[1]) // ends when one side is closed
				_ = way[0].Close()
			}()
		}
	}
}

// connected gives this machine the address of a guest, and keeps a connection to its port 22 until the
// file "connected", which it writes, is removed: connected ADDRESS
func connected() {
	addr := os.Args[1]
	must(exec.Command("ip", "addr", "add", addr+"/32", "dev", "lo").Run())
	defer func() { _ = exec.Command("ip", "addr", "del", addr+"/32", "dev", "lo").Run() }()
	// It fails where an sshd listens on all addresses, which then accepts the connection.
	if l, err := net.Listen("tcp", addr+":22"); err == nil {
		defer l.Close()
	}
	c, err := net.Dial("tcp", addr+":22")
	must(err)
	defer c.Close()
	must(os.WriteFile("connected", nil, 0o600))
	for {
		if _, err := os.Stat("connected"); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// dropLibvirt kills the relay and returns when its connections are closed.
func dropLibvirt() {
	pid, err := strconv.Atoi(os.Getenv(relayEnv))
	must(err)
	must(unix.Kill(pid, unix.SIGKILL))
	for {
		// No process waits for the relay, so it becomes a zombie, which has no descriptors.
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "SCRIPT BUG:", err)
		os.Exit(97)
	}
}
