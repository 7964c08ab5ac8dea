package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// findRoot returns the device of the ext4 file system with UUID=, LABEL= or PARTUUID=.
func findRoot(want string) (string, error) {
	key, value, ok := strings.Cut(want, "=")
	if !ok {
		return "", fmt.Errorf("the kernel command line has aivm.root=%q; it needs UUID=, LABEL= or PARTUUID=", want)
	}
	devices, err := filepath.Glob("/dev/vd*")
	if err != nil {
		return "", err
	}
	for _, device := range devices {
		f, err := os.Open(device)
		if err != nil {
			continue // not yet there
		}
		number, found := matchDisk(f, key, strings.ToLower(value))
		f.Close()
		if !found {
			continue
		}
		if number > 0 {
			device = fmt.Sprintf("%s%d", device, number)
		}
		if _, err := os.Stat(device); err == nil {
			return device, nil
		}
	}
	return "", fmt.Errorf("no disk has %s: %w", want, os.ErrNotExist)
}

// matchDisk says whether a device is the one, or has it as the partition of a number.
func matchDisk(r io.ReaderAt, key, value string) (partition int, found bool) {
	switch key {
	case "PARTUUID":
		return gptPartition(r, value)
	case "UUID":
		uuid, _, ok := ext4Names(r)
		return 0, ok && uuid == value
	case "LABEL":
		_, label, ok := ext4Names(r)
		return 0, ok && strings.EqualFold(label, value)
	}
	return 0, false
}

// ext4Names reads the UUID and the label of an ext2, ext3 or ext4 file system.
func ext4Names(r io.ReaderAt) (uuid, label string, ok bool) {
	super := make([]byte, 256)
	if _, err := r.ReadAt(super, 1024); err != nil {
		return "", "", false
	}
	if binary.LittleEndian.Uint16(super[0x38:]) != 0xEF53 {
		return "", "", false
	}
	u := super[0x68:0x78]
	label, _, _ = strings.Cut(string(super[0x78:0x88]), "\x00")
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), label, true
}

// gptPartition returns the number of the GPT partition with the unique GUID.
func gptPartition(r io.ReaderAt, guid string) (int, bool) {
	const sector = 512
	head := make([]byte, sector)
	if _, err := r.ReadAt(head, sector); err != nil || !bytes.HasPrefix(head, []byte("EFI PART")) {
		return 0, false
	}
	start := binary.LittleEndian.Uint64(head[72:])
	count, size := binary.LittleEndian.Uint32(head[80:]), binary.LittleEndian.Uint32(head[84:])
	if size < 128 || size > 4096 || start > 1<<40 {
		return 0, false
	}
	entry := make([]byte, size)
	for i := range min(count, 256) {
		if _, err := r.ReadAt(entry, int64(start)*sector+int64(i)*int64(size)); err != nil {
			return 0, false
		}
		u := entry[16:32]
		text := fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(u), binary.LittleEndian.Uint16(u[4:]),
			binary.LittleEndian.Uint16(u[6:]), u[8:10], u[10:])
		if text == guid {
			return int(i) + 1, true
		}
	}
	return 0, false
}
