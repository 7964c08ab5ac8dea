package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

func (w *world) file(path, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// wish is the folder as `attach` wants it, with the facts of this machine.
func (w *world) wish(folder string, o FolderOptions) (*want, *facts) {
	w.t.Helper()
	o.Folder, o.VM, o.Attach = folder, "t", true
	in, err := w.wantFolder(w.t.Context(), o, false)
	if err != nil {
		w.t.Fatal(err)
	}
	f := &facts{}
	if f.share, err = w.shared("t", in.atts()); err != nil {
		w.t.Fatal(err)
	}
	w.observeExecuted(w.t.Context(), in, f)
	return in, f
}

// What runs is written down before the folder is shared, compared later, and
// taken anew when the person says so.
func TestExecutedIsWrittenDownAndCompared(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	w.file(p+"/Makefile", "all:\n")
	w.file(p+"/.envrc", "x")
	in, f := w.wish(p, FolderOptions{})
	as, err := w.planShare(in, f)
	if err != nil || len(as) != 2 || !strings.HasPrefix(as[0].ID, "share.seen:") || !strings.HasPrefix(as[1].ID, "share.bind:") {
		t.Fatalf("planned %v %v", as, err)
	}
	if !strings.Contains(as[0].Why, ".envrc, Makefile") {
		t.Errorf("%q", as[0].Why)
	}
	if err := as[0].Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.sayExecuted(in)
	if s := w.err.String(); !strings.Contains(s, ".envrc, Makefile") || !strings.Contains(s, "--protect") {
		t.Errorf("said %q", s)
	}
	w.records(p)
	w.fresh()
	look := func() (host.Check, []ExecutedChange) {
		in := w.saved(p)
		s := vmFolders{atts: in.atts()}
		return w.executedCheck(t.Context(), in, &facts{}, s)
	}
	if c, ch := look(); c.State != host.OK || len(ch) != 0 {
		t.Errorf("%+v %v", c, ch)
	}
	w.file(p+"/Makefile", "evil:\n")
	if c, ch := look(); c.State != host.OK || len(ch) != 1 || ch[0].Path != "Makefile" || ch[0].Change != "changed" || !strings.Contains(c.Detail, "Makefile (changed)") {
		t.Errorf("%+v %v", c, ch)
	}
	w.file(p+"/.git/hooks/post-checkout", "evil")
	c, ch := look()
	if c.State != host.Bad || len(ch) != 2 || !strings.Contains(c.Detail, ".git/hooks/post-checkout (new)") || !strings.Contains(strings.Join(c.Fix, "\n"), "--reviewed") {
		t.Errorf("%+v %v", c, ch)
	}
	in, f = w.wish(p, FolderOptions{Reviewed: true})
	if as, err = w.planSeen(in, f); err != nil || len(as) != 1 {
		t.Fatalf("planned %v %v", as, err)
	}
	if err := as[0].Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, ch := look(); c.State != host.OK || len(ch) != 0 {
		t.Errorf("%+v %v", c, ch)
	}
	// A folder that is read only, and one that was attached without a list.
	w.state().ForgetSeen(share.Attachment{HostPath: p, VM: "t"})
	if c, _ := look(); c.State != host.Unknown {
		t.Errorf("%+v", c)
	}
	q := w.folder("q")
	w.file(q+"/Makefile", "all:\n")
	if in, f := w.wish(q, FolderOptions{Access: "ro"}); f.executed != nil || in.seen != nil {
		t.Error("a read-only folder was looked at")
	}
}

// Protected paths go into the record for root: when the folder is new, and when
// what was protected does not hold any more. With the VM off nothing is mounted.
func TestProtectIsPlanned(t *testing.T) {
	w := newWorld(t)
	p := w.folder("p")
	w.file(p+"/.git/hooks/x.sample", "x")
	w.file(p+"/.git/HEAD", "x")
	w.file(p+"/Makefile", "all:\n")
	w.file(p+"/sub/package.json", "{}")
	if err := os.Symlink("Makefile", p+"/justfile"); err != nil {
		t.Fatal(err)
	}
	in, f := w.wish(p, FolderOptions{Protect: true})
	if !strings.Contains(w.err.String(), "justfile") {
		t.Errorf("said %q", w.err.String())
	}
	in.boot = true
	as, err := w.planShare(in, f)
	if err != nil || len(as) != 2 {
		t.Fatalf("planned %v %v", as, err)
	}
	b, ok := as[1].Root.(root.Bind)
	if got := strings.Join(b.Protect, " "); !ok || got != "Makefile .git/hooks sub/package.json" {
		t.Errorf("protects %q", got)
	}
	armed, err := w.planArm(in, f)
	if err != nil || len(armed) != 1 || armed[0].ID != "share.arm:"+share.Token(p) {
		t.Errorf("armed %v %v", armed, err)
	}
	in.boot = false
	if as, err = w.planShare(in, f); err != nil || len(as) != 1 {
		t.Errorf("with the VM off: %v %v", as, err)
	}

	// A folder inside a writable one, for reading only, or attached otherwise.
	w.records(w.folder("p"))
	w.fresh()
	for what, o := range map[string]FolderOptions{
		"mismatch":              {Folder: p, Protect: true},
		"nothing of it":         {Folder: p + "/sub", Protect: true},
		"is for folders the VM": {Folder: w.folder("r"), Protect: true, Access: "ro"},
	} {
		w.fresh()
		o.VM, o.Attach = "t", true
		if _, err := w.wantFolder(t.Context(), o, false); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
