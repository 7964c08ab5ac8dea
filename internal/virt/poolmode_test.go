package virt

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// modeOf returns the owner and mode of a file as "UID MODE".
func modeOf(t *testing.T, path string) string {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %04o", st.Sys().(*syscall.Stat_t).Uid, st.Mode().Perm())
}

// canRead reports whether a user who shares no group with others can read a file.
func canRead(path string) bool {
	c := exec.Command("cat", path)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4399, Gid: 4399, Groups: []uint32{}}}
	return c.Run() == nil
}

// EnsurePool closes the directory of a pool to other users, also that of an older aivm, and
// while the pool is in use: no volume created and read at the same time is lost or
// refused. A pool that is not aivm's is not changed.
func TestPoolIsClosed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("becoming another user needs root; make unit runs it as root")
	}
	ctx := context.Background()
	top, err := os.MkdirTemp("/var/tmp", "aivm-virt-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	aivmPool, otherPool := fmt.Sprintf("aivm-%08x", os.Getpid()), fmt.Sprintf("theirs-%d", os.Getpid())
	t.Cleanup(func() {
		c := daemon(t)
		for _, n := range []string{aivmPool, otherPool} {
			if p, err := c.l.StoragePoolLookupByName(n); err == nil {
				_ = c.l.StoragePoolDestroy(p)
				if err := c.l.StoragePoolUndefine(p); err != nil {
					t.Error(err)
				}
			}
		}
		_ = os.RemoveAll(top)
	})
	c := daemon(t)
	// With the mode that earlier versions of aivm used.
	for _, n := range []string{aivmPool, otherPool} {
		p, err := c.l.StoragePoolDefineXML(fmt.Sprintf(`<pool type='dir'><name>%s</name><target><path>%s/%s</path><permissions><mode>0711</mode></permissions></target></pool>`, n, top, n), 0)
		if err == nil {
			err = c.l.StoragePoolBuild(p, 0)
		}
		if err == nil {
			err = c.l.StoragePoolCreate(p, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CreateVolume(ctx, n, NewVolume{Name: "base-1", Format: "raw", Mode: "0444", Capacity: 4096}); err != nil {
			t.Fatal(err)
		}
		if err := c.Upload(ctx, n, "base-1", bytes.NewReader(make([]byte, 4096)), 4096); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(top, aivmPool)
	image := filepath.Join(dir, "base-1")
	if !canRead(image) {
		t.Fatal("another user cannot read the image of an open pool: the test proves nothing")
	}
	p, err := c.PoolAt(ctx, dir)
	if err != nil || !p.Open {
		t.Fatalf("an open pool: %+v %v", p, err)
	}

	// Other connections create, find and read volumes at the same time.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 2 {
		other := daemon(t)
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("v%d-%d", i, n)
				if err := other.CreateVolume(ctx, aivmPool, NewVolume{Name: name, Format: "raw", Mode: "0600", Capacity: 512}); err != nil {
					t.Errorf("creating a volume at the same time: %v", err)
					return
				}
				if _, err := other.ReadTail(ctx, aivmPool, name, 512); err != nil {
					t.Errorf("reading a volume at the same time: %v", err)
					return
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	for try := 0; ; try++ {
		err := c.EnsurePool(ctx, aivmPool, dir)
		if err == nil {
			break
		}
		if try == 20 {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond)
	close(stop)
	wg.Wait()
	if got := modeOf(t, dir); got != "0 0710" {
		t.Errorf("the directory: %s", got)
	}
	if canRead(image) {
		t.Error("another user still reads the image")
	}
	if p, err := c.PoolAt(ctx, dir); err != nil || p.Open || !p.Active || p.Volumes["base-1"].Capacity != 4096 {
		t.Errorf("afterwards: %+v %v", p, err)
	}
	// The mode is the same after libvirt builds and starts the pool again, as after a reboot.
	lp, err := c.l.StoragePoolLookupByName(aivmPool)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.l.StoragePoolDestroy(lp); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsurePool(ctx, aivmPool, dir); err != nil {
		t.Fatal(err)
	}
	if got := modeOf(t, dir); got != "0 0710" {
		t.Errorf("started again: %s", got)
	}
	// The directory's group is QEMU's.
	st, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	caps, err := c.l.ConnectGetCapabilities()
	if err != nil {
		t.Fatal(err)
	}
	if gid, ok := qemuGroup(caps); !ok || fmt.Sprint(st.Sys().(*syscall.Stat_t).Gid) != gid {
		t.Errorf("the group is %d, QEMU's is %q", st.Sys().(*syscall.Stat_t).Gid, gid)
	}

	foreign := filepath.Join(top, otherPool)
	if p, err := c.PoolAt(ctx, foreign); err != nil || p.Open {
		t.Errorf("a pool that is not aivm's: %+v %v", p, err)
	}
	if err := c.EnsurePool(ctx, otherPool, foreign); err != nil {
		t.Fatal(err)
	}
	if got := modeOf(t, foreign); got != "0 0711" {
		t.Errorf("a pool that is not aivm's was changed: %s", got)
	}
}

func TestQEMUGroup(t *testing.T) {
	for caps, want := range map[string]string{
		`<capabilities><host><secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+108</baselabel><baselabel type='qemu'>+64055:+108</baselabel></secmodel></host></capabilities>`: "108",
		`<capabilities><host><secmodel><model>selinux</model><doi>0</doi><baselabel type='kvm'>system_u:system_r:svirt_t:s0</baselabel></secmodel></host></capabilities>`:                                                                                  "",
		`<capabilities><host><secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+0:-1</baselabel></secmodel></host></capabilities>`:                                                                                                             "",
		`<capabilities/>`: "",
		`rubbish`:         "",
	} {
		if got, ok := qemuGroup(caps); got != want || ok != (want != "") {
			t.Errorf("%.60s: %q %v, want %q", caps, got, ok, want)
		}
	}
}
