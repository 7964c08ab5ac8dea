package cloudinit

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/filesystem"
)

// TestSeedIsFound reads the label as cloud-init's ds-identify does.
func TestSeedIsFound(t *testing.T) {
	out, err := exec.Command("blkid", "-p", "-o", "export", writeSeed(t)).Output()
	if err != nil {
		t.Fatalf("blkid: %v", err)
	}
	for _, want := range []string{"LABEL=cidata\n", "TYPE=iso9660\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("blkid printed\n%swithout %s", out, want)
		}
	}
}

// TestSeedReadsBack reads the files with another library.
func TestSeedReadsBack(t *testing.T) {
	disk, err := diskfs.Open(writeSeed(t), diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	fs, err := disk.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	if fs.Type() != filesystem.TypeISO9660 {
		t.Fatalf("file system type %v", fs.Type())
	}
	want := files(t, guest(t))
	entries, err := fs.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(want) {
		t.Errorf("%d entries, want %d", len(entries), len(want))
	}
	for name, content := range want {
		f, err := fs.OpenFile(name, os.O_RDONLY)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got, content) {
			t.Errorf("%s: read %d bytes back, wrote %d", name, len(got), len(content))
		}
	}
}

func TestSeedIsSmallAndReproducible(t *testing.T) {
	a, err := Seed(guest(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Seed(guest(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two seeds of one guest differ")
	}
	if len(a)%512 != 0 || len(a) > 64<<10 {
		t.Errorf("%d bytes", len(a))
	}
}

// TestImageEdges tests file sizes around a sector, and more files than fit into the
// directory.
func TestImageEdges(t *testing.T) {
	for _, n := range []int{0, 1, sectorSize - 1, sectorSize, sectorSize + 1} {
		image, err := isoImage("x", []isoFile{{"a", bytes.Repeat([]byte{'a'}, n)}, {"b", []byte("end")}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(image[len(image)-sectorSize:], []byte("end\x00")) {
			t.Errorf("%d bytes: the next file is not in the last sector", n)
		}
	}
	many := make([]isoFile, 40)
	for i := range many {
		many[i] = isoFile{name: strings.Repeat("x", 20)}
	}
	if _, err := isoImage("x", many); err == nil {
		t.Error("a directory of 40 files was accepted")
	}
}

func writeSeed(t *testing.T) string {
	t.Helper()
	b, err := Seed(guest(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed.img")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
