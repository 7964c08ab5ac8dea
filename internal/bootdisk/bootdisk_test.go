package bootdisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testDisk makes a raw disk with a GPT and one ext4 partition that has two kernels, of
// which one has no modules.
func testDisk(t *testing.T, modules map[string]string) string {
	t.Helper()
	mke2fs, err := program("mke2fs", "e2fsprogs")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	files := map[string]string{
		"boot/vmlinuz-6.1.0-9-test":  "an older kernel",
		"boot/vmlinuz-6.1.0-10-test": "the kernel",
		"boot/vmlinuz-7.0":           "a kernel without modules",
		"boot/config-6.1.0-10-test":  "",
	}
	for _, release := range []string{"6.1.0-9-test", "6.1.0-10-test"} {
		for name, text := range modules {
			files["usr/lib/modules/"+release+"/"+name] = text
		}
	}
	for name, text := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(tree, "lib")); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "part")
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-U", "12345678-1234-1234-1234-123456789abc", "-d", tree, part, "16M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	content, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	const start = 2048
	disk := make([]byte, start*sector, start*sector+len(content))
	copy(disk[sector:], "EFI PART")
	le := binary.LittleEndian
	le.PutUint64(disk[sector+72:], 2)
	le.PutUint32(disk[sector+80:], 4)
	le.PutUint32(disk[sector+84:], 128)
	for i := range 2 { // the first is not a file system
		copy(disk[2*sector+128*i:], "a partition type")
		le.PutUint64(disk[2*sector+128*i+32:], uint64(1024*(i+1)))
	}
	path := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(path, append(disk, content...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const testDep = `kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/lib/crc16.ko:
kernel/drivers/block/virtio_blk.ko:
kernel/drivers/char/hw_random/virtio-rng.ko:
kernel/sound/beep.ko:
`

func testModules() map[string]string {
	return map[string]string{
		"modules.dep":                                 testDep,
		"kernel/fs/ext4/ext4.ko":                      "ext4",
		"kernel/fs/jbd2/jbd2.ko":                      "jbd2",
		"kernel/lib/crc16.ko":                         "crc16",
		"kernel/drivers/block/virtio_blk.ko":          "blk",
		"kernel/drivers/char/hw_random/virtio-rng.ko": "rng",
		"kernel/sound/beep.ko":                        "beep",
	}
}

// TestExtract takes kernel and modules out of a real file system, raw and as qcow2.
func TestExtract(t *testing.T) {
	disk := testDisk(t, testModules())
	images := []string{disk}
	if _, err := exec.LookPath("qemu-img"); err == nil {
		q := disk + ".qcow2"
		if out, err := exec.Command("qemu-img", "convert", "-c", "-O", "qcow2", disk, q).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		images = append(images, q)
	}
	for _, image := range images {
		dir := t.TempDir()
		b, err := Extract(t.Context(), image, dir, []byte("agent"))
		if err != nil {
			t.Fatal(err)
		}
		if b.Release != "6.1.0-10-test" || b.RootUUID != "12345678-1234-1234-1234-123456789abc" || !strings.HasSuffix(b.Append, " aivm.root=UUID="+b.RootUUID) {
			t.Errorf("%+v", b)
		}
		if k, err := os.ReadFile(b.Kernel); err != nil || string(k) != "the kernel" {
			t.Errorf("%q %v", k, err)
		}
		initrd, err := os.ReadFile(b.Initrd)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"init\x00", "agent", "/modules/virtio_blk.ko\n/modules/virtio_rng.ko\n/modules/crc16.ko\n/modules/jbd2.ko\n/modules/ext4.ko\n"} {
			if !bytes.Contains(initrd, []byte(want)) {
				t.Errorf("%q is not in the initrd", want)
			}
		}
		if bytes.Contains(initrd, []byte("beep")) {
			t.Error("a module that nothing needs is in the initrd")
		}
		ents, _ := os.ReadDir(dir)
		if len(ents) != 2 {
			t.Errorf("remaining files: %v", ents)
		}
		if cpio, err := exec.LookPath("cpio"); err == nil {
			cmd := exec.Command(cpio, "-t")
			cmd.Stdin = bytes.NewReader(initrd)
			if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("modules/ext4.ko\n")) {
				t.Errorf("cpio: %v\n%s", err, out)
			}
		}
	}
}

func TestExtractRefuses(t *testing.T) {
	missing := testModules()
	delete(missing, "kernel/fs/jbd2/jbd2.ko")
	for name, c := range map[string]struct {
		image func() string
		want  string
	}{
		"a module is missing": {func() string { return testDisk(t, missing) }, "has no file"},
		"no modules.dep":      {func() string { return testDisk(t, map[string]string{"modules.alias": "x"}) }, "has no file"},
		"no file system": {func() string {
			path := filepath.Join(t.TempDir(), "x")
			if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, "no ext4 partition"},
	} {
		dir := t.TempDir()
		_, err := Extract(t.Context(), c.image(), dir, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestModuleOrder(t *testing.T) {
	for _, c := range []struct {
		name, dep string
		want      []string
		err       string
	}{
		{"order", "k/b.ko: k/a.ko\nk/a.ko:\nk/c.ko: k/b.ko k/a.ko\n", []string{"k/a.ko", "k/b.ko", "k/c.ko"}, ""},
		{"compressed, dash", "k/b.ko.xz:\nk/c.ko.zst: k/b.ko.xz\n", []string{"k/b.ko.xz", "k/c.ko.zst"}, ""},
		{"cycle", "k/b.ko: k/c.ko\nk/c.ko: k/b.ko\n", []string{"k/c.ko", "k/b.ko"}, ""},
		{"built in", "k/x.ko:\n", nil, ""},
		{"missing", "k/b.ko: k/q.ko\n", nil, "does not list"},
		{"outside", "../../b.ko:\n/etc/c.ko:\nk/c .ko:\n", nil, ""},
	} {
		got, err := moduleOrder(c.dep, []string{"b", "c"})
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || err == nil && fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %q %v", c.name, got, err)
		}
	}
	var long strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&long, "k/m%d.ko: k/m%d.ko\n", i, i+1)
	}
	long.WriteString("k/m1000.ko:\nk/b.ko: k/m0.ko\n")
	if _, err := moduleOrder(long.String(), []string{"b"}); err == nil {
		t.Error("a thousand modules were accepted")
	}
}

func TestUnpack(t *testing.T) {
	for ext, tool := range map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			continue
		}
		cmd := exec.Command(path, "-c")
		cmd.Stdin = strings.NewReader("a module")
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unpack(t.Context(), "k/a.ko"+ext, packed); err != nil || string(got) != "a module" {
			t.Errorf("%s: %q %v", ext, got, err)
		}
		if _, err := unpack(t.Context(), "k/a.ko"+ext, []byte("garbage")); err == nil {
			t.Errorf("%s: garbage accepted", ext)
		}
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct{ a, b string }{
		{"6.1.0-10-amd64", "6.1.0-9-amd64"}, {"6.12.1", "6.9.30"}, {"6.1.0-57-cloud-amd64", "5.10.0-99-cloud-amd64"}, {"6.1.1", "6.1"},
	} {
		if !newer(c.a, c.b) || newer(c.b, c.a) {
			t.Errorf("%s is not newer than %s", c.a, c.b)
		}
	}
}

// TestOverlay lets qemu-img check the overlays that Overlay writes.
func TestOverlay(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "o.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int64{512, 1 << 20, 8 << 30, 4<<40 - 512, 4 << 40} {
		if err := Overlay(f, size); err != nil {
			t.Fatal(err)
		}
		if i, err := Inspect(f); err != nil || i != (Image{"qcow2", size}) {
			t.Errorf("%d: %+v %v", size, i, err)
		}
		if tool, err := exec.LookPath("qemu-img"); err == nil {
			if out, err := exec.Command(tool, "check", f.Name()).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No errors")) {
				t.Errorf("%d: %v\n%s", size, err, out)
			}
		}
	}
	for _, size := range []int64{0, -512, 1000, 4<<40 + 512} {
		if err := Overlay(f, size); err == nil {
			t.Errorf("%d bytes accepted", size)
		}
	}
}

// TestInspectRefuses reads headers with which an image could have QEMU read other
// files of this machine.
func TestInspectRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "i"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, change := range map[string]func(b []byte){
		"backing file": func(b []byte) { b[15] = 104 },
		"data file":    func(b []byte) { b[79] |= incompatData },
		"encrypted":    func(b []byte) { b[35] = 1 },
		"version":      func(b []byte) { b[7] = 9 },
		"huge":         func(b []byte) { b[24] = 0xff },
	} {
		if err := Overlay(f, 1<<20); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, qcowHeaderLen)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		change(b)
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(f); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(qcowMagic), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(f); err == nil {
		t.Error("a header of four bytes was accepted")
	}
}

// FuzzPartitions reads partition tables that a guest may have written.
func FuzzPartitions(f *testing.F) {
	f.Add([]byte("EFI PART"), uint32(128), uint32(128), uint64(2))
	f.Add([]byte("EFI PART"), uint32(1<<31), uint32(1<<31), uint64(1<<63))
	f.Fuzz(func(t *testing.T, sig []byte, count, size uint32, at uint64) {
		disk := make([]byte, 64<<10)
		copy(disk[sector:], sig)
		binary.LittleEndian.PutUint64(disk[sector+72:], at)
		binary.LittleEndian.PutUint32(disk[sector+80:], count)
		binary.LittleEndian.PutUint32(disk[sector+84:], size)
		if p, err := ext4Partitions(bytes.NewReader(disk)); err == nil {
			t.Errorf("found %v", p)
		}
	})
}
