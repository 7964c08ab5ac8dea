package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// For every os-release file of testdata: the command that installs everything on a machine without
// any tools, for VMs and for building an image, or the refusal.
func TestPackagesOfEverySystem(t *testing.T) {
	files, err := filepath.Glob("testdata/os-release/*")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	var b strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f := Observe(bare(string(text)).env())
		fmt.Fprintf(&b, "== %s: %s\n", filepath.Base(file), f.OS.Name)
		for _, need := range []Need{{}, {Image: true}} {
			as, err := PlanPackages(f, need)
			var e *ui.Error
			switch {
			case errors.As(err, &e):
				fmt.Fprintf(&b, "refused: %s\n", e.Message)
				for _, h := range e.HintLines() {
					fmt.Fprintf(&b, "   hint: %s\n", h)
				}
			case err != nil || len(as) != 1 || len(as[0].Shows) != 1:
				t.Errorf("%s: %v %v", file, as, err)
			default:
				if _, ok := as[0].Root.(root.Packages); !ok {
					t.Errorf("%s: %#v", file, as[0].Root)
				}
				fmt.Fprintf(&b, "%s\n", as[0].Shows[0])
			}
		}
	}
	golden(t, "packages.golden", b.String())
}

func TestImmutableSystems(t *testing.T) {
	silverblue := bare("PRETTY_NAME=\"Fedora Linux 42 (Silverblue)\"\nID=fedora\nVERSION_ID=42\n")
	silverblue.files["/run/ostree-booted"] = ""
	f := Observe(silverblue.env())
	if fix := FixPackages(f, []string{"virtiofsd"}); f.Immutable != "rpm-ostree" || len(fix) != 2 || fix[0] != "sudo rpm-ostree install --idempotent virtiofsd" {
		t.Errorf("%q %q", f.Immutable, fix)
	}
	if _, err := Plan(f, Need{}); ui.ExitCode(err) != ui.ExitRefused {
		t.Errorf("packages are planned although the system is immutable: %v", err)
	}
}

// Fedora, RHEL and openSUSE have a modular libvirt only.
func TestModularLibvirt(t *testing.T) {
	parts := func(change func(*fakeEnv)) Facts {
		e := full()
		e.files["/etc/os-release"] = fedora
		delete(e.files, "/run/libvirt/libvirt-sock")
		e.execs = append([]string{"/usr/sbin/virtqemud"}, without(allExecs, []string{"/usr/sbin/libvirtd", "/usr/bin/qemu-system-x86_64"})...)
		e.execs = append(e.execs, "/usr/libexec/qemu-kvm")
		change(&e)
		return Observe(e.env())
	}
	sockets := func(e *fakeEnv, names ...string) {
		for _, n := range names {
			e.files["/run/libvirt/"+n] = ""
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*fakeEnv)
		want   string
	}{
		{"nothing listens", func(*fakeEnv) {}, "systemctl start virtqemud.socket, systemctl start virtnetworkd.socket, systemctl start virtstoraged.socket"},
		{"all listen", func(e *fakeEnv) { sockets(e, "virtqemud-sock", "virtnetworkd-sock", "virtstoraged-sock") }, ""},
		{"networks do not", func(e *fakeEnv) { sockets(e, "virtqemud-sock", "virtstoraged-sock") }, "systemctl start virtnetworkd.socket"},
		{"a proxy listens for them", func(e *fakeEnv) { sockets(e, "libvirt-sock") }, ""},
		{"one daemon beside the parts", func(e *fakeEnv) { e.execs = append(e.execs, "/usr/sbin/libvirtd") }, "systemctl start libvirtd"},
		{"without systemd", func(e *fakeEnv) { delete(e.files, "/run/systemd/system/x") }, "virtqemud -d, virtnetworkd -d, virtstoraged -d"},
	} {
		f := parts(tt.change)
		as, err := Plan(f, Need{})
		var shows []string
		for _, a := range as {
			shows = append(shows, a.Shows...)
		}
		if got := strings.Join(shows, ", "); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}
