package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"aivm.dev/aivm/internal/ui"
)

// Formats as libvirt names them.
const (
	QCOW2 = "qcow2"
	Raw   = "raw"
)

// maxVirtual is beyond any disk a VM gets: a larger figure is a damaged or
// hostile header.
const maxVirtual = 1 << 46

// Offsets and bits of qcow2's header (QEMU, docs/interop/qcow2.txt).
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

// others are formats a person may hand us by mistake.
var others = []struct {
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
	{32769, "CD001", "a CD image, which installs a system and is not one"},
	{257, "ustar", "a tar archive"},
}

// Inspect tells from its first bytes what an image of size bytes is: its
// format, and the size of the disk in it. Everything QEMU would follow out of
// the file (a backing file, an external data file) is refused, and so is what
// it could not boot from.
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
	for _, o := range others {
		got := make([]byte, len(o.magic))
		if n, _ := r.ReadAt(got, o.at); n == len(got) && string(got) == o.magic {
			return "", 0, ui.Refused("the image is %s, not qcow2 or raw", o.name).
				Hint(ui.CmdFor("unpack or convert it first", "qemu-img convert -O qcow2 OLD NEW.qcow2"))
		}
	}
	// Both MBR and GPT (its protective MBR) end the first sector so.
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return "", 0, ui.Refused("the image is neither qcow2 nor a raw disk with a partition table").
			Hint(ui.CmdFor("see what it is", "qemu-img info IMAGE"))
	}
	if size > maxVirtual {
		return "", 0, ui.Refused("the image is %d bytes large", size)
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
		return 0, ui.Refused("the qcow2 image has version %d, which is not known", version)
	case version == 3 && (len(head) < qcowV3Length || u32(qcowLengthAt) < qcowV3Length):
		return 0, ui.Refused("the qcow2 image ends within its header")
	case u64(qcowBackingAt) != 0:
		return 0, ui.Refused("the qcow2 image is an overlay: the rest of it is in another file").
			Hint(ui.Cmd("make one whole file of it: qemu-img convert -O qcow2 OLD NEW.qcow2"))
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
				Hint(ui.Cmd("make one whole file of it: qemu-img convert -O qcow2 OLD NEW.qcow2"))
		case features&featCorrupt != 0:
			return 0, ui.Refused("the qcow2 image is marked as corrupt").Hint(ui.Cmd("qemu-img check -r all IMAGE"))
		case features&featDirty != 0:
			return 0, ui.Refused("the qcow2 image was not closed properly, or is in use").Hint(ui.Cmd("qemu-img check -r all IMAGE"))
		case features&^(featCompression|featExtendedL2) != 0:
			return 0, ui.Refused("the qcow2 image needs features that are not known (%#x)", features)
		}
	}
	virtual := u64(qcowSizeAt)
	if virtual == 0 || virtual > maxVirtual {
		return 0, ui.Refused("the qcow2 image is damaged: a disk of %d bytes", virtual)
	}
	// The table that everything hangs on has to be in the file: a download
	// that stopped is found here and not by the guest.
	l1 := u64(qcowL1OffsetAt)
	end := l1 + uint64(u32(qcowL1SizeAt))*8
	if l1 < qcowV2Length || end < l1 || end > uint64(max(size, 0)) {
		return 0, ui.Refused("the qcow2 image is truncated: its first table ends at byte %d of %d", end, size)
	}
	last := make([]byte, 1)
	if _, err := r.ReadAt(last, int64(end)-1); err != nil && !errors.Is(err, io.EOF) {
		return 0, ui.Failed("reading the image: %w", err)
	}
	return int64(virtual), nil
}
