package provision

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/share"
)

func (w *world) recordOf(folder string) (config.Attachment, bool) {
	w.t.Helper()
	s, err := config.Load(w.StorePath)
	if err != nil {
		w.t.Fatal(err)
	}
	r, ok := s.Config.FindAttachment(folder, "t")
	if !ok {
		return config.Attachment{}, false
	}
	return *r, true
}

func (w *world) fresh() {
	w.store, w.warned, w.ops, w.rootErr = nil, nil, nil, nil
	w.out.Reset()
	w.err.Reset()
}

// Detach needs neither the folder nor the VM.
func TestDetachWithoutAnybody(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	gone := w.dir + "/gone/away"
	w.records(p, gone)
	w.share(p, "rw,nosuid,nodev,idmapped")
	for _, folder := range []string{p, gone} {
		w.fresh()
		if err := w.Detach(t.Context(), DetachOptions{Folder: folder}); err != nil {
			t.Fatalf("%s: %v", folder, err)
		}
		if _, ok := w.recordOf(folder); ok {
			t.Errorf("%s: the record is still there", folder)
		}
		if got := w.out.String(); got != "Detached "+folder+" from VM t (shared-root mode)\n" {
			t.Errorf("said %q", got)
		}
		bound := folder == p
		if bound != (len(w.ops) == 1) || bound && w.ops[0] != (root.Unbind{VMKey: "4321-t", Token: share.Token(p)}) {
			t.Errorf("%s: root did %v", folder, w.ops)
		}
	}
	w.fresh()
	w.binds = ""
	if err := w.Detach(t.Context(), DetachOptions{Folder: p}); err != nil || !strings.Contains(w.out.String(), "No attachment found for "+p+" on VM t. Nothing to do.") {
		t.Errorf("%v %q", err, w.out.String())
	}
}

// What a killed attach left mounted is taken away too; a part of an attached
// folder is not a folder of its own; a VM that is not there is an error.
func TestDetachWhatIsNotRecorded(t *testing.T) {
	w := newWorld(t)
	p, sub := w.folder("p"), w.folder("q/sub")
	w.records(w.folder("q"))
	w.share(p, "rw,nosuid,nodev,idmapped")
	w.fresh()
	if err := w.Detach(t.Context(), DetachOptions{Folder: p}); err != nil || len(w.ops) != 1 {
		t.Errorf("%v, root did %v", err, w.ops)
	}
	w.fresh()
	if err := w.Detach(t.Context(), DetachOptions{Folder: sub}); err == nil || !strings.Contains(err.Error(), "belongs to the attached folder") {
		t.Error(err)
	}
	w.fresh()
	if err := w.Detach(t.Context(), DetachOptions{Folder: p, VM: "no"}); err == nil || !strings.Contains(err.Error(), "VM not found") {
		t.Error(err)
	}
}

// A folder in use stays attached, and is said to; with --force it is on its way
// out, is not brought back, and goes with the VM's next stop.
func TestDetachInUse(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	w.records(p)
	w.share(p, "rw,nosuid,nodev,idmapped")
	w.fresh()
	w.rootErr = fmt.Errorf("it %w: virtiofsd (pid 7)", root.ErrInUse)
	err := w.Detach(t.Context(), DetachOptions{Folder: p})
	var ue *ui.Error
	if !errors.As(err, &ue) || !strings.Contains(err.Error(), "virtiofsd (pid 7)") || !strings.Contains(strings.Join(ue.Hints, "\n"), "--force") {
		t.Fatal(err)
	}
	if r, ok := w.recordOf(p); !ok || r.State != "" {
		t.Errorf("recorded as %+v", r)
	}
	w.fresh()
	w.rootErr = fmt.Errorf("it %w: virtiofsd (pid 7)", root.ErrInUse)
	if err := w.Detach(t.Context(), DetachOptions{Folder: p, Force: true}); err != nil || !strings.Contains(w.out.String(), "until the VM stops") {
		t.Errorf("%v %q", err, w.out.String())
	}
	if r, ok := w.recordOf(p); !ok || r.State != "detaching" {
		t.Errorf("recorded as %+v", r)
	}
	w.fresh()
	in := w.saved("")
	if len(in.atts()) != 0 {
		t.Error("it is brought back")
	}
	f := &facts{}
	for state, want := range map[virt.State]int{virt.Running: 0, virt.Off: 2} {
		f.domain.Domain = plan.Yes(&virt.Domain{State: state})
		if as, err := w.planLeft(in, f); err != nil || len(as) != want {
			t.Errorf("VM %s: planned %v %v", state, as, err)
		}
	}
	// Unknown is not off.
	f.domain.Domain = plan.Unknown[*virt.Domain](virt.ErrDenied)
	if as, err := w.planLeft(in, f); err != nil || len(as) != 0 {
		t.Errorf("planned %v %v", as, err)
	}
	l, err := w.Listing(t.Context())
	if err != nil || l.Folders[0].State != "detaching" || len(l.Folders) != 1 {
		t.Errorf("%+v %v", l.Folders, err)
	}
	// Not mounted any more: the record is all there is.
	w.binds = ""
	w.fresh()
	if as, err := w.planLeft(w.saved(""), f); err != nil || len(as) != 1 || as[0].ID != "store.detach:"+share.Token(p) {
		t.Errorf("planned %v %v", as, err)
	}
}

// By the name it was typed by, and of several VMs by the store's rule.
func TestDetachByOtherNames(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	link := w.dir + "/link"
	if err := os.Symlink(p, link); err != nil {
		t.Fatal(err)
	}
	w.records(p)
	w.set(func(c *config.Config) {
		c.Attachments[0].TypedPath = link
		c.VMs = append(c.VMs, config.VM{Name: "u", NetworkName: "n", VM: config.VMSpec{Name: "u", User: "agent"}})
		c.UpsertAttachment(config.Attachment{HostPath: p, VMName: "u", Mode: "shared-root", Access: "rw", GuestDst: p})
	})
	w.fresh()
	if err := w.Detach(t.Context(), DetachOptions{Folder: p}); err == nil || !strings.Contains(err.Error(), "multiple VMs: t, u") {
		t.Error(err)
	}
	w.set(func(c *config.Config) { c.ActiveVM = "u" })
	w.fresh()
	if err := w.Detach(t.Context(), DetachOptions{Folder: link}); err != nil || !strings.Contains(w.out.String(), "from VM u") {
		t.Errorf("%v %q", err, w.out.String())
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	w.fresh()
	if err := w.Detach(t.Context(), DetachOptions{Folder: link}); err != nil || !strings.Contains(w.out.String(), "Detached "+p+" from VM t") {
		t.Errorf("%v %q", err, w.out.String())
	}
}
