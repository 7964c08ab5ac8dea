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

// impostor starts a process that says it is virtiofsd for the test's export root.
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

const stranger = 4322 // no user of the machine, and not the owner

// TestProtectBesideImpostors: processes of other users with the daemon's name
// and arguments, also where they are root of a namespace of their own and hold
// the mounts in it, neither count nor stand in the way.
func TestProtectBesideImpostors(t *testing.T) {
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
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: stranger, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: stranger, Size: 1}},
		}
		impostor(t, c)
	}
	stranger := func() {
		impostor(t, exec.Command("unshare", append([]string{"-m", "--propagation", "slave", "setpriv", "--reuid", "4322", "--regid", "4322", "--clear-groups", sh}, args...)...))
	}
	ownRoot()
	stranger()
	for range 3 {
		roottest.Do(t, o) // armed
		ownRoot()
		stranger()
		if err := stands(t, src, o); err == nil {
			t.Fatal("an impostor counts as the VM's daemon")
		}
		d := daemonFor(t, work)
		roottest.Do(t, o)
		if err := stands(t, src, o); err != nil {
			t.Error(err)
		}
		ownRoot()
		stranger()
		replace(t, src, "Makefile", "all:\n")
		roottest.Do(t, o)
		if err := stands(t, src, o); err != nil {
			t.Error(err)
		}
		holdsInGuest(d, at)
		roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: o.Token})
		if out, _ := d.Run("cat " + at + "/Makefile"); strings.Contains(out, "all:") {
			t.Errorf("after it was taken away the guest reads %q", out)
		}
		d.End()
	}
	roottest.Do(t, record.Unexport{VMKey: roottest.Key})
}

// TestDaemonTest: what makes a process a daemon, each missing once.
func TestDaemonTest(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	d := daemonFor(t, work)
	is := func(pid int) bool {
		t.Helper()
		test, err := virtiofsd.NewDaemonTest()
		roottest.Must(t, err)
		return test.Libvirts(pid)
	}
	if !is(d.PID) {
		t.Error("the daemon is not known")
	}
	stray := roottest.Receive(t, fakeVirtiofsd(t, work), "-s")
	if is(stray.PID) {
		t.Error("one that libvirt did not start is taken for its own")
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
		t.Error("what anybody can write is believed")
	}
}
