package folders

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

func file(w *looptest.World, path, text string) {
	w.T.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.T.Fatal(err)
	}
}

// wish returns the target of `attach folder` with the facts of the host.
func wish(w *looptest.World, folder string, o target.FolderOptions) (*target.Target, *loop.Facts) {
	w.T.Helper()
	o.Folder, o.VM, o.Attach = folder, "t", true
	in, err := w.Folder(w.T.Context(), o, false)
	if err != nil {
		w.T.Fatal(err)
	}
	f := &loop.Facts{}
	if f.Share, err = w.Shared("t", in.Atts(nil)); err != nil {
		w.T.Fatal(err)
	}
	For(w.Loop).ObserveHostExecuted(w.T.Context(), in, f)
	return in, f
}

// planShare plans in's folders, prints the plan's notes and removes the skipped folders
// from f, as the loop does.
func planShare(w *looptest.World, in *target.Target, f *loop.Facts) ([]plan.Action, error) {
	p, err := For(w.Loop).PlanShare(in, f, f.Skipped)
	w.PrintNotes(p.Plan)
	f.Skip(p.Skipped)
	return p.Actions, err
}

// The checksums of host-executed files are recorded before the folder is shared,
// compared later, and recorded again with --reviewed.
func TestChecksumsAreRecordedAndCompared(t *testing.T) {
	w := looptest.New(t)
	p := w.MakeFolder("p")
	file(w, p+"/Makefile", "all:\n")
	file(w, p+"/.envrc", "x")
	in, f := wish(w, p, target.FolderOptions{})
	as, err := planShare(w, in, f)
	if err != nil || len(as) != 2 || !strings.HasPrefix(as[0].ID, "share.seen:") || !strings.HasPrefix(as[1].ID, "share.bind:") {
		t.Fatalf("planned %v %v", as, err)
	}
	if !strings.Contains(as[0].Why, ".envrc, Makefile") {
		t.Errorf("%q", as[0].Why)
	}
	if err := as[0].Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	For(w.Loop).ReportHostExecuted(in, f)
	if s := w.Err.String(); !strings.Contains(s, ".envrc, Makefile") || !strings.Contains(s, "--protect") {
		t.Errorf("printed %q", s)
	}
	w.WriteConfig(p)
	looptest.ResetRun(w)
	check := func() (host.Check, []HostExecutedChange) {
		in := looptest.SavedTarget(w, p)
		s := StatusFacts{atts: in.Atts(nil)}
		return For(w.Loop).HostExecutedCheck(t.Context(), in, &loop.Facts{}, s)
	}
	if c, ch := check(); c.State != host.OK || len(ch) != 0 {
		t.Errorf("%+v %v", c, ch)
	}
	file(w, p+"/Makefile", "evil:\n")
	if c, ch := check(); c.State != host.OK || len(ch) != 1 || ch[0].Path != "Makefile" || ch[0].Change != "changed" || !strings.Contains(c.Detail, "Makefile (changed)") {
		t.Errorf("%+v %v", c, ch)
	}
	file(w, p+"/.git/hooks/post-checkout", "evil")
	c, ch := check()
	if c.State != host.Bad || len(ch) != 2 || !strings.Contains(c.Detail, ".git/hooks/post-checkout (new)") || !strings.Contains(strings.Join(c.Fix, "\n"), "--reviewed") {
		t.Errorf("%+v %v", c, ch)
	}
	in, f = wish(w, p, target.FolderOptions{Reviewed: true})
	if as, err = For(w.Loop).planChecksums(in, f); err != nil || len(as) != 1 {
		t.Fatalf("planned %v %v", as, err)
	}
	if err := as[0].Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, ch := check(); c.State != host.OK || len(ch) != 0 {
		t.Errorf("%+v %v", c, ch)
	}
	// A folder that was attached without a list, and a read-only one.
	w.State().ForgetChecksums(share.Attachment{HostPath: p, VM: "t"})
	if c, _ := check(); c.State != host.Unknown {
		t.Errorf("%+v", c)
	}
	q := w.MakeFolder("q")
	file(w, q+"/Makefile", "all:\n")
	if _, f := wish(w, q, target.FolderOptions{Access: "ro"}); f.HostExecuted != nil || f.Checksums != nil {
		t.Error("a read-only folder was read")
	}
}

// Protected paths go into the privileged record when the folder is new and when its
// protection does not hold any more. While the VM is off nothing is mounted.
func TestProtectIsPlanned(t *testing.T) {
	w := looptest.New(t)
	p := w.MakeFolder("p")
	file(w, p+"/.git/hooks/x.sample", "x")
	file(w, p+"/.git/HEAD", "x")
	file(w, p+"/Makefile", "all:\n")
	file(w, p+"/sub/package.json", "{}")
	if err := os.Symlink("Makefile", p+"/justfile"); err != nil {
		t.Fatal(err)
	}
	in, f := wish(w, p, target.FolderOptions{Protect: true})
	if !strings.Contains(w.Err.String(), "justfile") {
		t.Errorf("printed %q", w.Err.String())
	}
	in.Boot = true
	as, err := planShare(w, in, f)
	if err != nil || len(as) != 2 {
		t.Fatalf("planned %v %v", as, err)
	}
	b, ok := as[1].Root.(root.Bind)
	if got := strings.Join(b.Protect, " "); !ok || got != "Makefile .git/hooks sub/package.json" {
		t.Errorf("protects %q", got)
	}
	early, err := For(w.Loop).PlanBeforeBoot(in, f, nil)
	if err != nil || len(early.Actions) != 1 || early.Actions[0].ID != "share.arm:"+share.Token(p) {
		t.Errorf("early %v %v", early, err)
	}
	in.Boot = false
	if as, err = planShare(w, in, f); err != nil || len(as) != 1 {
		t.Errorf("with the VM off: %v %v", as, err)
	}

	// A folder that is attached already is protected from now on. Refused: a folder inside a
	// writable one, and a read-only folder.
	w.WriteConfig(w.MakeFolder("p"))
	looptest.ResetRun(w)
	later, err := w.Finder.Folder(t.Context(), target.FolderOptions{Folder: p, Protect: true, VM: "t", Attach: true}, false)
	if err != nil || !later.NewProtect || later.NewFolder || !later.Folder.Protect {
		t.Errorf("an attached folder: %v %+v", err, later)
	}
	looptest.ResetRun(w)
	if _, err := w.Finder.Folder(t.Context(), target.FolderOptions{Folder: p + "/sub", Protect: true, VM: "t"}, false); err == nil || !strings.Contains(err.Error(), "without --protect") {
		t.Errorf("code --protect of a folder inside an attached one: %v", err)
	}
	for what, o := range map[string]target.FolderOptions{
		"none of its files":     {Folder: p + "/sub", Protect: true},
		"is for folders the VM": {Folder: w.MakeFolder("r"), Protect: true, Access: "ro"},
	} {
		looptest.ResetRun(w)
		o.VM, o.Attach = "t", true
		if _, err := w.Finder.Folder(t.Context(), o, false); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
