package root

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// end ends the daemon as the stop of its VM does.
func (r *receiver) end() {
	r.in.Close()
	for r.out.Scan() {
	}
	_ = r.cmd.Wait()
}

// impostor starts a process that says it is virtiofsd for the test's export root.
func impostor(t *testing.T, cmd *exec.Cmd) *os.Process {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	_, err = in.Write([]byte("echo up\n"))
	must(t, err)
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
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_SHARED)
	do(t, Export{VMKey: testKey})
	src, o := project(t, work)
	at := filepath.Join(ExportRoot(testKey), o.Token)
	args := []string{"-s", "source=" + ExportRoot(testKey)}
	sh := virtiofsd(t, work)
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
		do(t, o) // armed
		ownRoot()
		stranger()
		if err := stands(t, src, o); err == nil {
			t.Fatal("an impostor counts as the VM's daemon")
		}
		d := daemonFor(t, work)
		do(t, o)
		if err := stands(t, src, o); err != nil {
			t.Error(err)
		}
		ownRoot()
		stranger()
		replace(t, src, "Makefile", "all:\n")
		do(t, o)
		if err := stands(t, src, o); err != nil {
			t.Error(err)
		}
		holdsInGuest(d, at)
		do(t, Unbind{VMKey: testKey, Token: o.Token})
		if out, _ := d.run("cat " + at + "/Makefile"); strings.Contains(out, "all:") {
			t.Errorf("after it was taken away the guest reads %q", out)
		}
		d.end()
	}
	do(t, Unexport{VMKey: testKey})
}

// TestDaemonTest: what makes a process a daemon, each missing once.
func TestDaemonTest(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	d := daemonFor(t, work)
	is := func(pid int) bool {
		t.Helper()
		test, err := newDaemonTest()
		must(t, err)
		return test.libvirts(pid)
	}
	if !is(d.pid) {
		t.Error("the daemon is not known")
	}
	stray := receive(t, virtiofsd(t, work), "-s")
	if is(stray.pid) {
		t.Error("one that libvirt did not start is taken for its own")
	}
	other := filepath.Join(work, "sh")
	b, err := os.ReadFile("/bin/sh")
	must(t, err)
	must(t, os.WriteFile(other, b, 0o755))
	if r := startedByLibvirt(t, work, receive(t, other, "-s")); is(r.pid) {
		t.Error("another program is taken for virtiofsd")
	}
	for _, mode := range []uint32{0o4755, 0o757} {
		dir := filepath.Join(work, "of", "others")
		must(t, os.MkdirAll(dir, 0o755))
		p := filepath.Join(dir, "virtiofsd")
		must(t, os.WriteFile(p, b, 0o755))
		must(t, unix.Chmod(p, mode))
		if r := startedByLibvirt(t, work, receive(t, p, "-s")); is(r.pid) {
			t.Errorf("a program of mode %o is taken for virtiofsd", mode)
		}
		must(t, os.Remove(p))
	}
	must(t, os.Chmod(libvirtState, 0o777))
	if _, err := newDaemonTest(); err == nil {
		t.Error("what anybody can write is believed")
	}
}
