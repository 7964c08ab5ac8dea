package e2e

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// holdScript waits until it can open a file for writing, keeps it open, and writes to it when
// /tmp/held-go appears.
const holdScript = `
import os, sys, time
while True:
    try:
        fd = os.open(sys.argv[1], os.O_RDWR)
        break
    except OSError:
        time.sleep(0.01)
open("/tmp/held-got", "w")
while not os.path.exists("/tmp/held-go"): time.sleep(0.1)
os.write(fd, b"[core]\n\thooksPath = /evil\n")
os.fsync(fd)
open("/tmp/held-wrote", "w")
while not os.path.exists("/tmp/held-end"): time.sleep(0.1)
`

// impostors starts two processes of another host user whose command lines look like the VM's
// virtiofsd. One of them is root in its own user and mount namespaces and has the mounts there.
func impostors(t *testing.T, vm string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "aivm-e2e-impostor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "virtiofsd")
	write(t, program, read(t, "/bin/sh"), 0o755)
	const stranger = 4324
	for _, attr := range []*syscall.SysProcAttr{
		{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}},
		{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: stranger, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: stranger, Size: 1}},
		},
	} {
		c := exec.Command(program, "-s", "source=/var/lib/aivm/export/0-"+vm)
		c.SysProcAttr = attr
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); _ = c.Wait() })
		if _, err := io.WriteString(in, "echo up\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 3)); err != nil {
			t.Fatalf("an impostor does not run: %v", err)
		}
	}
}

// heldOpen tests a guest that opens a protected file while git on the host replaces it, and writes
// to it after it is protected again. attach and status must report that until the VM is restarted,
// which happens in the group "snapshots".
func (h *hostile) heldOpen() {
	prot := h.prot()
	write(h.t, filepath.Join(prot, "Makefile"), "all:\n", 0o644)
	runHost(h.t, "git", "init", "-q", prot)
	impostors(h.t, h.vm)
	h.w.must(prot, "attach", ".", "--protect", "--yes")
	config := filepath.Join(prot, ".git/config")
	if r := h.status(prot); !strings.Contains(r, "✅ Host-executed files") {
		h.t.Errorf("%s", r)
	}
	// A guest that only reads the file: its kernel drops the file from its cache on request.
	impostors(h.t, h.vm)
	runHost(h.t, "git", "-C", prot, "config", "user.name", "me")
	h.w.guest(h.vm, "sleep 1.5; sudo -n cat "+config+" "+prot+"/Makefile >/dev/null")
	if r := h.status(prot); strings.Contains(r, "✅ Host-executed files") || !strings.Contains(r, ".git/config was replaced") {
		h.t.Errorf("status after git replaced .git/config: %s", r)
	}
	h.w.must(prot, "attach", ".")
	if r := h.status(prot); strings.Contains(r, "not protected") {
		h.t.Errorf("status after the guest only read the file: %s", r)
	}
	// A guest that keeps the file open.
	if r := h.w.ssh([]byte(holdScript), h.vm, "cat >/tmp/hold.py; sudo -n sh -c 'setsid python3 /tmp/hold.py "+config+" >/dev/null 2>&1 </dev/null &'"); r.code != 0 {
		h.t.Fatalf("%+v", r)
	}
	runHost(h.t, "git", "-C", prot, "config", "user.name", "you")
	h.w.guest(h.vm, "for i in $(seq 100); do [ -e /tmp/held-got ] && exit; sleep 0.2; done; exit 1")
	for range 2 {
		r := h.run(prot, 2*time.Minute, "attach", ".")
		if r.code != 0 || !strings.Contains(r.stderr, "the VM opened .git/config before it was protected") || !strings.Contains(r.stderr, "aivm vm restart "+h.vm) {
			h.t.Errorf("attach does not report the file that the VM holds open: %+v", r)
		}
	}
	h.w.guest(h.vm, "! echo evil 2>/dev/null >>"+config+"; touch /tmp/held-go; for i in $(seq 100); do [ -e /tmp/held-wrote ] && exit; sleep 0.2; done; exit 1")
	if got := read(h.t, config); !strings.Contains(got, "/evil") {
		h.t.Fatalf("the guest could not write to the file it holds open, so this test shows nothing: %q", got)
	}
	if r := h.status(prot); strings.Contains(r, "✅ Host-executed files") || !strings.Contains(r, "not protected until the VM is restarted") || !strings.Contains(r, "aivm vm restart "+h.vm) {
		h.t.Errorf("status while the file is open: %s", r)
	}
}

// heldUntilRestart tests that after a restart no file is open any more and that the protecting
// mounts existed before the guest booted.
func (h *hostile) heldUntilRestart(t *testing.T) {
	h.t = t
	prot := h.prot()
	config := filepath.Join(prot, ".git/config")
	if r := h.status(prot); strings.Contains(r, "not protected") {
		h.t.Errorf("status after the restart: %s", r)
	}
	h.w.guest(h.vm, "! sudo -n sh -c 'echo evil >>"+config+"' 2>/dev/null; ! sudo -n mv "+prot+"/.git "+prot+"/x 2>/dev/null")
	impostors(h.t, h.vm)
	h.w.must(prot, "detach", ".")
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), "/kept-") {
		h.t.Errorf("the folder is still mounted: %v\n%s", err, b)
	}
}

// prot returns the path of the folder with protected files.
func (h *hostile) prot() string { return filepath.Join(filepath.Dir(h.project), "kept") }

func (h *hostile) status(dir string) string {
	h.t.Helper()
	return h.run(dir, time.Minute, "status").stdout
}
