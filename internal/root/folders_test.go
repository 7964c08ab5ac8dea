package root

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

func table(t *testing.T) []mountinfo.Mount {
	t.Helper()
	ms, err := mountinfo.Read(mountinfo.Self)
	must(t, err)
	return ms
}

// The export root cannot be written through, and a token without a folder is
// told by its mode.
func TestExportRootIsReadOnly(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	exp := ExportRoot(testKey)
	if err := os.Mkdir(filepath.Join(exp, "x"), 0o755); err == nil {
		t.Error("a directory was made in the export root")
	}
	src := folder(t, filepath.Join(work, "p"), owner, 0o755)
	do(t, bindOf(t, src, "p"))
	must(t, os.WriteFile(filepath.Join(exp, "p", "f"), nil, 0o600))
	must(t, unix.Unmount(filepath.Join(exp, "p"), 0))
	st, err := os.Stat(filepath.Join(exp, "p"))
	if must(t, err); st.Mode() != os.ModeDir {
		t.Errorf("an empty token has mode %v", st.Mode())
	}
	do(t, Unbind{VMKey: testKey, Token: "p"})
	// One an older aivm made becomes read-only at the next VM start.
	must(t, unix.MountSetattr(unix.AT_FDCWD, exp, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	do(t, Export{VMKey: testKey})
	if m := one(t, exp); !m.Has("ro") {
		t.Errorf("options %v", m.Options)
	}
	do(t, Unexport{VMKey: testKey})
}

// After a reboot libvirt's hook puts back what was bound, before the VM starts.
func TestHookBringsFoldersBack(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	exp := ExportRoot(testKey)
	names := []string{"kept", "gone", "linked", "theirs", "anew", "let-go"}
	do(t, Export{VMKey: testKey})
	if m, err := ReadVMManifest(testKey); err != nil || len(m.Folders) != 0 {
		t.Errorf("%+v %v", m, err)
	}
	for _, n := range names {
		b := bindOf(t, folder(t, filepath.Join(work, "w", n), owner, 0o755), n)
		b.RO = n == "anew"
		do(t, b)
	}
	do(t, Unbind{VMKey: testKey, Token: "let-go"})
	// Bound again, nothing is written.
	before, err := os.Stat(vmManifest(testKey))
	must(t, err)
	do(t, bindOf(t, filepath.Join(work, "w", "kept"), "kept"))
	after, err := os.Stat(vmManifest(testKey))
	if must(t, err); !os.SameFile(before, after) || before.Mode() != 0o644 {
		t.Errorf("written again, or with mode %v", before.Mode())
	}

	reboot := func() {
		t.Helper()
		for _, m := range mountinfo.Below(table(t), exp) {
			must(t, unix.Unmount(m.Point, 0))
		}
		must(t, unix.Unmount(exp, 0))
	}
	reboot()
	must(t, os.Remove(filepath.Join(work, "w", "gone")))
	must(t, os.Rename(filepath.Join(work, "w", "linked"), filepath.Join(work, "w", "away")))
	must(t, os.Symlink("/etc", filepath.Join(work, "w", "linked")))
	must(t, os.Chown(filepath.Join(work, "w", "theirs"), owner+1, owner))
	must(t, os.Remove(filepath.Join(work, "w", "anew")))
	folder(t, filepath.Join(work, "w", "anew"), owner, 0o700)
	hook := func(mark string) error {
		return RunHook(t.Context(), []string{"qemu", "a", "prepare", "begin", "-"},
			strings.NewReader(`<domain><name>a</name><metadata>`+mark+`</metadata></domain>`), io.Discard)
	}
	const ours = `<aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/>`
	// Somebody else's VM of that name has nothing to do with it.
	for _, mark := range []string{"", `<m:mark xmlns:m="urn:other" owner="0"/>`, strings.Replace(ours, `"0"`, `"7"`, 1)} {
		must(t, hook(mark))
		if len(mountinfo.At(table(t), exp)) != 0 {
			t.Fatalf("mounted for %q", mark)
		}
	}
	for range 2 {
		must(t, hook(ours))
		var got []string
		for _, m := range mountinfo.Below(table(t), exp) {
			got = append(got, filepath.Base(m.Point)+map[bool]string{true: " ro"}[m.Has("ro")])
			if !m.Has("nosuid") || !m.Has("idmapped") {
				t.Errorf("%s: options %v", m.Point, m.Options)
			}
		}
		if strings.Join(got, ", ") != "kept, anew ro" {
			t.Errorf("mounted %v", got)
		}
		if _, shared := one(t, exp).Shared(); !shared {
			t.Error("the export root is not shared")
		}
	}
	// What cannot be read is no reason to keep a VM off.
	good, err := os.ReadFile(vmManifest(testKey))
	must(t, err)
	must(t, os.WriteFile(vmManifest(testKey), []byte("{"), 0o644))
	must(t, hook(ours))
	do(t, bindOf(t, filepath.Join(work, "w", "kept"), "kept"))
	if m, err := ReadVMManifest(testKey); err != nil || len(m.Folders) != 1 {
		t.Errorf("%+v %v", m, err)
	}
	must(t, os.WriteFile(vmManifest(testKey), good, 0o644))
	reboot()
	do(t, Unexport{VMKey: testKey})
	if _, err := os.Lstat(vmManifest(testKey)); !os.IsNotExist(err) {
		t.Errorf("the manifest stays: %v", err)
	}
}

// The hook reaches a folder with its owner's rights and not with root's.
func TestHookOpensAsTheOwner(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	must(t, os.Chmod(work, 0o755))
	closed := folder(t, filepath.Join(work, "closed"), 0, 0o700)
	in := folder(t, filepath.Join(closed, "in"), owner, 0o755)
	if fd, err := openFolderAs(in, owner); err == nil {
		unix.Close(fd)
		t.Error("a folder its owner cannot reach was opened")
	}
	must(t, os.Chmod(closed, 0o711))
	fd, err := openFolderAs(in, owner)
	must(t, err)
	unix.Close(fd)
	// This process is as it was.
	if b, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(b), "Uid:\t0\t0\t0\t0") {
		t.Errorf("%v\n%s", err, b)
	}
}

// A mount that is busy stays, and stays noted.
func TestBusyFolderStaysNoted(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	do(t, bindOf(t, folder(t, filepath.Join(work, "p"), owner, 0o755), "p"))
	f, err := os.Open(filepath.Join(ExportRoot(testKey), "p"))
	must(t, err)
	refuses(t, Unbind{VMKey: testKey, Token: "p"}, "in use")
	if m, err := ReadVMManifest(testKey); err != nil || len(m.Folders) != 1 {
		t.Errorf("%+v %v", m, err)
	}
	must(t, f.Close())
	do(t, Unbind{VMKey: testKey, Token: "p"})
	if m, err := ReadVMManifest(testKey); err != nil || len(m.Folders) != 0 {
		t.Errorf("%+v %v", m, err)
	}
}

// Two VMs may have one folder, each in its own way.
func TestTwoVMsWithOneFolder(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	src := folder(t, filepath.Join(work, "p"), owner, 0o755)
	for _, key := range []string{"0-a", "0-b"} {
		do(t, Export{VMKey: key})
		b := bindOf(t, src, "p")
		b.VMKey, b.RO = key, key == "0-b"
		do(t, b)
	}
	do(t, Unbind{VMKey: "0-a", Token: "p"})
	do(t, Unexport{VMKey: "0-a"})
	if m := one(t, filepath.Join(ExportRoot("0-b"), "p")); !m.Has("ro") {
		t.Errorf("options %v", m.Options)
	}
	if m, err := ReadVMManifest("0-b"); err != nil || len(m.Folders) != 1 || !m.Folders[0].RO {
		t.Errorf("%+v %v", m, err)
	}
}
