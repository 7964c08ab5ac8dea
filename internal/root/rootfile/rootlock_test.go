package rootfile_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// otherUID is a user who does not use aivm.
const otherUID = 4399

// holderRole runs as another user: it locks every file below the given directories that
// the user can open, prints the paths, and holds the locks until its stdin ends.
func holderRole() int {
	if err := unix.Setgroups(nil); err != nil {
		panic(err)
	}
	if err := unix.Setresgid(otherUID, otherUID, otherUID); err != nil {
		panic(err)
	}
	if err := unix.Setresuid(otherUID, otherUID, otherUID); err != nil {
		panic(err)
	}
	if f, err := os.OpenFile("/etc/shadow", os.O_RDONLY, 0); err == nil {
		f.Close()
		panic("still root")
	}
	for _, top := range strings.Fields(os.Getenv("AIVM_ROOT_TEST_TOPS")) {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if d == nil || err == nil && d.Type()&(fs.ModeSocket|fs.ModeDevice|fs.ModeSymlink) != 0 {
				return nil
			}
			fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil
			}
			if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
				fmt.Println(p)
			}
			_ = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK})
			return nil // kept open
		})
	}
	fmt.Println("==")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return 0
}

// lockingUser starts a holderRole process and returns the paths that it locked.
func lockingUser(t *testing.T, tops ...string) []string {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), roottest.RoleEnv+"=holder", "AIVM_ROOT_TEST_TOPS="+strings.Join(tops, " "))
	in, err := c.StdinPipe()
	roottest.Must(t, err)
	out, err := c.StdoutPipe()
	roottest.Must(t, err)
	c.Stderr = os.Stderr
	roottest.Must(t, c.Start())
	t.Cleanup(func() { in.Close(); _ = c.Wait() })
	var held []string
	for s := bufio.NewScanner(out); s.Scan(); {
		if s.Text() == "==" {
			return held
		}
		held = append(held, s.Text())
	}
	t.Fatal("the other user ended")
	return nil
}

// A user who locks every file and directory of aivm's and libvirt's that the user can
// open keeps neither a network nor a VM from starting, nor the helper from working.
func TestAnotherUsersLocks(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Libvirtd(t)
	roottest.DefineNetwork(t, "hooked", "brh", "99")
	dom := filepath.Join(t.TempDir(), "dom")
	roottest.Must(t, os.WriteFile(dom, []byte(`<domain type='qemu'><name>hooked</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='hooked'/></interface></devices></domain>`), 0o600))
	roottest.VirshOK(t, "define", dom)
	w := roottest.Wall("hooked", "brh")
	roottest.Do(t, record.Hooks{})
	roottest.Do(t, record.Nft{Wall: w})
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	// As an older aivm made them: everybody can list them, and so lock them.
	for _, d := range []string{"/var/lib/aivm", rootfile.ExportBase} {
		roottest.Must(t, os.Chmod(d, 0o755))
	}

	held := lockingUser(t, "/var/lib", "/run", "/usr/local", "/etc/libvirt")
	if len(held) == 0 {
		t.Fatal("the other user could not lock any file: the test proves nothing")
	}
	t.Logf("locked by another user: %s", strings.Join(held, " "))
	within := func(what string, f func()) {
		t.Helper()
		done := make(chan struct{})
		go func() { defer close(done); f() }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s waits for a lock that another user holds", what)
		}
	}
	within("the network's start", func() { roottest.VirshOK(t, "net-start", "hooked") })
	if !roottest.RulesLoaded(w) {
		t.Error("the network started without its rules")
	}
	within("the VM's start", func() { roottest.VirshOK(t, "start", "hooked") })
	within("the VM's stop", func() { roottest.VirshOK(t, "destroy", "hooked") })
	within("the helper", func() {
		roottest.Do(t, record.Nft{Wall: w})
		roottest.Do(t, record.Hooks{})
		src := roottest.Folder(t, filepath.Join(work, "src"), 1000, 0o755)
		roottest.Do(t, roottest.BindOf(t, src, "tok"))
		roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "tok"})
		roottest.Do(t, record.Unexport{VMKey: roottest.Key})
	})
	within("the network's stop", func() { roottest.VirshOK(t, "net-destroy", "hooked") })

	// A lock that only root can hold: the wait ends at its limit, and the network does
	// not start without its rules.
	lock, err := os.OpenFile(filepath.Join(rootfile.LockDir, "manifest"), os.O_RDWR, 0)
	roottest.Must(t, err)
	roottest.Must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	began := time.Now()
	roottest.VirshFails(t, "has held "+lock.Name(), "net-start", "hooked")
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("the hook waited for %v", d)
	}
	if roottest.RulesLoaded(w) {
		t.Error("rules of a network that did not start are loaded")
	}
	lock.Close()
	roottest.VirshOK(t, "net-start", "hooked")
	if st, err := os.Stat(rootfile.LockDir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}
