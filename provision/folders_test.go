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

// observe reads the facts about the folders of tgt on the host and, if g is not nil, in the guest.
func observe(w *looptest.World, tgt *target.Target, g *looptest.FakeGuest) *loop.Facts {
	w.T.Helper()
	f := &loop.Facts{}
	var err error
	if f.Share, err = w.Shared("t", tgt.Atts(nil)); err != nil {
		w.T.Fatal(err)
	}
	if g != nil {
		f.Conn = g
		if err = env(w).Probe(w.T.Context(), g, tgt, f); err != nil {
			w.T.Fatal(err)
		}
	}
	return f
}

// planShare plans the folders of tgt, prints the plan's notes, and adds the skipped folders to f,
// like the loop.
func planShare(w *looptest.World, tgt *target.Target, f *loop.Facts) ([]plan.Action, error) {
	p, err := folders.For(w.Loop).PlanShare(tgt, f, f.Skipped)
	w.PrintNotes(p.Plan)
	f.Skip(p.Skipped)
	return p.Actions, err
}

// All folders of a VM are mounted again, whichever the verb names; one that cannot be mounted is
// named and skipped.
func TestAllFoldersAreMountedAgain(t *testing.T) {
	w := newWorld(t)
	p, q, r := w.MakeFolder("p"), w.MakeFolder("q"), w.MakeFolder("r")
	gone := w.Dir + "/gone"
	w.WriteConfig(p, q, r, gone)
	w.AddShare(q, "rw,nosuid,nodev,idmapped")
	for _, folder := range []string{"", p} {
		w.Printed, w.Ops = nil, nil
		w.Err.Reset()
		tgt := looptest.SavedTarget(w, folder)
		as, err := planShare(w, tgt, observe(w, tgt, nil))
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
		if printed := w.Err.String(); !strings.Contains(printed, "Skipping saved attachment "+gone+": host path is missing") {
			t.Errorf("folder %q: printed %q", folder, printed)
		}
		// An error of the verb's own folder ends the run, that of another one does not.
		for _, a := range as {
			own := folder != "" && strings.HasSuffix(a.ID, share.Token(folder))
			if (a.Fail == nil) != own {
				t.Errorf("folder %q: %s ends the run: %v", folder, a.ID, a.Fail == nil)
			}
			if a.Fail != nil && a.Fail(errors.New("busy")) != nil {
				t.Error("another folder ends the run")
			}
		}
	}
	// The missing one itself is refused.
	tgt := looptest.SavedTarget(w, gone)
	if _, err := planShare(w, tgt, observe(w, tgt, nil)); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v", err)
	}
}

// One script mounts all folders in the guest, and its error for one folder does not affect the others.
func TestGuestErrorForOneFolder(t *testing.T) {
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
		tgt := looptest.SavedTarget(w, c.folder)
		g := &looptest.FakeGuest{Share: looptest.GuestAnswer(t, 1000)}
		f := observe(w, tgt, g)
		p, err := folders.For(w.Loop).PlanGuest(tgt, f)
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
			t.Errorf("folder %q: printed %q", c.folder, w.Err.String())
		}
		if c.fails && !strings.Contains(err.Error(), "nothing is mounted there") {
			t.Error(err)
		}
	}
}

// Refresh reads the config again under the lock: a folder that another run detached is not mounted
// again, and a folder that it attached needs no second consent.
func TestRefresh(t *testing.T) {
	w := newWorld(t)
	p, q := w.MakeFolder("p"), w.MakeFolder("q")
	w.WriteConfig(p, q)
	tgt := looptest.SavedTarget(w, p)
	w.WriteConfig(p)
	if now, err := w.Refresh(tgt); err != nil || len(now.Atts(nil)) != 1 || len(tgt.Atts(nil)) != 2 {
		t.Errorf("%v %v", err, now.Atts(nil))
	}
	w.WriteConfig()
	if _, err := w.Refresh(tgt); err == nil || !strings.Contains(err.Error(), "detached") {
		t.Errorf("%v", err)
	}
	tgt = looptest.SavedTarget(w, "")
	tgt.Folder, tgt.NewFolder = looptest.FolderOf(p), true
	w.WriteConfig(p)
	if now, err := w.Refresh(tgt); err != nil || now.NewFolder {
		t.Errorf("%v new %v", err, now.NewFolder)
	}
	tgt.Folder.Access = "ro"
	if _, err := w.Refresh(tgt); err == nil || !strings.Contains(err.Error(), "Attachment access mismatch") {
		t.Errorf("%v", err)
	}
}

// folderTarget finds the record that a folder belongs to, and refuses options that differ from it.
func TestFolderTarget(t *testing.T) {
	w := newWorld(t)
	p := w.MakeFolder("p")
	sub := w.MakeFolder("p/sub/dir")
	w.WriteConfig(p)
	looptest.UpdateConfig(w, func(c *config.Config) { c.Behavior.Verbose = 0 })
	ask := func(o target.FolderOptions) (*target.Target, error) {
		w.Store = nil
		return env(w).folderTarget(t.Context(), o, false)
	}
	tgt, err := ask(target.FolderOptions{Folder: sub})
	if err != nil || tgt.NewFolder || tgt.Folder.HostPath != p || tgt.OpenAt != sub {
		t.Errorf("a subfolder: %+v %v", tgt, err)
	}
	// The nearest attached parent on the named VM.
	looptest.UpdateConfig(w, func(c *config.Config) {
		c.VMs = append(c.VMs, config.VM{Name: "u", NetworkName: "n", VM: config.VMSpec{Name: "u", User: "agent"}})
		c.UpsertAttachment(config.Attachment{HostPath: w.MakeFolder("p/sub"), VMName: "u", Mode: "shared-root", Access: "rw", GuestDst: "/u"})
	})
	if tgt, err = ask(target.FolderOptions{Folder: sub, VM: "t"}); err != nil || tgt.NewFolder || tgt.Folder.HostPath != p {
		t.Errorf("with another VM's record in between: %+v %v", tgt, err)
	}
	if tgt, err = ask(target.FolderOptions{Folder: sub}); err != nil || tgt.Name != "u" || tgt.OpenAt != "/u/dir" {
		t.Errorf("nearest: %+v %v", tgt, err)
	}
	refused := func(o target.FolderOptions, words ...string) {
		t.Helper()
		_, err := ask(o)
		if err == nil {
			t.Errorf("%+v is not refused", o)
			return
		}
		var ue *ui.Error
		text := err.Error()
		if errors.As(err, &ue) {
			text += " | " + strings.Join(ue.HintLines(), " | ")
		}
		for _, want := range words {
			if !strings.Contains(text, want) {
				t.Errorf("%+v: no %q in %s", o, want, text)
			}
		}
	}
	for _, attach := range []bool{false, true} {
		refused(target.FolderOptions{Folder: p, VM: "t", Access: "ro", Attach: attach}, "Attachment access mismatch", "aivm detach "+p+" --vm t", "aivm attach "+p+" --vm t --access ro")
		refused(target.FolderOptions{Folder: p, VM: "t", Mode: "shared", Attach: attach}, "Attachment mode mismatch", "aivm detach "+p+" --vm t", "aivm attach "+p+" --vm t --mode shared")
		refused(target.FolderOptions{Folder: p, VM: "t", Mode: "git", Attach: attach}, "requires a Git worktree", "git -C "+p+" init")
	}
	// attach may attach a subfolder of an attached folder with other options, code may not.
	refused(target.FolderOptions{Folder: sub, VM: "t", GuestDst: "/srv/x"}, "Attachment guest_dst mismatch")
	if tgt, err = ask(target.FolderOptions{Folder: sub, VM: "t", GuestDst: "/srv/x", Attach: true}); err != nil || !tgt.NewFolder || tgt.Folder.HostPath != sub {
		t.Errorf("nested: %+v %v", tgt, err)
	}
	refused(target.FolderOptions{Folder: sub, VM: "t", Access: "ro", Attach: true}, "cannot be read-only", "aivm attach "+p+" --vm t --access ro")

	// A link in the folder, which the VM may have created, is not followed, and the record of the
	// folder does not change.
	looptest.UpdateConfig(w, func(c *config.Config) { c.Attachments[0].State = "" })
	out := filepath.Join(p, "out")
	if err := os.Symlink(w.MakeFolder("elsewhere"), out); err != nil {
		t.Fatal(err)
	}
	for _, attach := range []bool{false, true} {
		refused(target.FolderOptions{Folder: out, VM: "t", Attach: attach}, "leads out of folder "+p, "aivm attach "+w.MakeFolder("elsewhere"))
	}
	if r, _ := looptest.RecordOf(w, p); r.State != "" {
		t.Errorf("because of a link in it the folder is recorded as %+v", r)
	}

	// A link in place of the folder is refused, by attach too, until the folder is detached.
	if err := os.Rename(p, p+".was"); err != nil {
		t.Fatal(err)
	}
	other := w.MakeFolder("other")
	if err := os.Symlink(other, p); err != nil {
		t.Fatal(err)
	}
	for _, attach := range []bool{false, true} {
		refused(target.FolderOptions{Folder: p, VM: "t", Attach: attach}, "now contains a symbolic link", other, "aivm detach "+p+" --vm t")
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
	refused(target.FolderOptions{Folder: p, VM: "t"}, "path contained a symbolic link", "aivm attach "+p+" --vm t")
	if tgt, err = ask(target.FolderOptions{Folder: p, VM: "t", Attach: true}); err != nil || !tgt.NewFolder || tgt.Folder.State != "" {
		t.Errorf("attached again: %+v %v", tgt, err)
	}
	// A folder that is being detached counts as new if it is opened again.
	looptest.UpdateConfig(w, func(c *config.Config) { c.Attachments[0].State = "detaching" })
	if tgt, err = ask(target.FolderOptions{Folder: p, VM: "t", Access: "ro"}); err != nil || !tgt.NewFolder || tgt.Folder.Access != "ro" {
		t.Errorf("detaching: %+v %v", tgt, err)
	}
}

func TestSplit(t *testing.T) {
	one := ui.Refused("x").Hint(ui.Remark("do it"))
	each, rest := share.Split(fmt.Errorf("around: %w", errors.Join(&share.FolderError{Folder: "/p", Err: one}, errors.New("all"), nil)))
	if len(each) != 0 || rest == nil {
		// A wrapped join is one error that concerns all folders.
		t.Errorf("%v %v", each, rest)
	}
	each, rest = share.Split(errors.Join(&share.FolderError{Folder: "/p", Err: one}, errors.Join(&share.FolderError{Folder: "/q", Err: one}, errors.New("all"))))
	if len(each) != 2 || each["/p"] != error(one) || rest == nil || rest.Error() != "all" {
		t.Errorf("%v %v", each, rest)
	}
}

// Another folder whose path contains a link is named and skipped until it is attached again, and
// libvirt's hook is told to skip it too.
func TestLinkedFolderStaysSkipped(t *testing.T) {
	w := newWorld(t)
	p, q := w.MakeFolder("p"), w.MakeFolder("q/c")
	w.WriteConfig(p, q)
	if err := os.Rename(q, q+".was"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", q); err != nil {
		t.Fatal(err)
	}
	tgt := looptest.SavedTarget(w, p)
	f := observe(w, tgt, nil)
	f.Share.Noted = map[string]root.Bind{share.Token(q): {}}
	as, err := planShare(w, tgt, f)
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
	// The link is removed: the folder is still skipped.
	if err := os.Remove(q); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(q+".was", q); err != nil {
		t.Fatal(err)
	}
	looptest.ResetRun(w)
	tgt = looptest.SavedTarget(w, p)
	if as, err = planShare(w, tgt, observe(w, tgt, nil)); err != nil || len(as) != 1 {
		t.Errorf("planned %v %v", as, err)
	}
	if printed := w.Err.String(); !strings.Contains(printed, "Skipping saved attachment "+q) || !strings.Contains(printed, "aivm attach "+q+" --vm t") {
		t.Errorf("printed %q", printed)
	}
}

// FindLinked returns the innermost attached folder on the path that was replaced by a link.
func TestFindLinked(t *testing.T) {
	c := &config.Config{Attachments: []config.Attachment{{HostPath: "/p", VMName: "t"}, {HostPath: "/p/sub", VMName: "t"}, {HostPath: "/p/sub/deep", VMName: "other"}}}
	for _, k := range []struct{ typed, resolved, want string }{
		{"/p/sub/x", "/etc", "/p/sub"}, {"/p/x", "/etc", "/p"}, {"/p/sub", "/p/sub", ""}, {"/p/x", "/p/y", ""}, {"/q", "/etc", ""},
	} {
		if r, ok := target.FindLinked(c, "t", k.typed, k.resolved); r.HostPath != k.want || ok != (k.want != "") {
			t.Errorf("%s, which is %s: %q", k.typed, k.resolved, r.HostPath)
		}
	}
}
