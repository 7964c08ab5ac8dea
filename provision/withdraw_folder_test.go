package provision

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gofrs/flock"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// After a failed run, the guest has no access to the folder that was to be attached.
func TestWithdrawFolder(t *testing.T) {
	for name, c := range map[string]struct {
		saved, notBound, known bool
		rootErr                error
		unbinds                int
		warns                  bool
	}{
		"mounted, not recorded":   {unbinds: 1},
		"recorded by another run": {saved: true},
		"attached before":         {known: true},
		"not mounted":             {notBound: true},
		"in use in the guest":     {rootErr: errors.New("in use"), unbinds: 1, warns: true},
		"recorded, not mounted":   {saved: true, notBound: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.MakeFolder("p")
			tgt := &target.Target{Name: "t", Folder: looptest.FolderOf(p), NewFolder: !c.known}
			if _, err := w.Load(); err != nil { // what this run knew when it began
				t.Fatal(err)
			}
			if c.saved {
				w.WriteConfig(p)
			}
			if !c.notBound {
				w.AddShare(p, "rw,nosuid,nodev,idmapped")
			}
			w.RootErr = c.rootErr
			g := &looptest.FakeGuest{}
			env(w).withdrawFolder(t.Context(), tgt, &loop.Facts{Conn: g}, false)
			if len(w.Ops) != c.unbinds || len(g.Scripts) != c.unbinds {
				t.Fatalf("root did %v, the guest ran %d scripts", w.Ops, len(g.Scripts))
			}
			if c.unbinds > 0 && w.Ops[0] != (root.Unbind{VMKey: "4321-t", Token: share.Token(p)}) {
				t.Errorf("root did %v", w.Ops)
			}
			if got := w.Err.String(); strings.Contains(got, "may still have access") != c.warns || strings.Contains(got, "aivm vm down t, then sudo umount /var/lib/aivm/export/4321-t/p-") != c.warns {
				t.Errorf("printed %q", got)
			}
		})
	}
}

// An interrupted run unmounts the folder too, also without a connection to the guest.
func TestWithdrawFolderAfterAnInterrupt(t *testing.T) {
	w := newWorld(t)
	p := w.MakeFolder("p")
	w.AddShare(p, "rw,nosuid,nodev,idmapped")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := flock.New(w.State().LockPath("t"))
	release, _, err := w.Lock(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	env(w).withdrawFolder(ctx, &target.Target{Name: "t", Folder: looptest.FolderOf(p), NewFolder: true}, nil, true)
	if len(w.Ops) != 1 {
		t.Errorf("root did %v", w.Ops)
	}
	if ok, err := l.TryLock(); ok || err != nil {
		t.Errorf("the lock was released: %v", err)
	}
}

// If a folder has a new owner, it is unmounted in the guest and mounted again on the host.
func TestPlanShareAgain(t *testing.T) {
	w := newWorld(t)
	p := w.MakeFolder("p")
	w.WriteConfig(p)
	w.AddShare(p, "rw,nosuid,nodev,idmapped")
	tgt := looptest.SavedTarget(w, p)
	g := &looptest.FakeGuest{Share: looptest.GuestAnswer(t, 1000, p)}
	observe := func() *loop.Facts {
		t.Helper()
		f := &loop.Facts{Conn: g}
		var err error
		if f.Share, err = w.Shared("t", []share.Attachment{*tgt.Folder}); err != nil {
			t.Fatal(err)
		}
		if err = env(w).Probe(t.Context(), g, tgt, f); err != nil {
			t.Fatal(err)
		}
		return f
	}
	if as, err := planShare(w, tgt, observe()); err != nil || len(as) != 0 {
		t.Fatalf("nothing is missing, planned %v %v", as, err)
	}
	g.Share = looptest.GuestAnswer(t, 65534, p)
	f := observe()
	as, err := planShare(w, tgt, f)
	token := share.Token(p)
	if err != nil || len(as) != 2 || as[0].ID != "share.release:"+token || as[1].ID != "share.bind:"+token {
		t.Fatalf("planned %v %v", as, err)
	}
	// The folder is not mounted in the guest then, and the facts for the guest's plan show that.
	g.Share = looptest.GuestAnswer(t, 1000)
	if err := as[0].Do(t.Context()); err != nil || len(g.Scripts) != 1 || len(f.Guest.Share.Mounts) != 0 {
		t.Errorf("%v, %d scripts, %v", err, len(g.Scripts), f.Guest.Share.Mounts)
	}
	// Without a connection to the guest: only the mount on the host.
	f = observe()
	f.Conn, f.Share.Tokens = nil, nil
	if as, err := planShare(w, tgt, f); err != nil || len(as) != 1 {
		t.Errorf("planned %v %v", as, err)
	}
}

// OpenCommand returns the command that opens the folder in its VM.
func TestOpenCommand(t *testing.T) {
	w := newWorld(t)
	w.WriteConfig("/p q")
	store, err := w.Load()
	if err != nil {
		t.Fatal(err)
	}
	tgt := &target.Target{Store: store, Name: "t", Folder: looptest.FolderOf("/p q")}
	if got := tgt.OpenCommand(); got != "aivm code '/p q'" {
		t.Error(got)
	}
	tgt.Store.Config.Attachments = append(tgt.Store.Config.Attachments, config.Attachment{HostPath: "/p q", VMName: "u"})
	if got := tgt.OpenCommand(); got != "aivm code '/p q' --vm t" {
		t.Error(got)
	}
}

// A run that waited for one that deleted the VM does not create the VM again.
func TestRefreshAfterADeletion(t *testing.T) {
	w := newWorld(t)
	tgt := &target.Target{Name: "t"}
	if _, err := w.Refresh(tgt); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.StorePath, []byte("schema_version = 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Refresh(tgt); err == nil || !strings.Contains(err.Error(), "VM t was deleted by another run") {
		t.Errorf("%v", err)
	}
	tgt.NewVM = true
	if _, err := w.Refresh(tgt); err != nil {
		t.Error(err)
	}
}
