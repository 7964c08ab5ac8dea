package provision

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/editor"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/checks"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/host"
)

// noEditor returns the Env of a machine without editors.
func noEditor() editor.Env {
	e := editor.OSEnv()
	e.LookPath = func(string) (string, error) { return "", os.ErrNotExist }
	e.Stat = func(string) error { return os.ErrNotExist }
	e.Getenv = func(string) string { return "" }
	return e
}

func verdicts(st Diagnosis) map[string]host.Check {
	by := map[string]host.Check{}
	for _, c := range st.Checks {
		by[c.ID] = c
	}
	return by
}

// If libvirt refuses the user, doctor asks root for nothing without --sudo, and with it only to
// read libvirt and the firewall rules.
func TestDoctorAsksRootOnlyWithSudo(t *testing.T) {
	w := newWorld(t)
	w.Host.Euid = 4321
	w.Editor = noEditor()
	w.RootErr = errors.New("sudo failed")
	st, err := env(w).Doctor(context.Background(), DoctorOptions{})
	if err != nil || len(w.Ops) != 0 {
		t.Fatalf("%v, %v", w.Ops, err)
	}
	by := verdicts(st)
	if c := by["networks"]; c.State != host.Unknown || !strings.Contains(strings.Join(c.Fix, " "), "--sudo") {
		t.Errorf("%+v", c)
	}
	if by["libvirtd"].State != host.OK || st.Total == 0 || len(st.Fixed) != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := env(w).Doctor(context.Background(), DoctorOptions{Sudo: true}); err != nil {
		t.Fatal(err)
	}
	for _, op := range w.Ops {
		switch op.(type) {
		case root.LibvirtSocket, root.Ruleset:
		default:
			t.Errorf("asked root for %#v", op)
		}
	}
	if len(w.Ops) == 0 || !strings.Contains(w.Err.String(), "sudo failed") {
		t.Errorf("ops %v, printed %q", w.Ops, w.Err.String())
	}
}

// --fix plans repairs of bad checks that need no decision of the user.
func TestPlanFix(t *testing.T) {
	w := newWorld(t)
	w.Editor = noEditor()
	ssh := filepath.Join(w.Dir, "home", ".ssh")
	if err := os.MkdirAll(ssh, 0o777); err != nil {
		t.Fatal(err)
	}
	d := checks.DoctorFacts{
		Host: host.Facts{
			Arch: "amd64", CPUFlags: []string{"svm"}, KVM: host.KVMFact{Missing: true}, Systemd: true,
			OS: host.OSRelease{ID: "arch"}, Tools: map[string]string{},
		},
		Exam: host.Examination{UID: os.Getuid(), SSHPaths: []host.PathFact{
			{Path: ssh, Exist: true, Mode: 0o777, UID: os.Getuid()},
			{Path: "/another/user's", Exist: true, Mode: 0o777, UID: os.Getuid() + 1},
		}},
		StaleFirewalls: plan.Yes([]root.NetManifest{{Wall: wall.Wall{Network: "gone"}}}),
		VMs:            []checks.SSHEntry{{Plan: []plan.Action{{ID: "ssh.config:a"}, {ID: "ssh.include"}}}, {Plan: []plan.Action{{ID: "ssh.include"}}}},
	}
	d.Host.Libvirtd.Name = "libvirtd"
	var ids []string
	var chmod plan.Action
	for _, a := range env(w).planFix(d, editors.For(w.Loop).WithoutExtension(t.Context())).Actions {
		ids = append(ids, a.ID)
		if a.ID == "ssh.mode:"+ssh {
			chmod = a
		}
		if p, ok := a.Root.(root.Packages); ok && p.Manager != "pacman" {
			t.Errorf("%+v", p)
		}
		if m, ok := a.Root.(root.KVMModule); ok && m.Name != "kvm_amd" {
			t.Errorf("%+v", m)
		}
	}
	want := "host.packages host.service.libvirtd ssh.mode:" + ssh + " ssh.config:a ssh.include firewall.forget:gone host.kvm-module"
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := chmod.Do(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(ssh); err != nil || st.Mode().Perm()&0o022 != 0 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}
