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
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
)

// Detach needs neither the folder nor the VM to exist.
func TestDetachWithoutFolderOrVM(t *testing.T) {
	w := newWorld(t)
	p := w.MakeFolder("p")
	gone := w.Dir + "/gone/away"
	w.WriteConfig(p, gone)
	w.AddShare(p, "rw,nosuid,nodev,idmapped")
	for _, folder := range []string{p, gone} {
		looptest.ResetRun(w)
		r, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: folder})
		if err != nil {
			t.Fatalf("%s: %v", folder, err)
		}
		if _, ok := looptest.RecordOf(w, folder); ok {
			t.Errorf("%s: the record is still there", folder)
		}
		if r.State != "detached" || r.VM != "t" || r.Folder != folder || r.Mode != "shared-root" {
			t.Errorf("%+v", r)
		}
		bound := folder == p
		if bound != (len(w.Ops) == 1) || bound && w.Ops[0] != (root.Unbind{VMKey: "4321-t", Token: share.Token(p)}) {
			t.Errorf("%s: root did %v", folder, w.Ops)
		}
	}
	looptest.ResetRun(w)
	w.MountLines = ""
	if r, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: p}); err != nil || r.State != "none" || r.Folder != p || r.VM != "t" {
		t.Errorf("%v %+v", err, r)
	}
}

// Detach also unmounts a folder that an interrupted attach left mounted. It refuses a subfolder of
// an attached folder, and a VM that does not exist.
func TestDetachWhatIsNotRecorded(t *testing.T) {
	w := newWorld(t)
	p, sub := w.MakeFolder("p"), w.MakeFolder("q/sub")
	w.WriteConfig(w.MakeFolder("q"))
	w.AddShare(p, "rw,nosuid,nodev,idmapped")
	looptest.ResetRun(w)
	if _, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: p}); err != nil || len(w.Ops) != 1 {
		t.Errorf("%v, root did %v", err, w.Ops)
	}
	looptest.ResetRun(w)
	if _, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: sub}); err == nil || !strings.Contains(err.Error(), "belongs to the attached folder") {
		t.Error(err)
	}
	looptest.ResetRun(w)
	if _, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: p, VM: "no"}); err == nil || !strings.Contains(err.Error(), "VM not found") {
		t.Error(err)
	}
}

// A folder in use stays attached, with an error that says so. With --force its state is
// "detaching": it is not mounted again, and is detached when the VM stops.
func TestDetachInUse(t *testing.T) {
	w := newWorld(t)
	p := w.MakeFolder("p")
	w.WriteConfig(p)
	w.AddShare(p, "rw,nosuid,nodev,idmapped")
	looptest.ResetRun(w)
	w.RootErr = fmt.Errorf("it %w: virtiofsd (pid 7)", root.ErrInUse)
	_, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: p})
	var ue *ui.Error
	if !errors.As(err, &ue) || !strings.Contains(err.Error(), "virtiofsd (pid 7)") || !strings.Contains(strings.Join(ue.HintLines(), "\n"), "--force") {
		t.Fatal(err)
	}
	if r, ok := looptest.RecordOf(w, p); !ok || r.State != "" {
		t.Errorf("recorded as %+v", r)
	}
	looptest.ResetRun(w)
	w.RootErr = fmt.Errorf("it %w: virtiofsd (pid 7)", root.ErrInUse)
	if r, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: p, Force: true}); err != nil || r.State != "detaching" {
		t.Errorf("%v %+v", err, r)
	}
	if r, ok := looptest.RecordOf(w, p); !ok || r.State != "detaching" {
		t.Errorf("recorded as %+v", r)
	}
	looptest.ResetRun(w)
	tgt := looptest.SavedTarget(w, "")
	if len(tgt.Atts(nil)) != 0 {
		t.Error("it would be mounted again")
	}
	f := &loop.Facts{}
	shared := func() {
		t.Helper()
		if f.Share, err = w.Shared("t", nil); err != nil {
			t.Fatal(err)
		}
	}
	shared()
	for state, want := range map[virt.State]int{virt.Running: 0, virt.Off: 2} {
		f.Domain.Domain = plan.Yes(&virt.Domain{State: state})
		if as := folders.For(w.Loop).PlanPendingDetach(tgt, f); len(as) != want {
			t.Errorf("VM %s: planned %v", state, as)
		}
	}
	// A VM in an unknown state does not count as off.
	f.Domain.Domain = plan.Unknown[*virt.Domain](virt.ErrDenied)
	if as := folders.For(w.Loop).PlanPendingDetach(tgt, f); len(as) != 0 {
		t.Errorf("planned %v", as)
	}
	l, err := env(w).Listing(t.Context())
	if err != nil || l.Folders[0].State != "detaching" || len(l.Folders) != 1 {
		t.Errorf("%+v %v", l.Folders, err)
	}
	// If it is no longer mounted, only the record has to be removed.
	w.MountLines = ""
	looptest.ResetRun(w)
	shared()
	if as := folders.For(w.Loop).PlanPendingDetach(looptest.SavedTarget(w, ""), f); len(as) != 1 || as[0].ID != "store.detach:"+share.Token(p) {
		t.Errorf("planned %v", as)
	}
}

// Detach finds a folder by the path with a link that was typed, and by the config's rule if several
// VMs have it.
func TestDetachByOtherNames(t *testing.T) {
	w := newWorld(t)
	p := w.MakeFolder("p")
	link := w.Dir + "/link"
	if err := os.Symlink(p, link); err != nil {
		t.Fatal(err)
	}
	w.WriteConfig(p)
	looptest.UpdateConfig(w, func(c *config.Config) {
		c.Attachments[0].TypedPath = link
		c.VMs = append(c.VMs, config.VM{Name: "u", NetworkName: "n", VM: config.VMSpec{Name: "u", User: "agent"}})
		c.UpsertAttachment(config.Attachment{HostPath: p, VMName: "u", Mode: "shared-root", Access: "rw", GuestDst: p})
	})
	looptest.ResetRun(w)
	if _, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: p}); err == nil || !strings.Contains(err.Error(), "multiple VMs: t, u") {
		t.Error(err)
	}
	looptest.UpdateConfig(w, func(c *config.Config) { c.ActiveVM = "u" })
	looptest.ResetRun(w)
	if r, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: link}); err != nil || r.VM != "u" {
		t.Errorf("%v %+v", err, r)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	looptest.ResetRun(w)
	if r, err := env(w).Detach(t.Context(), folders.DetachOptions{Folder: link}); err != nil || r.VM != "t" || r.Folder != p {
		t.Errorf("%v %+v", err, r)
	}
}
