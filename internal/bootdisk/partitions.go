package bootdisk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// partition is a part of a disk that has an ext4 file system.
type partition struct {
	offset int64
	uuid   string
}

// Bounds of a partition table.
const (
	sector        = 512
	maxPartitions = 128
	maxEntrySize  = 4096
)

// ext4Partitions returns the partitions of a raw disk that have an ext file system,
// in the order of the table. A disk without a table may be one file system.
func ext4Partitions(r io.ReaderAt) ([]partition, error) {
	var gpt [92]byte
	if _, err := r.ReadAt(gpt[:], sector); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	offsets := []int64{0}
	if string(gpt[:8]) == "EFI PART" {
		var err error
		if offsets, err = gptOffsets(r, gpt[:]); err != nil {
			return nil, err
		}
	}
	var out []partition
	for _, o := range offsets {
		if uuid, ok := ext4UUID(r, o); ok {
			out = append(out, partition{o, uuid})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the disk has no ext4 partition")
	}
	return out, nil
}

// gptOffsets returns where the partitions of a GPT begin.
func gptOffsets(r io.ReaderAt, header []byte) ([]int64, error) {
	le := binary.LittleEndian
	at, count, size := le.Uint64(header[72:]), le.Uint32(header[80:]), le.Uint32(header[84:])
	if count > maxPartitions || size < 128 || size > maxEntrySize || at > maxVirtualSize/sector {
		return nil, fmt.Errorf("partition table with %d entries of %d bytes", count, size)
	}
	table := make([]byte, int(count)*int(size))
	if _, err := r.ReadAt(table, int64(at)*sector); err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	var out []int64
	for i := range int(count) {
		e := table[i*int(size):]
		first := le.Uint64(e[32:])
		if [16]byte(e[:16]) == [16]byte{} || first == 0 || first > maxVirtualSize/sector {
			continue
		}
		out = append(out, int64(first)*sector)
	}
	return out, nil
}

// ext4UUID returns the UUID of the ext file system at offset.
func ext4UUID(r io.ReaderAt, offset int64) (string, bool) {
	var sb [0x78]byte
	if _, err := r.ReadAt(sb[:], offset+1024); err != nil {
		return "", false
	}
	if binary.LittleEndian.Uint16(sb[0x38:]) != 0xef53 {
		return "", false
	}
	u := hex.EncodeToString(sb[0x68:0x78])
	return u[:8] + "-" + u[8:12] + "-" + u[12:16] + "-" + u[16:20] + "-" + u[20:], true
}
