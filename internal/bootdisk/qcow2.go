package bootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// The qcow2 format: docs/interop/qcow2.txt of QEMU.
const (
	qcowMagic       = "QFI\xfb"
	qcowHeaderLen   = 104
	clusterBits     = 16
	clusterSize     = 1 << clusterBits
	incompatData    = 1 << 2  // data in another file
	maxVirtualSize  = 4 << 40 // one cluster of L1 entries
	bytesOfL1Entry  = clusterSize / 8 << clusterBits
	metadataCluster = 4 // header, refcount table, refcount block, L1 table
)

// Image tells the format and the virtual size of a disk image.
type Image struct {
	Format string // "qcow2" or "raw"
	Size   int64  // of the disk that a guest sees
}

// Inspect reads the header of an image. An image that consists of several files is
// refused: it could name any file of this machine as one of them.
func Inspect(f *os.File) (Image, error) {
	var h [qcowHeaderLen]byte
	n, err := f.ReadAt(h[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Image{}, err
	}
	if n < 4 || string(h[:4]) != qcowMagic {
		st, err := f.Stat()
		if err != nil {
			return Image{}, err
		}
		return Image{"raw", st.Size()}, nil
	}
	be := binary.BigEndian
	version, size := be.Uint32(h[4:]), be.Uint64(h[24:])
	switch {
	case n < 72 || version < 2 || version > 3 || version == 3 && n < qcowHeaderLen:
		return Image{}, fmt.Errorf("qcow2 image of version %d", version)
	case be.Uint64(h[8:]) != 0:
		return Image{}, errors.New("the image has a backing file")
	case version == 3 && be.Uint64(h[72:])&incompatData != 0:
		return Image{}, errors.New("the image keeps its data in another file")
	case be.Uint32(h[32:]) != 0:
		return Image{}, errors.New("the image is encrypted")
	case size > maxVirtualSize:
		return Image{}, fmt.Errorf("the image is a disk of %d bytes", size)
	}
	return Image{"qcow2", int64(size)}, nil
}

// Overlay writes an empty qcow2 image of a disk of size bytes to f. It names no
// backing file: QEMU is told the layer below it by descriptor. What neither layer
// has reads as zeros.
func Overlay(f *os.File, size int64) error {
	if size <= 0 || size > maxVirtualSize || size%512 != 0 {
		return fmt.Errorf("a disk of %d bytes", size)
	}
	be := binary.BigEndian
	b := make([]byte, metadataCluster*clusterSize)
	copy(b, qcowMagic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(size))
	be.PutUint32(b[36:], uint32((size+bytesOfL1Entry-1)/bytesOfL1Entry))
	be.PutUint64(b[40:], 3*clusterSize) // L1 table
	be.PutUint64(b[48:], 1*clusterSize) // refcount table
	be.PutUint32(b[56:], 1)             // of one cluster
	be.PutUint32(b[96:], 4)             // refcounts of 16 bits
	be.PutUint32(b[100:], qcowHeaderLen)
	be.PutUint64(b[clusterSize:], 2*clusterSize) // the first refcount block
	for i := range metadataCluster {
		be.PutUint16(b[2*clusterSize+2*i:], 1)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(b, 0)
	return err
}

// OverlayLimit is the largest size of the file of an overlay whose disk has size
// bytes: every cluster and its metadata once.
func OverlayLimit(size int64) int64 { return size + size/1024 + 64<<20 }
