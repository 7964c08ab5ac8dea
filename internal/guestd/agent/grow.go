package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sectorSize    = 512 // in sysfs, whatever the disk has
	gptEnd        = 34  // sectors at the end of a disk that a GPT may have there
	partitionUnit = 1 << 20

	resizeExt4 = 0x40086610 // EXT4_IOC_RESIZE_FS, which x/sys does not have
)

// A partition is a part of a disk, in bytes.
type partition struct{ start, length int64 }

// growPartition makes the partition as long as its disk has room for, in the kernel
// only: the disk's partition table stays as it is, so each boot does this again. It
// changes nothing if the device is no partition of a GPT, or not the last one.
func growPartition(device string) error {
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/class/block", filepath.Base(device)))
	if err != nil {
		return err
	}
	number, err := sysNumber(dir + "/partition")
	if errors.Is(err, os.ErrNotExist) {
		return nil // an entire disk
	}
	if err != nil {
		return err
	}
	size, p, others, err := layout(dir)
	if err != nil {
		return err
	}
	disk, err := os.Open(filepath.Join("/dev", filepath.Base(filepath.Dir(dir))))
	if err != nil {
		return err
	}
	defer disk.Close()
	if !hasGPT(disk) {
		return nil
	}
	length := grown(size, p, others)
	if length == p.length {
		return nil
	}
	change := unix.BlkpgPartition{Start: p.start, Length: length, Pno: int32(number)}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(change)), Data: (*byte)(unsafe.Pointer(&change))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("partition %d from %d to %d bytes: %w", number, p.length, length, errno)
	}
	return nil
}

// layout returns the size of the disk that has the partition of a directory of sysfs,
// the partition, and the others of that disk.
func layout(dir string) (disk int64, p partition, others []partition, err error) {
	sectors, err := sysNumber(filepath.Join(dir, "../size"))
	if err != nil {
		return 0, p, nil, err
	}
	starts, err := filepath.Glob(filepath.Join(dir, "../*/start"))
	if err != nil {
		return 0, p, nil, err
	}
	for _, file := range starts {
		start, err := sysNumber(file)
		if err != nil {
			return 0, p, nil, err
		}
		length, err := sysNumber(filepath.Join(filepath.Dir(file), "size"))
		if err != nil {
			return 0, p, nil, err
		}
		one := partition{start * sectorSize, length * sectorSize}
		if filepath.Dir(file) == dir {
			p = one
		} else {
			others = append(others, one)
		}
	}
	return sectors * sectorSize, p, others, nil
}

// grown returns the length that a partition may have on a disk of a size: its own, if
// another lies behind it or there is less than 1 MiB to win.
func grown(disk int64, p partition, others []partition) int64 {
	for _, other := range others {
		if other.start > p.start {
			return p.length
		}
	}
	end := (disk - gptEnd*sectorSize) / partitionUnit * partitionUnit
	if end < p.start+p.length+partitionUnit {
		return p.length
	}
	return end - p.start
}

// hasGPT says whether a disk has a GUID partition table.
func hasGPT(disk io.ReaderAt) bool {
	head := make([]byte, 8)
	for _, sector := range []int64{512, 4096} {
		if _, err := disk.ReadAt(head, sector); err == nil && bytes.Equal(head, []byte("EFI PART")) {
			return true
		}
	}
	return false
}

func sysNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// growFileSystem makes the ext4 file system of a device, mounted at dir, as large as
// the device. The kernel does it, with the file system in use.
func growFileSystem(device, dir string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	blocks, blockSize, err := ext4Size(f)
	if err != nil {
		return err
	}
	want := uint64(size) / blockSize
	if want <= blocks {
		return nil
	}
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(root), resizeExt4, uintptr(unsafe.Pointer(&want))); errno != 0 {
		return fmt.Errorf("the file system from %d to %d blocks: %w", blocks, want, errno)
	}
	return nil
}

// ext4Size reads the number of blocks of an ext4 file system and their size in bytes.
func ext4Size(r io.ReaderAt) (blocks, blockSize uint64, err error) {
	super := make([]byte, 1024)
	if _, err := r.ReadAt(super, 1024); err != nil {
		return 0, 0, err
	}
	shift := binary.LittleEndian.Uint32(super[0x18:])
	if binary.LittleEndian.Uint16(super[0x38:]) != 0xEF53 || shift > 6 {
		return 0, 0, errors.New("this is no ext4 file system")
	}
	blocks = uint64(binary.LittleEndian.Uint32(super[0x4:]))
	if binary.LittleEndian.Uint32(super[0x60:])&0x80 != 0 { // 64-bit block numbers
		blocks |= uint64(binary.LittleEndian.Uint32(super[0x150:])) << 32
	}
	return blocks, 1024 << shift, nil
}
