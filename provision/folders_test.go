package provision

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// look is one look at this machine and, if it has one, the guest.
func look(w *looptest.World, in *target.Target, g *looptest.FakeGuest) *loop.Facts {
	w.T.Helper()
	f := &loop.Facts{}
	var err error
	if f.Share, err = w.Shared("t", in.Atts(nil)); err != nil {
		w.T.Fatal(err)
	}
	if g != nil {
		f.Conn = g
		if err = env(w).Probe(w.T.Context(), g, in, f); err != nil {
			w.T.Fatal(err)
		}
	}
	return f
}

// planShare plans in's folders, says what is said about the plan, and has f go on
// without what it leaves out, as the loop does.
func planShare(w *looptest.World, in *target.Target, f *loop.Facts) ([]plan.Action, error) {
	p, err := folders.For(w.Loop).PlanShare(in, f, f.Skipped)
	w.PrintNotes(p.Plan)
	f.Skip(p.Skipped)
	return p.Actions, err
}

// All folders of a VM are brought back, whichever was asked for; one that
// cannot be is named and left out.
func TestAllFoldersAreBroughtBack(t *testing.T) {
	w := newWorld(t)
	p, q, r := w.MakeFolder("p"), w.MakeFolder("q"), w.MakeFolder("r")
	gone := w.Dir + "/gone"
	w.WriteConfig(p, q, r, gone)
	w.AddShare(q, "rw,nosuid,nodev,idmapped")
	for _, folder := range []string{"", p} {
		w.Printed, w.Ops = nil, nil
		w.Err.Reset()
		in := looptest.SavedTarget(w, folder)
		as, err := planShare(w, in, look(w, in, nil))
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
		if said := w.Err.String(); !strings.Contains(said, "Skipping saved attachment "+gone+": host path is missing") {
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
	in := looptest.SavedTarget(w, gone)
	if _, err := planShare(w, in, look(w, in, nil)); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v", err)
	}
}

// The guest's script is one for all, and what it says of one folder does not
// keep the others away.
func TestGuestTroubleWithOneFolder(t *testing.T) {
	w := newWorld(t)
	p, q := w.MakeFolder("p"), w.MakeFolder("q")
	w.WriteConfig(p, q)
	for _, f := range []string{p, q} {
		w.AddShare(f, "rw,nosuid,nodev,idmapped")
	}
	for _, c := range []struct {
		folder, after string
		fails         bool
	}{
		{"", looptest.GuestAnswer(t, 1000, p), false},
		{p, looptest.GuestAnswer(t, 1000, p), false},
		{q, looptest.GuestAnswer(t, 1000, p), true},
	} {
		w.Printed = nil
		w.Err.Reset()
		in := looptest.SavedTarget(w, c.folder)
		g := &looptest.FakeGuest{Share: looptest.GuestAnswer(t, 1000)}
		f := look(w, in, g)
		p, err := folders.For(w.Loop).PlanGuest(in, f)
		as := p.Actions
		if err != nil || len(as) != 1 || len(as[0].Shows) != 2 {
			t.Fatalf("planned %v %v", as, err)
		}
		g.Share = c.after
		err = as[0].Do(t.Context())
		if (err != nil) != c.fails || len(g.Scripts) != 1 {
			t.Errorf("folder %q: %v, %d scripts", c.folder, err, len(g.Scripts))
		}
		if !c.fails && !strings.Contains(w.Err.String(), "Skipping saved attachment "+q) {
			t.Errorf("folder %q: said %q", c.folder, w.Err.String())
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
	p, q := w.MakeFolder("p"), w.MakeFolder("q")
	w.WriteConfig(p, q)
	in := looptest.SavedTarget(w, p)
	w.WriteConfig(p)
	if now, err := w.Refresh(in); err != nil || len(now.Atts(nil)) != 1 || len(in.Atts(nil)) != 2 {
		t.Errorf("%v %v", err, now.Atts(nil))
	}
	w.WriteConfig()
	if _, err := w.Refresh(in); err == nil || !strings.Contains(err.Error(), "detached") {
		t.Errorf("%v", err)
	}
	in = looptest.SavedTarget(w, "")
	in.Folder, in.NewFolder = looptest.FolderOf(p), true
	w.WriteConfig(p)
	if now, err := w.Refresh(in); err != nil || now.NewFolder {
		t.Errorf("%v new %v", err, now.NewFolder)
	}
	in.Folder.Access = "ro"
	if _, err := w.Refresh(in); err == nil || !strings.Contains(err.Error(), "Attachment access mismatch") {
		t.Errorf("%v", err)
	}
}

// Which record a folder belongs to, and what is refused.
func TestWantFolder(t *testing.T) {
	w := newWorld(t)
	p := w.MakeFolder("p")
	sub := w.MakeFolder("p/sub/dir")
	w.WriteConfig(p)
	looptest.UpdateConfig(w, func(c *config.Config) { c.Behavior.Verbose = 0 })
	ask := func(o target.FolderOptions) (*target.Target, error) {
		w.Store = nil
		return env(w).wantFolder(t.Context(), o, false)
	}
	in, err := ask(target.FolderOptions{Folder: sub})
	if err != nil || in.NewFolder || in.Folder.HostPath != p || in.OpenAt != sub {
		t.Errorf("a subfolder: %+v %v", in, err)
	}
	// Nearest parent on the VM that is named.
	looptest.UpdateConfig(w, func(c *config.Config) {
		c.VMs = append(c.VMs, config.VM{Name: "u", NetworkName: "n", VM: config.VMSpec{Name: "u", User: "agent"}})
		c.UpsertAttachment(config.Attachment{HostPath: w.MakeFolder("p/sub"), VMName: "u", Mode: "shared-root", Access: "rw", GuestDst: "/u"})
	})
	if in, err = ask(target.FolderOptions{Folder: sub, VM: "t"}); err != nil || in.NewFolder || in.Folder.HostPath != p {
		t.Errorf("with another VM's record in between: %+v %v", in, err)
	}
	if in, err = ask(target.FolderOptions{Folder: sub}); err != nil || in.Name != "u" || in.OpenAt != "/u/dir" {
		t.Errorf("nearest: %+v %v", in, err)
	}
	refused := func(o target.FolderOptions, words ...string) {
		t.Helper()
		_, err := ask(o)
		if err == nil {
			t.Errorf("%+v is not refused", o)
			return
		}
		var ue *ui.Error
		said := err.Error()
		if errors.As(err, &ue) {
			said += " | " + strings.Join(ue.HintLines(), " | ")
		}
		for _, want := range words {
			if !strings.Contains(said, want) {
				t.Errorf("%+v: no %q in %s", o, want, said)
			}
		}
	}
	for _, attach := range []bool{false, true} {
		refused(target.FolderOptions{Folder: p, VM: "t", Access: "ro", Attach: attach}, "Attachment access mismatch", "aivm detach "+p+" --vm t", "aivm attach "+p+" --vm t --access ro")
		refused(target.FolderOptions{Folder: p, VM: "t", Mode: "git", Attach: attach}, "Attachment mode mismatch", "aivm detach "+p+" --vm t", "aivm attach "+p+" --vm t --mode git")
	}
	// A part of an attached folder in another way: attach may, code may not.
	refused(target.FolderOptions{Folder: sub, VM: "t", GuestDst: "/srv/x"}, "Attachment guest_dst mismatch")
	if in, err = ask(target.FolderOptions{Folder: sub, VM: "t", GuestDst: "/srv/x", Attach: true}); err != nil || !in.NewFolder || in.Folder.HostPath != sub {
		t.Errorf("nested: %+v %v", in, err)
	}
	refused(target.FolderOptions{Folder: sub, VM: "t", Access: "ro", Attach: true}, "would not be read-only", "aivm attach "+p+" --vm t --access ro")

	// A link in the folder, where the VM may have put it: not followed, and the
	// folder stays what it is.
	looptest.UpdateConfig(w, func(c *config.Config) { c.Attachments[0].State = "" })
	out := filepath.Join(p, "out")
	if err := os.Symlink(w.MakeFolder("elsewhere"), out); err != nil {
		t.Fatal(err)
	}
	for _, attach := range []bool{false, true} {
		refused(target.FolderOptions{Folder: out, VM: "t", Attach: attach}, "leads out of folder "+p, "aivm attach "+w.MakeFolder("elsewhere"))
	}
	if r, _ := looptest.RecordOf(w, p); r.State != "" {
		t.Errorf("for a link in it the folder is recorded as %+v", r)
	}

	// A link where the folder was: refused by name, by attach too, until it is
	// detached.
	if err := os.Rename(p, p+".was"); err != nil {
		t.Fatal(err)
	}
	other := w.MakeFolder("other")
	if err := os.Symlink(other, p); err != nil {
		t.Fatal(err)
	}
	for _, attach := range []bool{false, true} {
		refused(target.FolderOptions{Folder: p, VM: "t", Attach: attach}, "symbolic link now", other, "aivm detach "+p+" --vm t")
	}
	if r, _ := looptest.RecordOf(w, p); r.State != "link" {
		t.Errorf("recorded as %+v", r)
	}
	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p+".was", p); err != nil {
		t.Fatal(err)
	}
	refused(target.FolderOptions{Folder: p, VM: "t"}, "symbolic link was on its way", "aivm attach "+p+" --vm t")
	if in, err = ask(target.FolderOptions{Folder: p, VM: "t", Attach: true}); err != nil || !in.NewFolder || in.Folder.State != "" {
		t.Errorf("attached again: %+v %v", in, err)
	}
	// On its way out: opened again, it is asked about as a new one.
	looptest.UpdateConfig(w, func(c *config.Config) { c.Attachments[0].State = "detaching" })
	if in, err = ask(target.FolderOptions{Folder: p, VM: "t", Access: "ro"}); err != nil || !in.NewFolder || in.Folder.Access != "ro" {
		t.Errorf("detaching: %+v %v", in, err)
	}
}

func TestSplit(t *testing.T) {
	one := ui.Refused("x").Hint(ui.Remark("do it"))
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
	p, q := w.MakeFolder("p"), w.MakeFolder("q/c")
	w.WriteConfig(p, q)
	if err := os.Rename(q, q+".was"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", q); err != nil {
		t.Fatal(err)
	}
	in := looptest.SavedTarget(w, p)
	f := look(w, in, nil)
	f.Share.Noted = map[string]root.Bind{share.Token(q): {}}
	as, err := planShare(w, in, f)
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
	looptest.ResetRun(w)
	in = looptest.SavedTarget(w, p)
	if as, err = planShare(w, in, look(w, in, nil)); err != nil || len(as) != 1 {
		t.Errorf("planned %v %v", as, err)
	}
	if said := w.Err.String(); !strings.Contains(said, "Skipping saved attachment "+q) || !strings.Contains(said, "aivm attach "+q+" --vm t") {
		t.Errorf("said %q", said)
	}
}

// Of folders in folders, the innermost is the one a link took the place of.
func TestLinkedAway(t *testing.T) {
	c := &config.Config{Attachments: []config.Attachment{{HostPath: "/p", VMName: "t"}, {HostPath: "/p/sub", VMName: "t"}, {HostPath: "/p/sub/deep", VMName: "other"}}}
	for _, k := range []struct{ typed, real, want string }{
		{"/p/sub/x", "/etc", "/p/sub"}, {"/p/x", "/etc", "/p"}, {"/p/sub", "/p/sub", ""}, {"/p/x", "/p/y", ""}, {"/q", "/etc", ""},
	} {
		if r, ok := target.FindLinked(c, "t", k.typed, k.real); r.HostPath != k.want || ok != (k.want != "") {
			t.Errorf("%s, which is %s: %q", k.typed, k.real, r.HostPath)
		}
	}
}
