package templates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/loop/looptest"
)

// fake is a Backend whose VMs write the names of their scripts to the disk.
type fake struct {
	t         *testing.T
	dir       string
	published []Published
	boots     int
	allowed   []string
	fail      string // name of the script that fails
	hidden    string // what the failing script prints
	stale     string
}

func (b *fake) Check(context.Context) (Machinery, error) {
	return Machinery{QEMU: "7.2.0", Accel: "kvm"}, nil
}

func (b *fake) Published(m *Machinery) ([]Published, error) {
	out := slices.Clone(b.published)
	for i := range out {
		if m != nil {
			out[i].Stale = b.stale
		}
	}
	return out, nil
}

func (b *fake) Building(string) bool { return false }

func (b *fake) Begin(_ context.Context, d DraftSpec) (Draft, error) {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(b.dir, "draft-")
	if err != nil {
		return nil, err
	}
	return &fakeDraft{fake: b, spec: d, disk: f.Name()}, f.Close()
}

type fakeDraft struct {
	*fake
	spec DraftSpec
	disk string
}

func (d *fakeDraft) Keep(to string) error { return copyFile(d.disk, to) }

func (d *fakeDraft) Restore(from string) error {
	return errors.Join(os.Remove(d.disk), copyFile(from, d.disk))
}

func (d *fakeDraft) Start(context.Context, bool, io.Writer) (Machine, error) {
	d.boots++
	return &fakeVM{fakeDraft: d}, nil
}

func (d *fakeDraft) Publish(_ context.Context, _ Machine, _ [][]string, s Setup) error {
	b, err := os.ReadFile(d.disk)
	if err != nil {
		return err
	}
	p := Published{Name: d.spec.Spec.Name, Key: string(b), Created: time.Now(), Accel: "kvm", Size: 1, Setup: s}
	d.published = slices.DeleteFunc(d.published, func(o Published) bool { return o.Name == p.Name })
	d.published = append(d.published, p)
	return nil
}

func (d *fakeDraft) Close() { _ = os.Remove(d.disk) }

type fakeVM struct {
	*fakeDraft
	off bool
}

func (m *fakeVM) Connect(_ context.Context, addresses []string) error {
	m.allowed = addresses
	return nil
}

func (m *fakeVM) Run(_ context.Context, s GuestScript, out io.Writer) error {
	switch s.Name {
	case m.fail:
		fmt.Fprint(out, m.hidden)
		return &ExitError{"exit status 7"}
	case "sources":
		fmt.Fprintln(out, "http://mirror.example/debian\nhttps://other.example:8443/x")
	case "versions":
		fmt.Fprintln(out, "git=2.39.5\nnode=26.1.0\nevil=\x1b[2J\n=x")
	default:
		f, err := os.OpenFile(m.disk, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprint(f, s.Name, " ")
	}
	return nil
}

func (m *fakeVM) PowerOff(context.Context) error { m.off = true; return nil }
func (m *fakeVM) Close()                         {}

// world returns a Part with a fake backend and an image in its cache.
func world(t *testing.T) (*looptest.World, Part, *fake, func(context.Context, string) (Source, error)) {
	t.Helper()
	w := looptest.New(t)
	w.Approval = plan.Approval{Yes: true}
	w.Timing = ui.NewTiming()
	b := &fake{t: t, dir: filepath.Join(w.Dir, "drafts")}
	img := filepath.Join(w.Dir, "image")
	if err := os.WriteFile(img, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := func(context.Context, string) (Source, error) {
		return Source{Name: "debian-12", Entry: image.Entry{Path: img, SHA256: strings.Repeat("a", 64), Format: "qcow2"}, Cached: true}, nil
	}
	return w, Part{Loop: w.Loop, Backend: b}, b, src
}

// The steps are done once; what is finished is not repeated, and with changed flags only what follows
// the change is done again.
func TestSetup(t *testing.T) {
	w, e, b, src := world(t)
	script := filepath.Join(w.Dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const tools, packages = "grow prepare apt tools node ", "prepare apt "
	for _, c := range []struct {
		name    string
		o       Options
		boots   int
		changed bool
		disk    string
		why     string
	}{
		{"the first", Options{}, 2, true, tools + "clean ", "there is none"},
		{"nothing to do", Options{}, 0, false, tools + "clean ", ""},
		{"packages", Options{Packages: []string{"golang"}, SetPackages: true}, 2, true, tools + packages + "clean ", "other packages are wanted"},
		{"the config has them now", Options{}, 0, false, tools + packages + "clean ", ""},
		{"a script", Options{Script: script, SetScript: true}, 2, true, tools + packages + "prepare script clean ", "its script changed"},
		{"memory", Options{MemoryMB: 512}, 1, true, tools + packages + "prepare script clean ", "512 MB of memory are wanted"},
		{"upgrade", Options{Upgrade: true}, 4, true, tools + packages + "prepare script clean ", "with current packages"},
		{"no packages", Options{SetPackages: true, SetScript: true}, 1, true, tools + "clean ", "other packages are wanted; its script changed"},
	} {
		b.boots = 0
		r, err := e.Setup(t.Context(), c.o, src)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, w.Err.String())
		}
		if b.boots != c.boots || r.Changed != c.changed || r.Key != c.disk || !strings.Contains(r.Why, c.why) || c.why == "" && r.Why != "" {
			t.Errorf("%s: %d boots, changed %v, disk %q, why %q", c.name, b.boots, r.Changed, r.Key, r.Why)
		}
		if r.Versions["node"] != "26.1.0" || len(r.Versions) != 2 {
			t.Errorf("%s: versions %v", c.name, r.Versions)
		}
		e.ResetRun()
	}
	if !slices.Contains(b.allowed, "mirror.example:80") || !slices.Contains(b.allowed, "other.example:8443") {
		t.Errorf("the VM of a later step may reach %q", b.allowed)
	}
	if d, _ := os.ReadDir(b.dir); len(d) != 0 {
		t.Errorf("drafts remain: %v", d)
	}
}

// A step that fails ends the setup with what it printed; the finished steps stay, and the next run
// continues there.
func TestSetupContinues(t *testing.T) {
	w, e, b, src := world(t)
	o := Options{Packages: []string{"nosuch"}, SetPackages: true}
	for _, step := range []string{"node", "clean"} {
		b.fail, b.hidden = step, "one\nE: \x1b[2Jbad\n"
		_, err := e.Setup(t.Context(), o, src)
		if err == nil || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), `one | E: \x1b[2Jbad`) {
			t.Fatalf("%s: %v", step, err)
		}
		if len(b.published) > 0 {
			t.Fatal("published")
		}
		e.ResetRun()
	}
	b.fail, b.boots = "", 0
	r, err := e.Setup(t.Context(), o, src)
	if err != nil || b.boots != 1 || !r.Changed {
		t.Fatalf("%v, %d boots", err, b.boots)
	}
	if left, _ := filepath.Glob(filepath.Join(w.Dir, "templates", ".layers", tmpPrefix+"*")); len(left) > 0 {
		t.Errorf("%v remain", left)
	}
}

// A setup that is killed at any fault point is finished by the next one, and what it left is removed.
func TestSetupKilled(t *testing.T) {
	w, e, b, src := world(t)
	type killed struct{}
	points := map[string]bool{}
	for {
		at := ""
		e.Hook = func(p string) {
			if !points[p] {
				points[p], at = true, p
				panic(killed{})
			}
		}
		func() {
			defer func() {
				if v := recover(); v != nil && v != any(killed{}) {
					panic(v)
				}
			}()
			if _, err := e.Setup(t.Context(), Options{Packages: []string{"x"}, SetPackages: true}, src); err != nil {
				t.Fatal(err)
			}
		}()
		e.ResetRun()
		if at == "" {
			break
		}
	}
	if len(points) < 6 || len(b.published) != 1 || b.published[0].Key != "grow prepare apt tools node prepare apt clean " {
		t.Errorf("%v %v", points, b.published)
	}
	_ = w
}

// A truncated layer is made again, and what a killed run was writing is removed.
func TestDamagedLayer(t *testing.T) {
	_, e, b, src := world(t)
	if _, err := e.Setup(t.Context(), Options{}, src); err != nil {
		t.Fatal(err)
	}
	ls := e.layers()
	all, err := filepath.Glob(filepath.Join(ls.Dir, "*", layerDisk))
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if err := errors.Join(os.Chmod(all[0], 0o600), os.Truncate(all[0], 1), os.Mkdir(filepath.Join(ls.Dir, tmpPrefix+"1"), 0o700)); err != nil {
		t.Fatal(err)
	}
	b.boots, b.stale = 0, "the QEMU program changed"
	r, err := e.Setup(t.Context(), Options{}, src)
	if err != nil || b.boots != 2 || r.Why != b.stale {
		t.Errorf("%v: %d boots, %q", err, b.boots, r.Why)
	}
	if left, _ := filepath.Glob(filepath.Join(ls.Dir, tmpPrefix+"*")); len(left) > 0 {
		t.Errorf("%v remain", left)
	}
}

// A dry run shows the plan with sizes and changes nothing; without a terminal the plan is refused.
func TestSetupAsks(t *testing.T) {
	w, e, b, src := world(t)
	e.Approval = plan.Approval{}
	_, err := e.Setup(t.Context(), Options{}, src)
	var ue *ui.Error
	if !errors.As(err, &ue) || ue.Exit != ui.ExitApproval {
		t.Error(err)
	}
	e.DryRun = true
	_, err = e.Setup(t.Context(), Options{Packages: []string{"golang"}, SetPackages: true}, src)
	if err == nil || err.Error() != "dry run" {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "templates")); err == nil || b.boots != 0 {
		t.Error("something was written")
	}
	p := e.plan(facts{Source: Source{Cached: true}, Spec: Spec{Name: "x", ScriptSHA256: strings.Repeat("b", 64)}, Rebuild: "there is none", Steps: []stepFact{{step: step{name: stepTools}}, {step: step{name: stepScript}}}}, &work{Part: e})
	var text []string
	for _, a := range p.Actions {
		text = append(text, a.ID+": "+a.Why)
	}
	if got := strings.Join(text, "\n"); !strings.Contains(got, "downloads about") || !strings.Contains(got, "template.script: run") || !strings.Contains(got, saveID) {
		t.Error(got)
	}
}

// List tells what is ready, what is stale and why, and what was never built.
func TestList(t *testing.T) {
	w, e, b, src := world(t)
	l, err := e.List(t.Context())
	if err != nil || l == nil || len(l) != 0 {
		t.Fatal(l, err)
	}
	if _, err := e.Setup(t.Context(), Options{}, src); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(w.StorePath, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "\n[templates.web]\nimage = \"debian-12\"\n")
	f.Close()
	e.ResetRun()
	states := func() string {
		l, err := e.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, x := range l {
			out = append(out, x.Name+" "+x.State+" "+x.Why)
		}
		return strings.Join(out, "|")
	}
	if got := states(); got != "default ready |web stale it was not built" {
		t.Error(got)
	}
	b.published[0].Setup.Installed = time.Now().Add(-31 * 24 * time.Hour)
	if got := states(); !strings.HasPrefix(got, "default ready its packages are older than 30 days") {
		t.Error(got)
	}
	b.stale = "QEMU's version changed from 1 to 2"
	if got := states(); !strings.HasPrefix(got, "default stale QEMU's version changed from 1 to 2|") {
		t.Error(got)
	}
}
