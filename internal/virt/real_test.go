package virt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
)

// daemon connects to the libvirt of this machine.
func daemon(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial(context.Background(), URI{})
	if err != nil {
		t.Fatalf("this test needs the libvirt of this machine (sudo systemctl start libvirtd, or sudo libvirtd -d): %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// newPool returns the name and directory for a pool that does not exist yet and is removed
// after the test.
func newPool(t *testing.T) (name, dir string) {
	t.Helper()
	// Not t.TempDir: libvirt's user has to enter it.
	top, err := os.MkdirTemp("/var/tmp", "aivm-virt-test-")
	if err != nil {
		t.Fatal(err)
	}
	name = fmt.Sprintf("virttest%d-%s", os.Getpid(), t.Name())
	t.Cleanup(func() {
		c := daemon(t)
		if p, err := c.l.StoragePoolLookupByName(name); err == nil {
			_ = c.l.StoragePoolDestroy(p)
			if err := c.l.StoragePoolUndefine(p); err != nil {
				t.Error(err)
			}
		}
		_ = os.RemoveAll(top)
	})
	return name, top + "/pool"
}

// Several processes can make the same pool at the same time.
func TestEnsurePoolAtOnce(t *testing.T) {
	name, dir := newPool(t)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for range 6 {
		c := daemon(t)
		wg.Go(func() {
			<-start
			if err := c.EnsurePool(context.Background(), name, dir); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	p, err := daemon(t).PoolAt(context.Background(), dir)
	if err != nil || p.Name != name || !p.Active {
		t.Errorf("%+v %v", p, err)
	}
	if err := daemon(t).EnsurePool(context.Background(), name, dir+"2"); !errors.Is(err, errForeignPool) {
		t.Errorf("a pool elsewhere: %v", err)
	}
}

// PoolAt works while other connections create volumes in the pool.
func TestPoolAtWhileVolumesAreMade(t *testing.T) {
	ctx := context.Background()
	name, dir := newPool(t)
	c := daemon(t)
	if err := c.EnsurePool(ctx, name, dir); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for w := range 3 {
		c := daemon(t)
		wg.Go(func() {
			took := 15 * time.Millisecond
			for i := 0; ; i++ {
				// The pool is idle for a part of the time, also if creating a volume takes long.
				select {
				case <-stop:
					return
				case <-time.After(2 * took):
				}
				began := time.Now()
				v := fmt.Sprintf("v%d-%d", w, i)
				if err := c.CreateVolume(ctx, name, NewVolume{Name: v, Format: "qcow2", Mode: "0600", Capacity: 1 << 30}); err != nil {
					t.Error(err)
					return
				}
				if err := c.DeleteVolume(ctx, name, v); err != nil {
					t.Error(err)
					return
				}
				took = time.Since(began)
			}
		})
	}
	// Until libvirt has refused a refresh at least once, which this test is about; how
	// often it does so varies.
	refused := 0
	for began, n := time.Now(), 0; n < 30 || refused == 0 && time.Since(began) < 30*time.Second; n++ {
		if p, err := c.l.StoragePoolLookupByName(name); err != nil {
			t.Fatal(err)
		} else if isCode(c.l.StoragePoolRefresh(p, 0), libvirt.ErrInternalError) {
			refused++
		}
		if _, err := c.PoolAt(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("libvirt never refused a refresh: the test proves nothing")
	}
}

func TestVolumes(t *testing.T) {
	ctx := context.Background()
	name, dir := newPool(t)
	c := daemon(t)
	if err := c.EnsurePool(ctx, name, dir); err != nil {
		t.Fatal(err)
	}
	v := NewVolume{Name: "v", Format: "raw", Mode: "0600", Capacity: 4096}
	if err := c.CreateVolume(ctx, name, v); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateVolume(ctx, name, v); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if err := c.Upload(ctx, name, "v", bytes.NewReader(bytes.Repeat([]byte{1}, 4096)), 4096); err != nil {
		t.Fatal(err)
	}
	p, err := c.PoolAt(ctx, dir)
	if err != nil || len(p.Volumes) != 1 {
		t.Fatalf("%+v %v", p, err)
	}
	if got := p.Volumes["v"]; time.Since(got.Modified).Abs() > time.Minute || got.Capacity != 4096 || got.Path != dir+"/v" {
		t.Errorf("%+v", got)
	}
	for range 2 {
		if err := c.DeleteVolume(ctx, name, "v"); err != nil {
			t.Error(err)
		}
	}
}

// ReadVolume works a thousand times over one connection with other calls at the same time.
// go-libvirt without wire hangs after some of them.
func TestReadVolumeManyTimes(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	name, dir := newPool(t)
	c := daemon(t)
	if err := c.EnsurePool(ctx, name, dir); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 300<<10)
	for i := range data {
		data[i] = byte(i * 7 / 13)
	}
	if err := c.CreateVolume(ctx, name, NewVolume{Name: "v", Format: "raw", Mode: "0600", Capacity: uint64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if err := c.Upload(ctx, name, "v", bytes.NewReader(data), uint64(len(data))); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			if _, err := c.Networks(ctx); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := range 1000 {
		at, n := uint64(i*251%1000), uint64(1+i*4099%(256<<10))
		got, err := c.ReadVolume(ctx, dir+"/v", at, n)
		if err != nil || !bytes.Equal(got, data[at:at+n]) {
			t.Fatalf("read %d: %d bytes, %v", i, len(got), err)
		}
	}
	<-done
	if _, err := c.ReadVolume(ctx, dir+"/v", uint64(len(data))-10, 20); err == nil {
		t.Error("reading past the end succeeded")
	}
	if _, err := c.ReadVolume(ctx, dir+"/w", 0, 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a file in no pool: %v", err)
	}
}

// MarkNetwork marks a network made by another program, with any version of libvirt, and
// changes nothing else of it. The mark is visible immediately.
func TestMarkNetwork(t *testing.T) {
	ctx := context.Background()
	c := daemon(t)
	name := fmt.Sprintf("virttest%d", os.Getpid())
	if err := c.DefineNetwork(ctx, "<network><name>"+name+"</name><bridge name='vtest"+fmt.Sprint(os.Getpid()%100000)+"'/><ip address='10.97.211.1' prefix='24'><dhcp><range start='10.97.211.100' end='10.97.211.200'/></dhcp></ip></network>"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n, err := c.l.NetworkLookupByName(name); err == nil {
			_ = c.l.NetworkDestroy(n)
			if err := c.l.NetworkUndefine(n); err != nil {
				t.Error(err)
			}
		}
	})
	if err := c.StartNetwork(ctx, name); err != nil {
		t.Fatal(err)
	}
	before, err := c.Network(ctx, name)
	if err != nil || before.Mark.Exists {
		t.Fatalf("%+v %v", before, err)
	}
	if err := c.MarkNetwork(ctx, name, 1234); err != nil {
		t.Fatal(err)
	}
	after, err := c.Network(ctx, name)
	if err != nil || !after.Mark.By(1234) || after.Mark.By(0) {
		t.Fatalf("%+v %v", after, err)
	}
	after.Mark = before.Mark
	if fmt.Sprint(*after) != fmt.Sprint(*before) {
		t.Errorf("%+v became %+v", before, after)
	}
}
