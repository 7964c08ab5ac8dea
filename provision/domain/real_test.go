package domain

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aivm.dev/aivm/internal/virt"
)

// Several first runs at once, after one that was killed during its upload, with the
// libvirt of this machine and a pool of the test: all get a disk, and one of them uploads.
func TestFirstRunsAtOnce(t *testing.T) {
	ctx := context.Background()
	top, err := os.MkdirTemp("/var/tmp", "aivm-domain-test-")
	if err != nil {
		t.Fatal(err)
	}
	dir, name := top+"/pool", fmt.Sprintf("domaintest%d", os.Getpid())
	t.Cleanup(func() {
		for _, verb := range []string{"pool-destroy", "pool-undefine"} {
			if out, err := exec.Command("virsh", "-c", virt.SystemURI, verb, name).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", verb, err, out)
			}
		}
		_ = os.RemoveAll(top)
	})
	image := filepath.Join(top, "image.raw")
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<20) // 64 MB
	if err := os.WriteFile(image, content, 0o644); err != nil {
		t.Fatal(err)
	}
	base := Base{SHA256: strings.Repeat("a", 64), Format: "raw", Size: int64(len(content)), Open: func() (io.ReadCloser, error) { return os.Open(image) }}

	dial := func() *virt.Conn {
		c, err := virt.Dial(ctx, virt.URI{})
		if err != nil {
			t.Fatalf("this test asks the libvirt of this machine (sudo systemctl start libvirtd, or sudo libvirtd -d): %v", err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	first := dial()
	if err := first.EnsurePool(ctx, name, dir); err != nil {
		t.Fatal(err)
	}
	if err := first.CreateVolume(ctx, name, virt.NewVolume{Name: base.volumeName(1), Format: "raw", Mode: "0400", Capacity: uint64(base.Size)}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		l := busyRetrier{dial()}
		wg.Go(func() {
			w := Wanted{Key: fmt.Sprintf("0-vm%d", i), DiskGB: 1, BaseDir: dir, Base: func() (Base, error) { return base, nil }, wait: uploadWait{stall: 3 * time.Second, poll: quick.poll}}
			if err := uploadBase(ctx, l, name, w); err != nil {
				t.Errorf("run %d: %v", i, err)
			}
			if err := makeDisk(ctx, l, name, w); err != nil {
				t.Errorf("run %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	p, err := first.PoolAt(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	complete, parts := base.findVolumes(p)
	if len(complete) != 1 || len(parts) != 0 || len(p.Volumes) != 6 {
		t.Fatalf("%d complete, parts %v, in all %v", len(complete), parts, p.Volumes)
	}
	for i := range 4 {
		if v := p.Volumes[diskVolume(fmt.Sprintf("0-vm%d", i))]; v.Backing != complete[0].Path {
			t.Errorf("disk %d is on %q", i, v.Backing)
		}
	}
	if b, err := os.ReadFile(complete[0].Path); err != nil || !bytes.Equal(b, content) {
		t.Errorf("the image is not what was uploaded: %d bytes, %v", len(b), err)
	}
}
