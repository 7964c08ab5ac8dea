package folders

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

func ids(as []plan.Action) string {
	var out []string
	for _, a := range as {
		id, _, _ := strings.Cut(a.ID, ":")
		out = append(out, id)
	}
	return strings.Join(out, " ")
}

func device(folder string) virt.Filesystem {
	return virt.Filesystem{Source: root.ExportRoot("4321-t") + "/" + share.Token(folder), Tag: share.Token(folder)}
}

// A folder in mode shared is mounted on the host, then its device is attached. What
// exists stays; a folder that has to be mounted again has its device detached first.
// Nothing is attached to a VM that is off; before a start the folder is mounted, and
// the device of a missing folder is removed.
func TestAttachDevicesIsPlanned(t *testing.T) {
	w := looptest.New(t)
	p := w.MakeFolder("p")
	file(w, p+"/Makefile", "all:\n")
	in, f := wish(w, p, target.FolderOptions{Mode: "shared"})
	d := &virt.Domain{State: virt.Running, SharedRAM: true}
	f.Domain.Domain = plan.Yes(d)
	plans := func() string {
		t.Helper()
		as, err := planShare(w, in, f)
		if err != nil {
			t.Fatal(err)
		}
		return ids(as)
	}
	if got := plans(); got != "share.seen share.bind share.plug" {
		t.Errorf("new: %s", got)
	}
	w.AddShare(p, "rw,nosuid,nodev,idmapped")
	in, f = wish(w, p, target.FolderOptions{Mode: "shared"})
	f.HostExecuted, f.Domain.Domain = nil, plan.Yes(d)
	if got := plans(); got != "share.plug" {
		t.Errorf("bound: %s", got)
	}
	d.Filesystems, d.StoredFS = []virt.Filesystem{device(p)}, nil
	if got := plans(); got != "share.plug" {
		t.Errorf("not in the definition: %s", got)
	}
	d.StoredFS = d.Filesystems
	if got := plans(); got != "" {
		t.Errorf("there: %s", got)
	}
	w.MountLines = strings.Replace(w.MountLines, "nosuid,", "", 1)
	f.Share, _ = w.Shared("t", in.Atts(nil))
	if got := plans(); got != "share.unplug share.bind share.plug" {
		t.Errorf("mounted wrongly: %s", got)
	}
	d.State = virt.Off
	if got := plans(); got != "share.bind" {
		t.Errorf("off: %s", got)
	}
	in.Boot = true
	if as, err := For(w.Loop).PlanBeforeBoot(in, f, nil); err != nil || ids(as.Actions) != "share.arm" {
		t.Errorf("starting: %v %v", as, err)
	}
	if as := For(w.Loop).PlanStaleDevices(in, f, nil); len(as) != 0 {
		t.Errorf("stale: %v", as)
	}
	gone := w.Dir + "/gone"
	d.StoredFS = append(d.StoredFS, device(gone), virt.Filesystem{Tag: share.FSTag})
	if as := For(w.Loop).PlanStaleDevices(in, f, nil); len(as) != 1 || as[0].ID != "share.unplug:"+share.Token(gone) {
		t.Errorf("stale: %v", as)
	}
	d.State, d.SharedRAM, in.Boot = virt.Running, false, false
	d.StoredFS = nil
	if _, err := planShare(w, in, f); err == nil || !strings.Contains(err.Error(), "without shared memory") {
		t.Error(err)
	}
}

// The read-only mounts of protected paths exist when the folder's virtiofsd starts,
// and are removed from the host afterwards.
func TestAttachDeviceProtected(t *testing.T) {
	w := looptest.New(t)
	p := w.MakeFolder("p")
	file(w, p+"/Makefile", "all:\n")
	in, f := wish(w, p, target.FolderOptions{Mode: "shared", Protect: true})
	f.Domain.Domain = plan.Yes(&virt.Domain{State: virt.Running, SharedRAM: true})
	as, err := planShare(w, in, f)
	if err != nil || ids(as) != "share.seen share.bind share.plug share.settle" {
		t.Fatalf("%s %v", ids(as), err)
	}
	for _, i := range []int{1, 3} {
		if b, ok := as[i].Root.(root.Bind); !ok || !b.Own || len(b.Protect) != 1 {
			t.Errorf("%+v", as[i].Root)
		}
	}
}

// One folder more than a VM can have devices for is refused; the hints offer the other
// modes.
func TestTooManyDevices(t *testing.T) {
	w := looptest.New(t)
	looptest.UpdateConfig(w, func(c *config.Config) {
		for i := range share.MaxShared {
			p := w.MakeFolder(fmt.Sprintf("f%d", i))
			c.UpsertAttachment(config.Attachment{HostPath: p, VMName: "t", Mode: "shared", Access: "rw", GuestDst: p})
		}
	})
	looptest.ResetRun(w)
	p := w.MakeFolder("more")
	_, err := w.Finder.Folder(t.Context(), target.FolderOptions{Folder: p, VM: "t", Mode: "shared", Attach: true}, false)
	var ue *ui.Error
	if !errors.As(err, &ue) || !strings.Contains(err.Error(), "24 folders in mode shared") || !strings.Contains(strings.Join(ue.HintLines(), "\n"), "--mode shared-root") || !strings.Contains(strings.Join(ue.HintLines(), "\n"), "--mode git") {
		t.Fatalf("%v", err)
	}
	if _, err := w.Finder.Folder(t.Context(), target.FolderOptions{Folder: p, VM: "t", Attach: true}, false); err != nil {
		t.Error(err)
	}
	if err := noSlotError("t", share.Attachment{HostPath: p}, virt.ErrNoSlot); !errors.As(err, &ue) {
		t.Errorf("%v", err)
	}
}

// Detaching a folder detaches its device before the host unmounts it.
func TestDeviceIsDetachedFirst(t *testing.T) {
	w := looptest.New(t)
	p := w.MakeFolder("p")
	w.WriteConfig(p)
	looptest.UpdateConfig(w, func(c *config.Config) { c.Attachments[0].Mode = "shared" })
	w.AddShare(p, "rw,nosuid,nodev,idmapped")
	looptest.ResetRun(w)
	l, err := For(w.Loop).FindDetachment(t.Context(), DetachOptions{Folder: p})
	if err != nil {
		t.Fatal(err)
	}
	f := &loop.Facts{}
	if f.Share, err = w.Shared("t", nil); err != nil {
		t.Fatal(err)
	}
	d := &virt.Domain{State: virt.Running, Filesystems: []virt.Filesystem{device(p)}}
	f.Domain.Domain = plan.Yes(d)
	if got := ids(For(w.Loop).PlanDetach(l, f, nil).Actions); got != "store.detaching share.unplug share.unbind store.detach" {
		t.Error(got)
	}
	// libvirt refused to answer: the folder may have a device.
	f.Domain.Domain = plan.Unknown[*virt.Domain](virt.ErrDenied)
	f.Virt, f.Socket = plan.Unknown[*virt.Conn](virt.ErrDenied), w.URI().Socket()
	if got := ids(For(w.Loop).PlanDetach(l, f, nil).Actions); got != "store.detaching libvirt.open share.unplug share.unbind store.detach" {
		t.Error(got)
	}
	f.Domain.Domain = plan.Yes[*virt.Domain](nil)
	if got := ids(For(w.Loop).PlanDetach(l, f, nil).Actions); got != "store.detaching share.unbind store.detach" {
		t.Error(got)
	}
}
