package share

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// boot runs the boot script and returns its output, which has only complaints.
func (g *guest) boot() string {
	g.t.Helper()
	b, err := os.ReadFile(bootPath)
	must(g.t, err)
	cmd := exec.Command("sh", "-s")
	cmd.Stdin = strings.NewReader(here.Replace(string(b)))
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Errorf("%v\n%s", err, out)
	}
	return string(out)
}

func (g *guest) down(atts ...Attachment) {
	g.t.Helper()
	for _, a := range innermostFirst(atts) {
		must(g.t, unix.Unmount(a.GuestDst, 0))
	}
}

// After a reboot the guest mounts the folders of its list that the host has mounted.
func TestBoot(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	g, at := newGuest(t), filepath.Join(work, "g")
	a := g.token("/h/a", at+"/it's $HOME\\040\ta")
	must(t, os.Mkdir(filepath.Join(ExportMount, Token("/h/a"), "in"), 0o755))
	in := g.token("/h/a/in", a.GuestDst+"/in")
	lost, full, unbound := g.token("/h/lost", at+"/lost"), g.token("/h/full", at+"/full"), g.token("/h/unbound", at+"/unbound")
	all := []Attachment{a, in, lost, full, unbound}
	g.mounts(len(all), all...)
	for _, p := range []string{bootListPath, bootPath, unitPath, wantsPath} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(here.Replace("/etc/environment")); err != nil || string(b) != environment {
		t.Errorf("%v %q", err, b)
	}
	if out, err := exec.Command("sh", "-n", bootPath).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	g.down(all...)
	must(t, os.RemoveAll(a.GuestDst))
	must(t, os.Remove(filepath.Join(ExportMount, Token(lost.HostPath))))
	must(t, os.WriteFile(full.GuestDst+"/mine", nil, 0o644))
	must(t, os.Chmod(filepath.Join(ExportMount, Token(unbound.HostPath)), 0))
	if out := g.boot(); !strings.Contains(out, "there are files in it: "+full.GuestDst) {
		t.Errorf("printed %q", out)
	}
	f := g.probe(all)
	for _, x := range all {
		err := Verify(f, g.host, x)
		if wanted := x == a || x == in; wanted != (err == nil) {
			t.Errorf("%s: %v", x.HostPath, err)
		}
	}
	// A folder taken off the list is unmounted if it is still mounted.
	g.down(in)
	script, _, err := PlanGuest(g.probe([]Attachment{lost}), g.host, nil)
	must(t, err)
	cmd := exec.Command("sh", "-s")
	cmd.Stdin = strings.NewReader(here.Replace(script))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if err := Verify(g.probe([]Attachment{a}), g.host, a); err == nil || !strings.Contains(err.Error(), "nothing is mounted") {
		t.Errorf("off the list, but Verify: %v", err)
	}
	if b, err := os.ReadFile(bootListPath); err != nil || strings.Count(string(b), "\n") != 1 {
		t.Errorf("%v %q", err, b)
	}
}

// Two hundred folders take two hundred mounts and a handful of programs.
func TestTwoHundredFolders(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	g := newGuest(t)
	var all []Attachment
	for i := range 200 {
		all = append(all, g.token(fmt.Sprintf("/h/%d", i), filepath.Join(work, "g", fmt.Sprintf("many/%d", i))))
	}
	g.mounts(200, all...)
	g.down(all...)
	began := time.Now()
	if n, err := g.run(all...); n != 200 || err != nil {
		t.Fatalf("mounted %d: %v", n, err)
	}
	t.Logf("mounted again in %v", time.Since(began))
	script, _, err := PlanGuest(GuestFacts{}, g.host, all)
	must(t, err)
	if n := strings.Count(script, "\nmounts\n"); n != 1 {
		t.Errorf("%d mount processes", n)
	}
	if n := len(GuestProbe(all)); n > 64<<10 {
		t.Errorf("the probe has %d bytes", n)
	}
	began = time.Now()
	g.probe(all)
	t.Logf("probed in %v", time.Since(began))
	g.down(all...)
	if out := g.boot(); out != "" {
		t.Errorf("printed %q", out)
	}
	f := g.probe(all)
	for _, a := range all {
		if err := Verify(f, g.host, a); err != nil {
			t.Fatal(err)
		}
	}
}
