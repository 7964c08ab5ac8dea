package provision

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/snapshots"
)

// tapped calls before once, before the first request of a procedure is sent.
type tapped struct {
	net.Conn
	procedure uint32
	once      *sync.Once
	before    func()
}

func (c tapped) Write(b []byte) (int, error) {
	// A request begins with length, program, version, procedure
	// (libvirt.org/internals/rpc.html).
	if len(b) >= 16 && binary.BigEndian.Uint32(b[12:]) == c.procedure {
		c.once.Do(c.before)
	}
	return c.Conn.Write(b)
}

const getMetadata = 265 // REMOTE_PROC_DOMAIN_GET_METADATA

// vanishing returns a World with a VM in this machine's libvirt that is undefined between two
// requests about it; before is called then too.
func vanishing(t *testing.T, before func(w *looptest.World)) (w *looptest.World, vm string) {
	t.Helper()
	w = newWorld(t)
	vm = fmt.Sprintf("vanish%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	store, err := os.ReadFile(w.StorePath)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.StorePath, []byte(strings.ReplaceAll(string(store), `name = "t"`, fmt.Sprintf("name = %q", vm))), 0o600); err != nil {
		t.Fatal(err)
	}
	virsh := func(args ...string) error {
		out, err := exec.Command("virsh", append([]string{"-q", "-c", virt.SystemURI}, args...)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%v: %w\n%s", args, err, out)
		}
		return err
	}
	desc := filepath.Join(w.Dir, "domain.xml")
	if err := os.WriteFile(desc, fmt.Appendf(nil, "<domain type='qemu'><name>%s</name><metadata>%s</metadata><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>"+
		"<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s/none.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>", vm, virt.MarkXML(w.UID), w.Dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := virsh("define", desc); err != nil {
		t.Fatalf("this test needs this machine's libvirt: %v", err)
	}
	t.Cleanup(func() { _ = virsh("undefine", vm) })
	var once sync.Once
	w.DialVirt = func(ctx context.Context, u virt.URI) (*virt.Conn, error) {
		nc, err := net.Dial("unix", u.Socket())
		if err != nil {
			return nil, err
		}
		return virt.Adopt(ctx, tapped{nc, getMetadata, &once, func() {
			if err := virsh("undefine", vm); err != nil {
				t.Error(err)
			}
			before(w)
		}}, u)
	}
	return w, vm
}

// If another run deletes the VM during an observation, aivm reports that with its own message,
// after the other run is done, and does not use another VM instead.
func TestVMDeletedDuringObservation(t *testing.T) {
	for what, c := range map[string]struct {
		want      string
		deleted   bool // by another run of aivm, which takes a moment
		unnamed   bool // the VM is the active one, of two
		interrupt bool // while this run waits for the other
	}{
		"undefined with virsh":   {want: "does not exist in libvirt"},
		"deleted by another run": {want: "was deleted by another run", deleted: true},
		"not named":              {want: "was deleted by another run", deleted: true, unnamed: true},
		"interrupted":            {want: "interrupted", deleted: true, interrupt: true},
	} {
		const remaining = "schema_version = 5\n[[networks]]\nname = \"n\"\n[networks.network]\nname = \"n\"\n[[vms]]\nname = \"other\"\nnetwork_name = \"n\"\n[vms.vm]\nname = \"other\"\n"
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		var vm string
		var w *looptest.World
		w, vm = vanishing(t, func(w *looptest.World) {
			if !c.deleted {
				close(done)
				return
			}
			release, _, err := lockfile.Lock(t.Context(), w.State().LockPath(vm), "aivm vm delete", nil)
			if err != nil {
				t.Error(err)
			}
			time.AfterFunc(time.Second, func() {
				defer close(done)
				if c.interrupt {
					cancel()
				}
				if err := os.WriteFile(w.StorePath, []byte(remaining), 0o600); err != nil {
					t.Error(err)
				}
				if !c.interrupt {
					w.DropLock(vm)
					release()
				}
			})
		})
		o := snapshots.SnapshotOptions{VM: vm, Name: "s"}
		if c.unnamed {
			both, err := os.ReadFile(w.StorePath)
			if err != nil {
				t.Fatal(err)
			}
			both = fmt.Appendf(nil, "active_vm = %q\n%s%s", vm, both, remaining[strings.Index(remaining, "[[vms]]"):])
			if err := os.WriteFile(w.StorePath, both, 0o600); err != nil {
				t.Fatal(err)
			}
			o.VM = ""
		}
		_, err := snapshots.For(w.Loop).Snapshot(ctx, o)
		<-done
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, new(*ui.Error)) {
			t.Errorf("%s: snapshot: %v", what, err)
		}
		if c.deleted != strings.Contains(w.Err.String(), "waiting for aivm") {
			t.Errorf("%s: printed: %s", what, w.Err.String())
		}
	}
	w, vm := vanishing(t, func(*looptest.World) {})
	if _, err := snapshots.For(w.Loop).SnapshotListing(t.Context(), vm); err == nil || !strings.Contains(err.Error(), "does not exist in libvirt") {
		t.Errorf("snapshots: %v", err)
	}
}
