package exportroot_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/exportroot"
	"aivm.dev/aivm/internal/root/record"
)

func TestOldShares(t *testing.T) {
	base := t.TempDir()
	for _, bad := range []record.OldShares{{BaseDir: "/", VM: "a"}, {BaseDir: base, VM: ".."}, {BaseDir: base, VM: ""}, {BaseDir: "rel", VM: "a"}, {BaseDir: base + "/../x", VM: "a"}, {BaseDir: base, VM: "a/b"}} {
		if record.Check(bad, -1) == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	o := record.OldShares{BaseDir: base, VM: "old-vm"}
	if err := record.Check(o, 1000); err != nil {
		t.Fatal(err)
	}
	if err := exportroot.RemoveOldShares(o); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	top := record.OldSharesDir(base, "old-vm")
	src := t.TempDir()
	for _, d := range []string{top + "/p", top + "/empty", top + "/kept", base + "/old-vm/images"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{src + "/own", top + "/kept/file"} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(src, top+"/p", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(top+"/p", unix.MNT_DETACH) })
	if err := exportroot.RemoveOldShares(o); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{src + "/own": true, top + "/p": false, top + "/empty": false, top + "/kept/file": true, base + "/old-vm/images": true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	_ = os.Remove(top + "/kept/file")
	_ = os.Remove(base + "/old-vm/images")
	if err := exportroot.RemoveOldShares(o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(top)); err == nil {
		t.Error("the empty directories are still there")
	}
	// Links are not followed, and directories that others can write are refused.
	if err := os.MkdirAll(base+"/old-vm", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(src, top); err != nil {
		t.Fatal(err)
	}
	if err := exportroot.RemoveOldShares(o); err == nil {
		t.Error("followed a link")
	}
	_ = os.Remove(top)
	if err := os.Mkdir(top, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(top, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := exportroot.RemoveOldShares(o); err == nil {
		t.Error("trusted a directory anybody may write")
	}
}
