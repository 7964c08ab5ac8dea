package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"aivm.dev/aivm/internal/ui"
)

// The formats of images, as libvirt names them.
const (
	QCOW2 = "qcow2"
	Raw   = "raw"
)

// maxVirtual is a limit no VM's disk reaches: a larger size means a damaged or hostile header.
const maxVirtual = 1 << 46

// Offsets and feature bits of the qcow2 header (QEMU, docs/interop/qcow2.txt).
const (
	qcowMagic       = "QFI\xfb"
	qcowBackingAt   = 8
	qcowClusterBits = 20
	qcowSizeAt      = 24
	qcowCryptAt     = 32
	qcowL1SizeAt    = 36
	qcowL1OffsetAt  = 40
	qcowFeaturesAt  = 72
	qcowLengthAt    = 100
	qcowV2Length    = 72
	qcowV3Length    = 104

	featDirty       = 1 << 0
	featCorrupt     = 1 << 1
	featDataFile    = 1 << 2
	featCompression = 1 << 3
	featExtendedL2  = 1 << 4
)

// foreignFormats lists formats that a user may pass by mistake.
var foreignFormats = []struct {
	at    int64
	magic string
	name  string
}{
	{0, "KDMV", "a VMDK disk"},
	{0, "# Disk DescriptorFile", "a VMDK descriptor"},
	{0, "vhdxfile", "a VHDX disk"},
	{0, "conectix", "a VHD disk"},
	{64, "\x7f\x10\xda\xbe", "a VDI disk"},
	{0, "\x1f\x8b", "compressed with gzip"},
	{0, "\xfd7zXZ\x00", "compressed with xz"},
	{0, "\x28\xb5\x2f\xfd", "compressed with zstd"},
	{0, "BZh", "compressed with bzip2"},
	{0, "PK\x03\x04", "a zip archive"},
	{32769, "CD001", "a CD image, which is an installer and not an installed system"},
	{257, "ustar", "a tar archive"},
}

// Inspect reads the header of an image of size bytes and returns its format and the size of the
// guest's disk. It refuses images that refer to other files (a backing file, an external data
// file), and images QEMU could not boot from.
func Inspect(r io.ReaderAt, size int64) (format string, virtualSize int64, err error) {
	head := make([]byte, 512)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", 0, ui.Failed("reading the image: %w", err)
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte(qcowMagic)) {
		v, err := inspectQCOW2(r, head, size)
		return QCOW2, v, err
	}
	for _, o := range foreignFormats {
		got := make([]byte, len(o.magic))
		if n, _ := r.ReadAt(got, o.at); n == len(got) && string(got) == o.magic {
			return "", 0, ui.Refused("the image is %s, not qcow2 or raw", o.name).
				Hint(ui.CmdFor("convert it first", "qemu-img convert -O qcow2 OLD NEW.qcow2"))
		}
	}
	// The first sector of an MBR and of a GPT disk (its protective MBR) ends with 55 aa.
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return "", 0, ui.Refused("the image is neither qcow2 nor a raw disk with a partition table").
			Hint(ui.CmdFor("see its format", "qemu-img info IMAGE"))
	}
	if size > maxVirtual {
		return "", 0, ui.Refused("the image is too large: %d bytes", size)
	}
	return Raw, (size + 511) &^ 511, nil
}

func inspectQCOW2(r io.ReaderAt, head []byte, size int64) (int64, error) {
	if len(head) < qcowV2Length {
		return 0, ui.Refused("the qcow2 image ends within its header")
	}
	be := binary.BigEndian
	u32 := func(at int) uint32 { return be.Uint32(head[at:]) }
	u64 := func(at int) uint64 { return be.Uint64(head[at:]) }

	version := u32(4)
	switch {
	case version != 2 && version != 3:
		return 0, ui.Refused("the qcow2 image has the unknown version %d", version)
	case version == 3 && (len(head) < qcowV3Length || u32(qcowLengthAt) < qcowV3Length):
		return 0, ui.Refused("the qcow2 image ends within its header")
	case u64(qcowBackingAt) != 0:
		return 0, ui.Refused("the qcow2 image is an overlay: it needs its backing file").
			Hint(ui.CmdFor("flatten it into one file", "qemu-img convert -O qcow2 OLD NEW.qcow2"))
	case u32(qcowCryptAt) != 0:
		return 0, ui.Refused("the qcow2 image is encrypted")
	case u32(qcowClusterBits) < 9 || u32(qcowClusterBits) > 21:
		return 0, ui.Refused("the qcow2 image is damaged: cluster size 2^%d", u32(qcowClusterBits))
	}
	if version == 3 {
		features := u64(qcowFeaturesAt)
		switch {
		case features&featDataFile != 0:
			return 0, ui.Refused("the qcow2 image keeps its data in another file").
				Hint(ui.CmdFor("flatten it into one file", "qemu-img convert -O qcow2 OLD NEW.qcow2"))
		case features&featCorrupt != 0:
			return 0, ui.Refused("the qcow2 image is marked as corrupt").Hint(ui.Cmd("qemu-img check -r all IMAGE"))
		case features&featDirty != 0:
			return 0, ui.Refused("the qcow2 image was not closed properly, or is in use").Hint(ui.Cmd("qemu-img check -r all IMAGE"))
		case features&^(featCompression|featExtendedL2) != 0:
			return 0, ui.Refused("the qcow2 image needs unknown features (%#x)", features)
		}
	}
	virtual := u64(qcowSizeAt)
	if virtual == 0 || virtual > maxVirtual {
		return 0, ui.Refused("the qcow2 image is damaged: a disk of %d bytes", virtual)
	}
	// The L1 table must lie within the file: this finds a truncated download here and not in the
	// guest.
	l1 := u64(qcowL1OffsetAt)
	end := l1 + uint64(u32(qcowL1SizeAt))*8
	if l1 < qcowV2Length || end < l1 || end > uint64(max(size, 0)) {
		return 0, ui.Refused("the qcow2 image is truncated: its L1 table ends at byte %d of %d", end, size)
	}
	last := make([]byte, 1)
	if _, err := r.ReadAt(last, int64(end)-1); err != nil && !errors.Is(err, io.EOF) {
		return 0, ui.Failed("reading the image: %w", err)
	}
	return int64(virtual), nil
}
