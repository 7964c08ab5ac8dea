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
	"aivm.dev/aivm/provision/share"
)

func folderOf(path string) *share.Attachment {
	return &share.Attachment{HostPath: path, VM: "t", Mode: share.SharedRoot, Access: "rw", GuestDst: path, Tag: share.Token(path)}
}

// A folder whose run failed does not stay within the guest's reach.
func TestLetGo(t *testing.T) {
	for name, c := range map[string]struct {
		saved, notBound, known bool
		rootErr                error
		unbinds                int
		warns                  bool
	}{
		"bound, not recorded":  {unbinds: 1},
		"recorded meanwhile":   {saved: true},
		"attached before":      {known: true},
		"not bound":            {notBound: true},
		"the guest holds it":   {rootErr: errors.New("in use"), unbinds: 1, warns: true},
		"recorded and unbound": {saved: true, notBound: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.folder("p")
			in := &want{name: "t", folder: folderOf(p), newFolder: !c.known}
			if _, err := w.load(); err != nil { // what this run knew when it began
				t.Fatal(err)
			}
			if c.saved {
				w.records(p)
			}
			if !c.notBound {
				w.share(p, "rw,nosuid,nodev,idmapped")
			}
			w.rootErr = c.rootErr
			g := &fakeGuest{}
			w.letGo(t.Context(), in, &facts{conn: g}, false)
			if len(w.ops) != c.unbinds || len(g.scripts) != c.unbinds {
				t.Fatalf("root did %v, the guest ran %d scripts", w.ops, len(g.scripts))
			}
			if c.unbinds > 0 && w.ops[0] != (root.Unbind{VMKey: "4321-t", Token: share.Token(p)}) {
				t.Errorf("root did %v", w.ops)
			}
			if got := w.err.String(); strings.Contains(got, "within reach") != c.warns || strings.Contains(got, "aivm vm down t, then sudo umount /var/lib/aivm/export/4321-t/p-") != c.warns {
				t.Errorf("said %q", got)
			}
		})
	}
}

// An interrupted run tidies up as well, and with the guest gone.
func TestLetGoAfterAnInterrupt(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	w.share(p, "rw,nosuid,nodev,idmapped")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := flock.New(w.state().LockPath("t"))
	release, _, err := w.lock(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	w.letGo(ctx, &want{name: "t", folder: folderOf(p), newFolder: true}, nil, true)
	if len(w.ops) != 1 {
		t.Errorf("root did %v", w.ops)
	}
	if ok, err := l.TryLock(); ok || err != nil {
		t.Errorf("the lock was given back: %v", err)
	}
}

// A folder with a new owner: the guest lets go, this machine shares it anew.
func TestPlanShareAnew(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	w.records(p)
	w.share(p, "rw,nosuid,nodev,idmapped")
	in := w.saved(p)
	g := &fakeGuest{share: says(t, 1000, p)}
	look := func() *facts {
		t.Helper()
		f := &facts{conn: g}
		var err error
		if f.share, err = w.shared("t", []share.Attachment{*in.folder}); err != nil {
			t.Fatal(err)
		}
		if f.guest, err = w.probe(t.Context(), g, in); err != nil {
			t.Fatal(err)
		}
		return f
	}
	if as, err := w.planShare(in, look()); err != nil || len(as) != 0 {
		t.Fatalf("all is well, planned %v %v", as, err)
	}
	g.share = says(t, 65534, p)
	f := look()
	as, err := w.planShare(in, f)
	token := share.Token(p)
	if err != nil || len(as) != 2 || as[0].ID != "share.release:"+token || as[1].ID != "share.bind:"+token {
		t.Fatalf("planned %v %v", as, err)
	}
	// The guest has nothing then, and what is planned for it next knows that.
	g.share = says(t, 1000)
	if err := as[0].Do(t.Context()); err != nil || len(g.scripts) != 1 || len(f.guest.share.Mounts) != 0 {
		t.Errorf("%v, %d scripts, %v", err, len(g.scripts), f.guest.share.Mounts)
	}
	// Nobody to let go: the bind alone.
	f = look()
	f.conn, f.share.Tokens = nil, nil
	if as, err := w.planShare(in, f); err != nil || len(as) != 1 {
		t.Errorf("planned %v %v", as, err)
	}
}

// What attach says to type makes the folder appear in that VM.
func TestOpens(t *testing.T) {
	w := newWorld(t)
	w.records("/p q")
	store, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	in := &want{store: store, name: "t", folder: folderOf("/p q")}
	if got := in.opens(); got != "aivm code '/p q'" {
		t.Error(got)
	}
	in.store.Config.Attachments = append(in.store.Config.Attachments, config.Attachment{HostPath: "/p q", VMName: "u"})
	if got := in.opens(); got != "aivm code '/p q' --vm t" {
		t.Error(got)
	}
}

// Who waited for a run that deleted the VM does not make it anew.
func TestRefreshAfterADeletion(t *testing.T) {
	w := newWorld(t)
	in := &want{name: "t"}
	if err := w.refresh(in); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.StorePath, []byte("schema_version = 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.refresh(in); err == nil || !strings.Contains(err.Error(), "VM t was deleted meanwhile") {
		t.Errorf("%v", err)
	}
	in.newVM = true
	if err := w.refresh(in); err != nil {
		t.Error(err)
	}
}
