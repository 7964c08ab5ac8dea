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

// stageEnv passes the directory of the tests to the inner process, which runs them. The outer process,
// the guard, creates the mount namespace and removes leftovers after the inner one has ended.
const stageEnv = "AIVM_SCRIPT_STAGE"

// stageBase is outside of homes, on a file system that libvirt's daemon sees too.
const stageBase = "/var/tmp/aivm-script-"

func TestMain(m *testing.M) {
	if _, ok := programs[filepath.Base(os.Args[0])]; !ok && os.Getenv(stageEnv) == "" {
		os.Exit(guard())
	}
	testscript.Main(m, programs)
}

// guard runs the tests as root in their own mount namespace and restores the host afterwards, also if
// they crash or are killed.
func guard() int {
	if os.Geteuid() != 0 {
		return throughSudo()
	}
	// Only one run of these tests at a time. The lock is on the existing directory, so that no lock file
	// remains.
	l, err := os.Open(filepath.Dir(stageBase))
	if err == nil {
		err = unix.Flock(int(l.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return complain("locking the script suite: %v", err)
	}
	defer l.Close()
	// Leftovers of an earlier run that was killed together with its guard.
	sweep()
	dir, err := os.MkdirTemp(filepath.Dir(stageBase), filepath.Base(stageBase))
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return complain("creating the tests' directory: %v", err)
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
	leftover := sweep()
	var ee *exec.ExitError
	switch {
	case err == nil && len(leftover) == 0:
		return 0
	case err == nil:
		return complain("the scripts did not remove (removed now):\n  %s", strings.Join(leftover, "\n  "))
	case errors.As(err, &ee) && ee.ExitCode() > 0:
		return ee.ExitCode()
	}
	return complain("the tests: %v", err)
}

func complain(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "FAIL: "+format+"\n", args...)
	return 1
}

// throughSudo starts the guard again as root. It fails if sudo asks for a password.
func throughSudo() int {
	if out, err := exec.Command("sudo", "-n", "true").CombinedOutput(); err != nil {
		return complain("the script tests need root: they create users, mounts and libvirt networks.\nRun them as root, or as a user whose sudo needs no password (sudo -n true: %v: %s)",
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

// virsh returns the output of virsh, or "" if it fails, because what does not exist need not be removed.
func virsh(args ...string) string {
	out, err := exec.Command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// sweep removes everything that scripts may have created outside their namespace, and returns a list of
// it: domains, networks and links named "scr...", pools and directories below stageBase, export
// directories, manifests.
func sweep() []string {
	var removed []string
	for _, n := range strings.Fields(virsh("list", "--all", "--name")) {
		if strings.HasPrefix(n, "scr") {
			virsh("destroy", n)
			virsh("undefine", n)
			removed = append(removed, "domain "+n)
		}
	}
	for _, n := range strings.Fields(virsh("net-list", "--all", "--name")) {
		if strings.HasPrefix(n, "scr") {
			virsh("net-destroy", n)
			virsh("net-undefine", n)
			_ = os.Remove("/var/lib/aivm/manifest/net-" + n + ".json")
			removed = append(removed, "network "+n)
		}
	}
	for _, n := range strings.Fields(virsh("pool-list", "--all", "--name")) {
		if strings.Contains(virsh("pool-dumpxml", n), "<path>"+stageBase) {
			virsh("pool-destroy", n)
			virsh("pool-undefine", n)
			removed = append(removed, "pool "+n)
		}
	}
	links, _ := filepath.Glob("/sys/class/net/scr*")
	for _, l := range links {
		if exec.Command("ip", "link", "delete", filepath.Base(l)).Run() == nil {
			removed = append(removed, "link "+filepath.Base(l))
		}
	}
	exports, _ := filepath.Glob("/var/lib/aivm/export/*-scr*")
	for _, d := range exports {
		tokens, _ := filepath.Glob(d + "/*")
		for _, t := range tokens {
			_ = os.Remove(t) // its mount ended with the namespace
		}
		if os.Remove(d) == nil { // fails if the directory is not empty
			removed = append(removed, d)
		}
	}
	manifests, _ := filepath.Glob("/var/lib/aivm/manifest/*-scr*.json")
	for _, m := range manifests {
		if os.Remove(m) == nil {
			removed = append(removed, m)
		}
	}
	dirs, _ := filepath.Glob(stageBase + "*")
	for _, d := range dirs {
		_ = os.RemoveAll(d) // has no mounts any more: they ended with the namespace
	}
	return removed
}
