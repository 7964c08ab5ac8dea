package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestGrown(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	root := partition{127 * mib, 3*gib - 128*mib} // as in Debian's images: its end is 1 MiB before the disk's
	before := []partition{{1 * mib, 3 * mib}, {4 * mib, 123 * mib}}
	for _, test := range []struct {
		name   string
		disk   int64
		p      partition
		others []partition
		want   int64
	}{
		{"a larger disk", 8 * gib, root, before, 8*gib - 128*mib},
		{"the only partition", 8 * gib, partition{mib, gib}, nil, 8*gib - 2*mib},
		{"a disk of an odd size", 8*gib + 3*sectorSize, root, before, 8*gib - 128*mib},
		{"room for the second GPT and no more", 8*gib + gptEnd*sectorSize, root, before, 8*gib - 127*mib},
		{"the image's size", 3 * gib, root, before, root.length},
		{"less than 1 MiB more", 3*gib + gptEnd*sectorSize - 1, root, before, root.length},
		{"1 MiB more", 3*gib + gptEnd*sectorSize, root, before, root.length + mib},
		{"another one behind it", 8 * gib, root, append(before, partition{3*gib - mib, mib}), root.length},
		{"another one behind it, far away", 8 * gib, root, []partition{{7 * gib, mib}}, root.length},
		{"a disk smaller than the partition", gib, root, before, root.length},
		{"no disk", 0, root, before, root.length},
	} {
		if got := grown(test.disk, test.p, test.others); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestLayout(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "vda")
	for file, number := range map[string]int{
		"size": 16 << 20, "vda1/start": 262144, "vda1/size": 6027264, "vda14/start": 2048, "vda14/size": 6144, "vda15/start": 8192, "vda15/size": 253952,
	} {
		path := filepath.Join(disk, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, fmt.Appendln(nil, number), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	size, p, others, err := layout(filepath.Join(disk, "vda1"))
	if err != nil || size != 8<<30 || p != (partition{128 << 20, 2943 << 20}) || !slices.Equal(others, []partition{{1 << 20, 3 << 20}, {4 << 20, 124 << 20}}) {
		t.Errorf("%d %v %v %v", size, p, others, err)
	}
	if err := os.WriteFile(filepath.Join(disk, "vda14/size"), []byte("large\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := layout(filepath.Join(disk, "vda1")); err == nil {
		t.Error("a size that is no number is taken")
	}
}

func TestHasGPT(t *testing.T) {
	for offset, want := range map[int]bool{512: true, 4096: true, 1024: false} {
		disk := make([]byte, 8192)
		copy(disk[offset:], "EFI PART")
		if hasGPT(bytes.NewReader(disk)) != want {
			t.Errorf("a table at byte %d: %v", offset, !want)
		}
	}
	if hasGPT(bytes.NewReader(nil)) {
		t.Error("an empty disk has a table")
	}
}

func TestExt4Size(t *testing.T) {
	super := func(low, shift, incompat, high uint32) []byte {
		b := make([]byte, 2048)
		s := b[1024:]
		binary.LittleEndian.PutUint16(s[0x38:], 0xEF53)
		binary.LittleEndian.PutUint32(s[0x4:], low)
		binary.LittleEndian.PutUint32(s[0x18:], shift)
		binary.LittleEndian.PutUint32(s[0x60:], incompat)
		binary.LittleEndian.PutUint32(s[0x150:], high)
		return b
	}
	for _, test := range []struct {
		super        []byte
		blocks, size uint64
		ok           bool
	}{
		{super(753408, 2, 0x2c2, 0), 753408, 4096, true},
		{super(7, 2, 0x2c2, 1), 1<<32 + 7, 4096, true},
		{super(7, 0, 0x242, 1), 7, 1024, true}, // the upper half means nothing
		{super(7, 7, 0x2c2, 0), 0, 0, false},
		{super(7, 1<<31, 0x2c2, 0), 0, 0, false},
		{make([]byte, 2048), 0, 0, false},
		{make([]byte, 1500), 0, 0, false},
	} {
		blocks, size, err := ext4Size(bytes.NewReader(test.super))
		if blocks != test.blocks || size != test.size || (err == nil) != test.ok {
			t.Errorf("%d blocks of %d bytes, %v; want %d of %d", blocks, size, err, test.blocks, test.size)
		}
	}
}
