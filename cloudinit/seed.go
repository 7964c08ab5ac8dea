package cloudinit

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
)

// Label is the file system label by which cloud-init finds the seed.
const Label = "cidata"

// Seed returns the content of the seed disk: an ISO 9660 image labelled "cidata" with
// cloud-init's three files and the script for prepared images (CloneScript), about 56 KiB,
// the same bytes for the same Guest. It contains the guest's private host key: give it to
// libvirt as a volume of mode 0600, attach it as a read-only virtio-blk disk (cloud kernels
// have no AHCI driver), and delete it after the first boot.
//
// No library is used for the image, because those available write temporary files, which
// must not contain the key, and put the current time into the image.
func Seed(g Guest) ([]byte, error) {
	user, err := UserData(g)
	if err != nil {
		return nil, err
	}
	meta, err := MetaData(g)
	if err != nil {
		return nil, err
	}
	network, err := NetworkConfig(g)
	if err != nil {
		return nil, err
	}
	clone, err := CloneScript(g)
	if err != nil {
		return nil, err
	}
	// ECMA-119 9.3: sorted by name.
	return isoImage(Label, []isoFile{{cloneFile, clone}, {"meta-data", meta}, {"network-config", network}, {"user-data", user}})
}

type isoFile struct {
	name string
	data []byte
}

// Positions in the image, in sectors (ECMA-119 6.2.1: the first sixteen are reserved).
const (
	sectorSize    = 2048
	sectorVolume  = 16
	sectorEnd     = 17
	sectorPathLE  = 18
	sectorPathBE  = 19
	sectorRoot    = 20
	sectorContent = 21
)

const flagDirectory = 2

// isoImage returns an ISO 9660 image with one directory of files with Rock Ridge names.
func isoImage(label string, files []isoFile) ([]byte, error) {
	root := directoryRecord("\x00", sectorRoot, sectorSize, flagDirectory,
		append(suspStart(), append(rockExtension(), rockAttributes(0o040555, 2)...)...))
	root = append(root, directoryRecord("\x01", sectorRoot, sectorSize, flagDirectory, rockAttributes(0o040555, 2))...)

	sectors := sectorContent
	for _, f := range files {
		if len(f.data) > math.MaxInt32 {
			return nil, errors.New("a seed file is too large")
		}
		// The ISO name differs from the Rock Ridge name only in case, so that a reader
		// without Rock Ridge finds the file too.
		plain := strings.ToUpper(f.name) + ".;1"
		root = append(root, directoryRecord(plain, sectors, len(f.data), 0,
			append(rockAttributes(0o100400, 1), rockName(f.name)...))...)
		sectors += (len(f.data) + sectorSize - 1) / sectorSize
	}
	if len(root) > sectorSize {
		return nil, errors.New("too many seed files for one directory sector")
	}

	image := make([]byte, sectors*sectorSize)
	at := func(sector int) []byte { return image[sector*sectorSize:] }
	volumeDescriptor(at(sectorVolume), label, sectors)
	copy(at(sectorEnd), "\xffCD001\x01")
	copy(at(sectorPathLE), pathTable(binary.LittleEndian))
	copy(at(sectorPathBE), pathTable(binary.BigEndian))
	copy(at(sectorRoot), root)
	next := sectorContent
	for _, f := range files {
		copy(at(next), f.data)
		next += (len(f.data) + sectorSize - 1) / sectorSize
	}
	return image, nil
}

// volumeDescriptor fills in the primary volume descriptor (ECMA-119 8.4). The
// four dates are "not specified".
func volumeDescriptor(b []byte, label string, sectors int) {
	copy(b, "\x01CD001\x01")
	for i := 8; i < 813; i++ {
		switch {
		case i < 72, i >= 190:
			b[i] = ' '
		}
	}
	copy(b[40:72], label)
	put32(b[80:], sectors)
	put16(b[120:], 1)
	put16(b[124:], 1)
	put16(b[128:], sectorSize)
	put32(b[132:], len(pathTable(binary.LittleEndian)))
	binary.LittleEndian.PutUint32(b[140:], sectorPathLE)
	binary.BigEndian.PutUint32(b[148:], sectorPathBE)
	copy(b[156:], directoryRecord("\x00", sectorRoot, sectorSize, flagDirectory, nil))
	for i := 0; i < 4; i++ {
		copy(b[813+17*i:], "0000000000000000\x00")
	}
	b[881] = 1
}

// pathTable returns a path table with only the root directory (ECMA-119 9.4).
func pathTable(order binary.AppendByteOrder) []byte {
	b := []byte{1, 0}
	b = order.AppendUint32(b, sectorRoot)
	b = order.AppendUint16(b, 1)
	return append(b, 0, 0)
}

// directoryRecord returns one entry of a directory (ECMA-119 9.1). Its date is always
// 1980-01-01, so that the image depends only on its content.
func directoryRecord(name string, sector, size int, flags byte, systemUse []byte) []byte {
	b := make([]byte, 33, 128)
	put32(b[2:], sector)
	put32(b[10:], size)
	copy(b[18:], []byte{80, 1, 1, 0, 0, 0, 0})
	b[25] = flags
	put16(b[28:], 1)
	b[32] = byte(len(name))
	b = append(b, name...)
	if len(name)%2 == 0 {
		b = append(b, 0)
	}
	b = append(b, systemUse...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(len(b))
	return b
}

// suspStart returns the SP field, which indicates that the system use fields follow the
// sharing protocol (IEEE P1281 5.3).
func suspStart() []byte { return []byte{'S', 'P', 7, 1, 0xbe, 0xef, 0} }

// rockExtension returns the ER field, which names the extension used: Rock Ridge (IEEE P1282
// 4.3), with empty description and source.
func rockExtension() []byte {
	const id = "RRIP_1991A"
	return append([]byte{'E', 'R', 8 + byte(len(id)), 1, byte(len(id)), 0, 0, 1}, id...)
}

// rockAttributes returns the PX field: mode, number of links, owner root (IEEE P1282 4.1.1).
func rockAttributes(mode, links int) []byte {
	b := make([]byte, 36)
	copy(b, []byte{'P', 'X', 36, 1})
	put32(b[4:], mode)
	put32(b[12:], links)
	return b
}

// rockName returns the NM field: the real file name (IEEE P1282 4.1.4).
func rockName(name string) []byte {
	return append([]byte{'N', 'M', 5 + byte(len(name)), 1, 0}, name...)
}

// put32 and put16 write a number in both byte orders (ECMA-119 7.3.3, 7.2.3).
func put32(b []byte, v int) {
	binary.LittleEndian.PutUint32(b, uint32(v))
	binary.BigEndian.PutUint32(b[4:], uint32(v))
}

func put16(b []byte, v int) {
	binary.LittleEndian.PutUint16(b, uint16(v))
	binary.BigEndian.PutUint16(b[2:], uint16(v))
}
