package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// stageEnv tells the inner process where its directory is. The outer one, the
// guard, makes the mount namespace and sweeps when the inner one has ended.
const stageEnv = "AIVM_SCRIPT_STAGE"

// stageBase is on a file system libvirt's daemon sees too, outside every home.
const stageBase = "/var/tmp/aivm-script-"

func TestMain(m *testing.M) {
	if _, ok := programs[filepath.Base(os.Args[0])]; !ok && os.Getenv(stageEnv) == "" {
		os.Exit(guard())
	}
	testscript.Main(m, programs)
}

// guard runs the tests as root in a mount namespace of their own and leaves
// the machine as it was, also when they crash or are killed.
func guard() int {
	if os.Geteuid() != 0 {
		return throughSudo()
	}
	// One suite at a time on a machine. The directory itself is locked, so that
	// no file of it stays behind.
	l, err := os.Open(filepath.Dir(stageBase))
	if err == nil {
		err = unix.Flock(int(l.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return complain("locking the script suite: %v", err)
	}
	defer l.Close()
	// What an earlier run left when it was killed together with its guard.
	sweep()
	dir, err := os.MkdirTemp(filepath.Dir(stageBase), filepath.Base(stageBase))
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return complain("making the stage: %v", err)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageEnv+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return complain("starting the tests in a mount namespace: %v", err)
	}
	go func() {
		for s := range sigs {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	left := sweep()
	var ee *exec.ExitError
	switch {
	case err == nil && len(left) == 0:
		return 0
	case err == nil:
		return complain("the scripts left behind (removed now):\n  %s", strings.Join(left, "\n  "))
	case errors.As(err, &ee) && ee.ExitCode() > 0:
		return ee.ExitCode()
	}
	return complain("the tests: %v", err)
}

func complain(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "FAIL: "+format+"\n", args...)
	return 1
}

// throughSudo starts the guard again as root, without a question.
func throughSudo() int {
	if out, err := exec.Command("sudo", "-n", "true").CombinedOutput(); err != nil {
		return complain("the script suite needs root: it makes users, mounts and libvirt networks.\nRun it as root, or as a user whose sudo asks nothing (sudo -n true says: %v: %s)",
			err, strings.TrimSpace(string(out)))
	}
	self, err := os.Executable()
	if err != nil {
		return complain("finding the test program: %v", err)
	}
	args := append([]string{"-n", "--", "env", "PATH=" + os.Getenv("PATH")}, append([]string{self}, os.Args[1:]...)...)
	cmd := exec.Command("sudo", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) && ee.ExitCode() > 0 {
			return ee.ExitCode()
		}
		return complain("sudo: %v", err)
	}
	return 0
}

// virsh returns what virsh prints, "" when it fails: what is not there need
// not be removed.
func virsh(args ...string) string {
	out, err := exec.Command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// sweep removes everything a script may have made outside its namespace, and
// returns what there was: domains and networks named "scr...", pools and
// directories of stages, export directories, manifests.
func sweep() []string {
	var gone []string
	for _, n := range strings.Fields(virsh("list", "--all", "--name")) {
		if strings.HasPrefix(n, "scr") {
			virsh("destroy", n)
			virsh("undefine", n)
			gone = append(gone, "domain "+n)
		}
	}
	for _, n := range strings.Fields(virsh("net-list", "--all", "--name")) {
		if strings.HasPrefix(n, "scr") {
			virsh("net-destroy", n)
			virsh("net-undefine", n)
			_ = os.Remove("/var/lib/aivm/manifest/net-" + n + ".json")
			gone = append(gone, "network "+n)
		}
	}
	for _, n := range strings.Fields(virsh("pool-list", "--all", "--name")) {
		if strings.Contains(virsh("pool-dumpxml", n), "<path>"+stageBase) {
			virsh("pool-destroy", n)
			virsh("pool-undefine", n)
			gone = append(gone, "pool "+n)
		}
	}
	links, _ := filepath.Glob("/sys/class/net/scr*")
	for _, l := range links {
		if exec.Command("ip", "link", "delete", filepath.Base(l)).Run() == nil {
			gone = append(gone, "link "+filepath.Base(l))
		}
	}
	exports, _ := filepath.Glob("/var/lib/aivm/export/*-scr*")
	for _, d := range exports {
		tokens, _ := filepath.Glob(d + "/*")
		for _, t := range tokens {
			_ = os.Remove(t) // its mount ended with the namespace
		}
		if os.Remove(d) == nil { // empty, or it stays and is seen
			gone = append(gone, d)
		}
	}
	manifests, _ := filepath.Glob("/var/lib/aivm/manifest/*-scr*.json")
	for _, m := range manifests {
		if os.Remove(m) == nil {
			gone = append(gone, m)
		}
	}
	dirs, _ := filepath.Glob(stageBase + "*")
	for _, d := range dirs {
		_ = os.RemoveAll(d) // our own stage; its mounts ended with the namespace
	}
	return gone
}
