package state

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// A folder's record keeps the time of the first one, is readable by its owner only, and leaves
// no temporary file.
func TestSaveChecksums(t *testing.T) {
	d := Dir{Layout: sshcfg.Layout{StateDir: t.TempDir()}}
	a := share.Attachment{VM: "work", HostPath: "/home/p/x"}
	before := time.Now().Add(-time.Minute)
	if err := d.SaveChecksums(a, hostexec.List{Cut: "first"}); err != nil {
		t.Fatal(err)
	}
	first := d.AttachedAt(a)
	if first.Before(before) || first.After(time.Now().Add(time.Minute)) {
		t.Errorf("attached at %v", first)
	}
	if err := d.SaveChecksums(a, hostexec.List{Cut: "second"}); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Checksums(a); err != nil || s.Cut != "second" || !s.Attached.Equal(first) {
		t.Errorf("%+v %v", s, err)
	}
	if st, err := os.Stat(d.ChecksumsPath(a)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	if l, err := os.ReadDir(filepath.Dir(d.ChecksumsPath(a))); err != nil || len(l) != 1 {
		t.Errorf("%v %v", l, err)
	}
}

// A run that is killed while it writes leaves a temporary file, which must not keep the
// directory of a deleted VM. Files that are not aivm's stay.
func TestForgetKilledWrites(t *testing.T) {
	d := Dir{Layout: sshcfg.Layout{StateDir: t.TempDir()}}
	d.SaveSettings("none", "x") // no directory: not written, no error
	for _, vm := range []string{"work", "mine"} {
		if err := os.MkdirAll(d.VM(vm), 0o700); err != nil {
			t.Fatal(err)
		}
		d.SaveSettings(vm, "x")
		if d.Settings(vm) != "x" {
			t.Error("not saved")
		}
		if err := os.WriteFile(filepath.Join(d.VM(vm), ".settings.state712"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(d.VM("mine"), "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Forget("work")
	d.Forget("mine")
	if _, err := os.Stat(d.VM("work")); !os.IsNotExist(err) {
		t.Error("the directory is still there")
	}
	if l, err := os.ReadDir(d.VM("mine")); err != nil || len(l) != 1 || l[0].Name() != "notes" {
		t.Errorf("%v %v", l, err)
	}
}
