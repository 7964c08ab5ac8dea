package provision

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
)

// saved is a run on the VM t with all its folders, of which the verb was given
// one (or none).
func (w *world) saved(folder string) *want {
	w.t.Helper()
	w.store = nil
	store, err := w.load()
	if err != nil {
		w.t.Fatal(err)
	}
	in := &want{name: "t", store: store}
	if folder != "" {
		in.folder = folderOf(folder)
	}
	return in
}

// look is one look at this machine and, if it has one, the guest.
func (w *world) look(in *want, g *fakeGuest) *facts {
	w.t.Helper()
	f := &facts{}
	var err error
	if f.share, err = w.shared("t", in.atts()); err != nil {
		w.t.Fatal(err)
	}
	if g != nil {
		f.conn = g
		if f.guest, err = w.probe(w.t.Context(), g, in); err != nil {
			w.t.Fatal(err)
		}
	}
	return f
}

// All folders of a VM are brought back, whichever was asked for; one that
// cannot be is named and left out.
func TestAllFoldersAreBroughtBack(t *testing.T) {
	w := newWorld(t)
	p, q, r := w.folder("p"), w.folder("q"), w.folder("r")
	gone := w.dir + "/gone"
	w.records(p, q, r, gone)
	w.share(q, "rw,nosuid,nodev,idmapped")
	for _, folder := range []string{"", p} {
		w.warned, w.ops = nil, nil
		w.err.Reset()
		in := w.saved(folder)
		as, err := w.planShare(in, w.look(in, nil))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range as {
			got = append(got, a.ID+" "+string(a.Consent))
		}
		want := "share.bind:" + share.Token(p) + " none share.bind:" + share.Token(r) + " none"
		if strings.Join(got, " ") != want {
			t.Errorf("folder %q: planned %v, want %s", folder, got, want)
		}
		if said := w.err.String(); !strings.Contains(said, "Skipping saved attachment "+gone+": host path is missing") {
			t.Errorf("folder %q: said %q", folder, said)
		}
		// What was asked for has to work, the rest does not.
		for _, a := range as {
			asked := folder != "" && strings.HasSuffix(a.ID, share.Token(folder))
			if (a.Fail == nil) != asked {
				t.Errorf("folder %q: %s ends the run: %v", folder, a.ID, a.Fail == nil)
			}
			if a.Fail != nil && a.Fail(errors.New("busy")) != nil {
				t.Error("another folder ends the run")
			}
		}
	}
	// The missing one itself is refused.
	in := w.saved(gone)
	if _, err := w.planShare(in, w.look(in, nil)); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v", err)
	}
}

// The guest's script is one for all, and what it says of one folder does not
// keep the others away.
func TestGuestTroubleWithOneFolder(t *testing.T) {
	w := newWorld(t)
	p, q := w.folder("p"), w.folder("q")
	w.records(p, q)
	for _, f := range []string{p, q} {
		w.share(f, "rw,nosuid,nodev,idmapped")
	}
	for _, c := range []struct {
		folder, after string
		fails         bool
	}{
		{"", says(t, 1000, p), false},
		{p, says(t, 1000, p), false},
		{q, says(t, 1000, p), true},
	} {
		w.warned = nil
		w.err.Reset()
		in := w.saved(c.folder)
		g := &fakeGuest{share: says(t, 1000)}
		f := w.look(in, g)
		as, err := w.planMounts(in, f)
		if err != nil || len(as) != 1 || len(as[0].Shows) != 2 {
			t.Fatalf("planned %v %v", as, err)
		}
		g.share = c.after
		err = as[0].Do(t.Context())
		if (err != nil) != c.fails || len(g.scripts) != 1 {
			t.Errorf("folder %q: %v, %d scripts", c.folder, err, len(g.scripts))
		}
		if !c.fails && !strings.Contains(w.err.String(), "Skipping saved attachment "+q) {
			t.Errorf("folder %q: said %q", c.folder, w.err.String())
		}
		if c.fails && !strings.Contains(err.Error(), "nothing is mounted there") {
			t.Error(err)
		}
	}
}

// Once the lock is held the store is read again: what another run took away
// meanwhile is not brought back, what it attached is not asked for again.
func TestRefresh(t *testing.T) {
	w := newWorld(t)
	p, q := w.folder("p"), w.folder("q")
	w.records(p, q)
	in := w.saved(p)
	w.records(p)
	if err := w.refresh(in); err != nil || len(in.atts()) != 1 {
		t.Errorf("%v %v", err, in.atts())
	}
	w.records()
	if err := w.refresh(in); err == nil || !strings.Contains(err.Error(), "detached") {
		t.Errorf("%v", err)
	}
	in = w.saved("")
	in.folder, in.newFolder = folderOf(p), true
	w.records(p)
	if err := w.refresh(in); err != nil || in.newFolder {
		t.Errorf("%v new %v", err, in.newFolder)
	}
	in.folder, in.newFolder = folderOf(p), true
	in.folder.Access = "ro"
	if err := w.refresh(in); err == nil || !strings.Contains(err.Error(), "Attachment access mismatch") {
		t.Errorf("%v", err)
	}
}

// Which record a folder belongs to, and what is refused.
func TestWantFolder(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	sub := w.folder("p/sub/dir")
	w.records(p)
	w.set(func(c *config.Config) { c.Behavior.Verbose = 0 })
	ask := func(o FolderOptions) (*want, error) {
		w.store = nil
		return w.wantFolder(t.Context(), o, false)
	}
	in, err := ask(FolderOptions{Folder: sub})
	if err != nil || in.newFolder || in.folder.HostPath != p || in.openAt != sub {
		t.Errorf("a subfolder: %+v %v", in, err)
	}
	// Nearest parent on the VM that is named.
	w.set(func(c *config.Config) {
		c.VMs = append(c.VMs, config.VM{Name: "u", NetworkName: "n", VM: config.VMSpec{Name: "u", User: "agent"}})
		c.UpsertAttachment(config.Attachment{HostPath: w.folder("p/sub"), VMName: "u", Mode: "shared-root", Access: "rw", GuestDst: "/u"})
	})
	if in, err = ask(FolderOptions{Folder: sub, VM: "t"}); err != nil || in.newFolder || in.folder.HostPath != p {
		t.Errorf("with another VM's record in between: %+v %v", in, err)
	}
	if in, err = ask(FolderOptions{Folder: sub}); err != nil || in.name != "u" || in.openAt != "/u/dir" {
		t.Errorf("nearest: %+v %v", in, err)
	}
	refused := func(o FolderOptions, words ...string) {
		t.Helper()
		_, err := ask(o)
		if err == nil {
			t.Errorf("%+v is not refused", o)
			return
		}
		var ue *ui.Error
		said := err.Error()
		if errors.As(err, &ue) {
			said += " | " + strings.Join(ue.Hints, " | ")
		}
		for _, want := range words {
			if !strings.Contains(said, want) {
				t.Errorf("%+v: no %q in %s", o, want, said)
			}
		}
	}
	for _, attach := range []bool{false, true} {
		refused(FolderOptions{Folder: p, VM: "t", Access: "ro", Attach: attach}, "Attachment access mismatch", "aivm detach "+p+" --vm t", "aivm attach "+p+" --vm t --access ro")
		refused(FolderOptions{Folder: p, VM: "t", Mode: "git", Attach: attach}, "Attachment mode mismatch", "aivm detach "+p+" --vm t", "aivm attach "+p+" --vm t --mode git")
	}
	// A part of an attached folder in another way: attach may, code may not.
	refused(FolderOptions{Folder: sub, VM: "t", GuestDst: "/srv/x"}, "Attachment guest_dst mismatch")
	if in, err = ask(FolderOptions{Folder: sub, VM: "t", GuestDst: "/srv/x", Attach: true}); err != nil || !in.newFolder || in.folder.HostPath != sub {
		t.Errorf("nested: %+v %v", in, err)
	}
	refused(FolderOptions{Folder: sub, VM: "t", Access: "ro", Attach: true}, "would not be read-only", "aivm attach "+p+" --vm t --access ro")

	// A link in the folder, where the VM may have put it: not followed, and the
	// folder stays what it is.
	w.set(func(c *config.Config) { c.Attachments[0].State = "" })
	out := filepath.Join(p, "out")
	if err := os.Symlink(w.folder("elsewhere"), out); err != nil {
		t.Fatal(err)
	}
	for _, attach := range []bool{false, true} {
		refused(FolderOptions{Folder: out, VM: "t", Attach: attach}, "leads out of folder "+p, "aivm attach "+w.folder("elsewhere"))
	}
	if r, _ := w.recordOf(p); r.State != "" {
		t.Errorf("for a link in it the folder is recorded as %+v", r)
	}

	// A link where the folder was: refused by name, by attach too, until it is
	// detached.
	if err := os.Rename(p, p+".was"); err != nil {
		t.Fatal(err)
	}
	other := w.folder("other")
	if err := os.Symlink(other, p); err != nil {
		t.Fatal(err)
	}
	for _, attach := range []bool{false, true} {
		refused(FolderOptions{Folder: p, VM: "t", Attach: attach}, "symbolic link now", other, "aivm detach "+p+" --vm t")
	}
	if r, _ := w.recordOf(p); r.State != "link" {
		t.Errorf("recorded as %+v", r)
	}
	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p+".was", p); err != nil {
		t.Fatal(err)
	}
	refused(FolderOptions{Folder: p, VM: "t"}, "symbolic link was on its way", "aivm attach "+p+" --vm t")
	if in, err = ask(FolderOptions{Folder: p, VM: "t", Attach: true}); err != nil || !in.newFolder || in.folder.State != "" {
		t.Errorf("attached again: %+v %v", in, err)
	}
	// On its way out: opened again, it is asked about as a new one.
	w.set(func(c *config.Config) { c.Attachments[0].State = "detaching" })
	if in, err = ask(FolderOptions{Folder: p, VM: "t", Access: "ro"}); err != nil || !in.newFolder || in.folder.Access != "ro" {
		t.Errorf("detaching: %+v %v", in, err)
	}
}

// set changes the store.
func (w *world) set(fn func(*config.Config)) {
	w.t.Helper()
	if err := config.Update(w.t.Context(), w.StorePath, func(c *config.Config) error { fn(c); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

func TestSplit(t *testing.T) {
	one := ui.Refused("x").Hint("do it")
	each, rest := share.Split(fmt.Errorf("around: %w", errors.Join(&share.FolderError{Folder: "/p", Err: one}, errors.New("all"), nil)))
	if len(each) != 0 || rest == nil {
		// A join that was wrapped is one error about everything.
		t.Errorf("%v %v", each, rest)
	}
	each, rest = share.Split(errors.Join(&share.FolderError{Folder: "/p", Err: one}, errors.Join(&share.FolderError{Folder: "/q", Err: one}, errors.New("all"))))
	if len(each) != 2 || each["/p"] != error(one) || rest == nil || rest.Error() != "all" {
		t.Errorf("%v %v", each, rest)
	}
}

// A link on the way to another folder: named, left out, and left out until it is
// attached again, with the hook told.
func TestALinkOnTheWayStaysRefused(t *testing.T) {
	w := newWorld(t)
	p, q := w.folder("p"), w.folder("q/c")
	w.records(p, q)
	if err := os.Rename(q, q+".was"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", q); err != nil {
		t.Fatal(err)
	}
	in := w.saved(p)
	f := w.look(in, nil)
	f.share.Noted = map[string]root.Bind{share.Token(q): {}}
	as, err := w.planShare(in, f)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, a := range as {
		ids = append(ids, strings.TrimSuffix(strings.TrimSuffix(a.ID, share.Token(q)), share.Token(p)))
		if a.ID == "store.link:"+share.Token(q) {
			if err := a.Do(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := strings.Join(ids, " "); got != "share.bind: store.link: share.forget:" {
		t.Errorf("planned %s", got)
	}
	// The link is taken away, and nothing comes back by itself.
	if err := os.Remove(q); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(q+".was", q); err != nil {
		t.Fatal(err)
	}
	w.fresh()
	in = w.saved(p)
	if as, err = w.planShare(in, w.look(in, nil)); err != nil || len(as) != 1 {
		t.Errorf("planned %v %v", as, err)
	}
	if said := w.err.String(); !strings.Contains(said, "Skipping saved attachment "+q) || !strings.Contains(said, "aivm attach "+q+" --vm t") {
		t.Errorf("said %q", said)
	}
}

// Of folders in folders, the innermost is the one a link took the place of.
func TestLinkedAway(t *testing.T) {
	c := &config.Config{Attachments: []config.Attachment{{HostPath: "/p", VMName: "t"}, {HostPath: "/p/sub", VMName: "t"}, {HostPath: "/p/sub/deep", VMName: "other"}}}
	for _, k := range []struct{ typed, real, want string }{
		{"/p/sub/x", "/etc", "/p/sub"}, {"/p/x", "/etc", "/p"}, {"/p/sub", "/p/sub", ""}, {"/p/x", "/p/y", ""}, {"/q", "/etc", ""},
	} {
		if r, ok := linkedAway(c, "t", k.typed, k.real); r.HostPath != k.want || ok != (k.want != "") {
			t.Errorf("%s, which is %s: %q", k.typed, k.real, r.HostPath)
		}
	}
}
