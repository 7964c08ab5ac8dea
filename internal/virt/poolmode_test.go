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

// modeOf returns owner and mode as a test wants to see them.
func modeOf(t *testing.T, path string) string {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %04o", st.Sys().(*syscall.Stat_t).Uid, st.Mode().Perm())
}

// reads reports whether a user with no group of anybody's can read a file.
func reads(path string) bool {
	c := exec.Command("cat", path)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4399, Gid: 4399, Groups: []uint32{}}}
	return c.Run() == nil
}

// The directory of a pool is closed to other users, the one an older aivm made
// too, while it is in use: a volume that is made and read beside it is neither
// lost nor refused. A pool of somebody else's stays as it is.
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
	ours, theirs := fmt.Sprintf("aivm-%08x", os.Getpid()), fmt.Sprintf("theirs-%d", os.Getpid())
	t.Cleanup(func() {
		c := daemon(t)
		for _, n := range []string{ours, theirs} {
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
	// As aivm made them until now.
	for _, n := range []string{ours, theirs} {
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
	dir := filepath.Join(top, ours)
	image := filepath.Join(dir, "base-1")
	if !reads(image) {
		t.Fatal("another user cannot read the image of an open pool: the test proves nothing")
	}
	p, err := c.PoolAt(ctx, dir)
	if err != nil || !p.Open {
		t.Fatalf("an open pool: %+v %v", p, err)
	}

	// Others make, find and read volumes all the while.
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
				if err := other.CreateVolume(ctx, ours, NewVolume{Name: name, Format: "raw", Mode: "0600", Capacity: 512}); err != nil {
					t.Errorf("a volume beside it: %v", err)
					return
				}
				if _, err := other.ReadTail(ctx, ours, name, 512); err != nil {
					t.Errorf("reading beside it: %v", err)
					return
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	for try := 0; ; try++ {
		err := c.EnsurePool(ctx, ours, dir)
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
	if reads(image) {
		t.Error("another user still reads the image")
	}
	if p, err := c.PoolAt(ctx, dir); err != nil || p.Open || !p.Active || p.Volumes["base-1"].Capacity != 4096 {
		t.Errorf("afterwards: %+v %v", p, err)
	}
	// It stays so when libvirt builds and starts it again, as after a reboot.
	lp, err := c.l.StoragePoolLookupByName(ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.l.StoragePoolDestroy(lp); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsurePool(ctx, ours, dir); err != nil {
		t.Fatal(err)
	}
	if got := modeOf(t, dir); got != "0 0710" {
		t.Errorf("started again: %s", got)
	}
	// The group is QEMU's: it alone goes in.
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

	foreign := filepath.Join(top, theirs)
	if p, err := c.PoolAt(ctx, foreign); err != nil || p.Open {
		t.Errorf("somebody else's pool: %+v %v", p, err)
	}
	if err := c.EnsurePool(ctx, theirs, foreign); err != nil {
		t.Fatal(err)
	}
	if got := modeOf(t, foreign); got != "0 0711" {
		t.Errorf("somebody else's pool was changed: %s", got)
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
