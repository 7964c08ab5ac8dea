package protect_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// impostor starts a process that claims to be the virtiofsd of the test's export root.
func impostor(t *testing.T, cmd *exec.Cmd) *os.Process {
	t.Helper()
	in, err := cmd.StdinPipe()
	roottest.Must(t, err)
	out, err := cmd.StdoutPipe()
	roottest.Must(t, err)
	cmd.Stderr = os.Stderr
	roottest.Must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	_, err = in.Write([]byte("echo up\n"))
	roottest.Must(t, err)
	b := make([]byte, 3)
	if _, err := out.Read(b); err != nil {
		t.Fatalf("the impostor does not run: %v", err)
	}
	return cmd.Process
}

const otherUID = 4322 // not a user of the machine, and not the owner

// Processes of other users with the daemon's name and arguments do not count as
// daemons and do not disturb the protection, also if they are root in their own user
// namespace and have the mounts in it.
func TestProtectDespiteImpostors(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_SHARED)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	src, o := project(t, work)
	at := filepath.Join(rootfile.ExportRoot(roottest.Key), o.Token)
	args := []string{"-s", "source=" + rootfile.ExportRoot(roottest.Key)}
	sh := fakeVirtiofsd(t, work)
	ownRoot := func() {
		c := exec.Command(sh, args...)
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: otherUID, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: otherUID, Size: 1}},
		}
		impostor(t, c)
	}
	otherUser := func() {
		impostor(t, exec.Command("unshare", append([]string{"-m", "--propagation", "slave", "setpriv", "--reuid", "4322", "--regid", "4322", "--clear-groups", sh}, args...)...))
	}
	ownRoot()
	otherUser()
	for range 3 {
		roottest.Do(t, o) // before the daemon starts
		ownRoot()
		otherUser()
		if err := check(t, src, o); err == nil {
			t.Fatal("an impostor counts as the VM's daemon")
		}
		d := startDaemon(t, work)
		roottest.Do(t, o)
		if err := check(t, src, o); err != nil {
			t.Error(err)
		}
		ownRoot()
		otherUser()
		replace(t, src, "Makefile", "all:\n")
		roottest.Do(t, o)
		if err := check(t, src, o); err != nil {
			t.Error(err)
		}
		checkProtected(d, at)
		roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: o.Token})
		if out, _ := d.Run("cat " + at + "/Makefile"); strings.Contains(out, "all:") {
			t.Errorf("after unbind the guest still reads %q", out)
		}
		d.End()
	}
	roottest.Do(t, record.Unexport{VMKey: roottest.Key})
}

// A process counts as a daemon only if it has every property of one: each case lacks
// one.
func TestDaemonTest(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	d := startDaemon(t, work)
	is := func(pid int) bool {
		t.Helper()
		test, err := virtiofsd.NewDaemonTest()
		roottest.Must(t, err)
		return test.StartedByLibvirt(pid)
	}
	if !is(d.PID) {
		t.Error("the daemon is not recognised")
	}
	stray := roottest.Receive(t, fakeVirtiofsd(t, work), "-s")
	if is(stray.PID) {
		t.Error("a process that libvirt did not start counts as a daemon")
	}
	other := filepath.Join(work, "sh")
	b, err := os.ReadFile("/bin/sh")
	roottest.Must(t, err)
	roottest.Must(t, os.WriteFile(other, b, 0o755))
	if r := startedByLibvirt(t, work, roottest.Receive(t, other, "-s")); is(r.PID) {
		t.Error("another program is taken for virtiofsd")
	}
	for _, mode := range []uint32{0o4755, 0o757} {
		dir := filepath.Join(work, "of", "others")
		roottest.Must(t, os.MkdirAll(dir, 0o755))
		p := filepath.Join(dir, "virtiofsd")
		roottest.Must(t, os.WriteFile(p, b, 0o755))
		roottest.Must(t, unix.Chmod(p, mode))
		if r := startedByLibvirt(t, work, roottest.Receive(t, p, "-s")); is(r.PID) {
			t.Errorf("a program of mode %o is taken for virtiofsd", mode)
		}
		roottest.Must(t, os.Remove(p))
	}
	roottest.Must(t, os.Chmod(virtiofsd.LibvirtState, 0o777))
	if _, err := virtiofsd.NewDaemonTest(); err == nil {
		t.Error("a directory that anybody can write is trusted")
	}
}
