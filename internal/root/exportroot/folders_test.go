package exportroot_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/exportroot"
	"aivm.dev/aivm/internal/root/hookrun"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// Nobody can write into the export root, and a token without a folder has mode 0.
func TestExportRootIsReadOnly(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	exp := rootfile.ExportRoot(roottest.Key)
	if err := os.Mkdir(filepath.Join(exp, "x"), 0o755); err == nil {
		t.Error("a directory was made in the export root")
	}
	src := roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755)
	roottest.Do(t, roottest.BindOf(t, src, "p"))
	roottest.Must(t, os.WriteFile(filepath.Join(exp, "p", "f"), nil, 0o600))
	roottest.Must(t, unix.Unmount(filepath.Join(exp, "p"), 0))
	st, err := os.Stat(filepath.Join(exp, "p"))
	if roottest.Must(t, err); st.Mode() != os.ModeDir {
		t.Errorf("an empty token has mode %v", st.Mode())
	}
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
	// An export root of an older aivm becomes read-only at the next VM start.
	roottest.Must(t, unix.MountSetattr(unix.AT_FDCWD, exp, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	if m := roottest.One(t, exp); !m.Has("ro") {
		t.Errorf("options %v", m.Options)
	}
	roottest.Do(t, record.Unexport{VMKey: roottest.Key})
}

// After a reboot libvirt's hook mounts the recorded folders before the VM starts.
func TestHookMountsFoldersAgain(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	exp := rootfile.ExportRoot(roottest.Key)
	names := []string{"kept", "gone", "linked", "chowned", "recreated", "unbound"}
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	if m, err := manifest.ReadVM(roottest.Key); err != nil || len(m.Folders) != 0 {
		t.Errorf("%+v %v", m, err)
	}
	for _, n := range names {
		b := roottest.BindOf(t, roottest.Folder(t, filepath.Join(work, "w", n), roottest.Owner, 0o755), n)
		b.RO = n == "recreated"
		roottest.Do(t, b)
	}
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "unbound"})
	// A second bind of the same folder writes nothing.
	before, err := os.Stat(rootfile.VMManifestPath(roottest.Key))
	roottest.Must(t, err)
	roottest.Do(t, roottest.BindOf(t, filepath.Join(work, "w", "kept"), "kept"))
	after, err := os.Stat(rootfile.VMManifestPath(roottest.Key))
	if roottest.Must(t, err); !os.SameFile(before, after) || before.Mode() != 0o644 {
		t.Errorf("the manifest was written again, or has mode %v", before.Mode())
	}

	reboot := func() {
		t.Helper()
		for _, m := range mountinfo.Below(roottest.MountTable(t), exp) {
			roottest.Must(t, unix.Unmount(m.Point, 0))
		}
		roottest.Must(t, unix.Unmount(exp, 0))
	}
	reboot()
	roottest.Must(t, os.Remove(filepath.Join(work, "w", "gone")))
	roottest.Must(t, os.Rename(filepath.Join(work, "w", "linked"), filepath.Join(work, "w", "away")))
	roottest.Must(t, os.Symlink("/etc", filepath.Join(work, "w", "linked")))
	roottest.Must(t, os.Chown(filepath.Join(work, "w", "chowned"), roottest.Owner+1, roottest.Owner))
	roottest.Must(t, os.Remove(filepath.Join(work, "w", "recreated")))
	roottest.Folder(t, filepath.Join(work, "w", "recreated"), roottest.Owner, 0o700)
	hook := func(mark string) error {
		return hookrun.Run(t.Context(), hookrun.LockLimit, []string{"qemu", "a", "prepare", "begin", "-"},
			strings.NewReader(`<domain><name>a</name><metadata>`+mark+`</metadata></domain>`), io.Discard)
	}
	const ownMark = `<aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/>`
	// Another user's VM of that name, or another program's, gets no folders.
	for _, mark := range []string{"", `<m:mark xmlns:m="urn:other" owner="0"/>`, strings.Replace(ownMark, `"0"`, `"7"`, 1)} {
		roottest.Must(t, hook(mark))
		if len(mountinfo.At(roottest.MountTable(t), exp)) != 0 {
			t.Fatalf("mounted for %q", mark)
		}
	}
	for range 2 {
		roottest.Must(t, hook(ownMark))
		var got []string
		for _, m := range mountinfo.Below(roottest.MountTable(t), exp) {
			got = append(got, filepath.Base(m.Point)+map[bool]string{true: " ro"}[m.Has("ro")])
			if !m.Has("nosuid") || !m.Has("idmapped") {
				t.Errorf("%s: options %v", m.Point, m.Options)
			}
		}
		if strings.Join(got, ", ") != "kept, recreated ro" {
			t.Errorf("mounted %v", got)
		}
		if _, shared := roottest.One(t, exp).Shared(); !shared {
			t.Error("the export root is not shared")
		}
	}
	// A manifest that cannot be read does not keep the VM from starting.
	good, err := os.ReadFile(rootfile.VMManifestPath(roottest.Key))
	roottest.Must(t, err)
	roottest.Must(t, os.WriteFile(rootfile.VMManifestPath(roottest.Key), []byte("{"), 0o644))
	roottest.Must(t, hook(ownMark))
	roottest.Do(t, roottest.BindOf(t, filepath.Join(work, "w", "kept"), "kept"))
	if m, err := manifest.ReadVM(roottest.Key); err != nil || len(m.Folders) != 1 {
		t.Errorf("%+v %v", m, err)
	}
	roottest.Must(t, os.WriteFile(rootfile.VMManifestPath(roottest.Key), good, 0o644))
	reboot()
	roottest.Do(t, record.Unexport{VMKey: roottest.Key})
	if _, err := os.Lstat(rootfile.VMManifestPath(roottest.Key)); !os.IsNotExist(err) {
		t.Errorf("the manifest was not removed: %v", err)
	}
}

// The hook opens a folder with its owner's rights and not with root's.
func TestHookOpensAsTheOwner(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Must(t, os.Chmod(work, 0o755))
	closed := roottest.Folder(t, filepath.Join(work, "closed"), 0, 0o700)
	in := roottest.Folder(t, filepath.Join(closed, "in"), roottest.Owner, 0o755)
	if fd, err := exportroot.OpenFolderAs(in, roottest.Owner); err == nil {
		unix.Close(fd)
		t.Error("a folder that its owner cannot reach was opened")
	}
	roottest.Must(t, os.Chmod(closed, 0o711))
	fd, err := exportroot.OpenFolderAs(in, roottest.Owner)
	roottest.Must(t, err)
	unix.Close(fd)
	// The credentials of this process did not change.
	if b, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(b), "Uid:\t0\t0\t0\t0") {
		t.Errorf("%v\n%s", err, b)
	}
}

// A busy mount stays, and so does its record.
func TestBusyFolderStaysRecorded(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	roottest.Do(t, roottest.BindOf(t, roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755), "p"))
	f, err := os.Open(filepath.Join(rootfile.ExportRoot(roottest.Key), "p"))
	roottest.Must(t, err)
	roottest.Refuses(t, record.Unbind{VMKey: roottest.Key, Token: "p"}, "in use")
	if m, err := manifest.ReadVM(roottest.Key); err != nil || len(m.Folders) != 1 {
		t.Errorf("%+v %v", m, err)
	}
	roottest.Must(t, f.Close())
	roottest.Do(t, record.Unbind{VMKey: roottest.Key, Token: "p"})
	if m, err := manifest.ReadVM(roottest.Key); err != nil || len(m.Folders) != 0 {
		t.Errorf("%+v %v", m, err)
	}
}

// Two VMs may share one folder with different access.
func TestTwoVMsWithOneFolder(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	src := roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755)
	for _, key := range []string{"0-a", "0-b"} {
		roottest.Do(t, record.Export{VMKey: key})
		b := roottest.BindOf(t, src, "p")
		b.VMKey, b.RO = key, key == "0-b"
		roottest.Do(t, b)
	}
	roottest.Do(t, record.Unbind{VMKey: "0-a", Token: "p"})
	roottest.Do(t, record.Unexport{VMKey: "0-a"})
	if m := roottest.One(t, filepath.Join(rootfile.ExportRoot("0-b"), "p")); !m.Has("ro") {
		t.Errorf("options %v", m.Options)
	}
	if m, err := manifest.ReadVM("0-b"); err != nil || len(m.Folders) != 1 || !m.Folders[0].RO {
		t.Errorf("%+v %v", m, err)
	}
}
