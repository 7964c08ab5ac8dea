package domain

import (
	"context"
	"encoding/binary"
	"fmt"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// A disk that an older aivm made is a qcow2 of version 0.10 ("version 2" in its header), where
// space that the guest frees stays allocated on the host. The next start makes it 1.1 ("version
// 3"), as qemu-img amend does. qemu-img cannot open the file, which only root and QEMU may read,
// and needs no privileges of root for it: the versions differ only in the header, so aivm writes
// that through libvirt, with one call.

const (
	headerV2 = 72  // bytes of a header of version 2
	headerV3 = 104 // and of version 3
	// maxHeader is how large header, extensions and the backing file's name may be together. They
	// are in the first page of the file, which the kernel writes at once.
	maxHeader = 4096
	// snapshotExtra is how many bytes of further data version 3 requires of a snapshot.
	snapshotExtra = 16
)

// mainDisk returns the disk of a domain that aivm made, or the first one of another domain.
func mainDisk(d *virt.Domain) (virt.Disk, bool) {
	disk, ok := d.StoredDisk(DiskSerial)
	if !ok && len(d.Stored) > 0 {
		disk, ok = d.Stored[0], true
	}
	return disk, ok && disk.File != ""
}

// OldDisk reports whether the disk of a domain is a qcow2 of version 0.10 that can be made 1.1.
// It is an error if the file cannot be read or is damaged.
func OldDisk(ctx context.Context, l Libvirt, d *virt.Domain) (bool, error) {
	disk, ok := mainDisk(d)
	if !ok {
		return false, nil
	}
	header, err := newHeader(func(at, n uint64) ([]byte, error) { return l.ReadVolume(ctx, disk.File, at, n) })
	return header != nil, err
}

// newHeader returns the header of version 3 for a file with one of version 2, to be written over
// it; nil if the file has version 3, or is none that the header alone can change.
func newHeader(read readAt) ([]byte, error) {
	old, err := read(0, headerV2)
	if err != nil {
		return nil, err
	}
	be32, be64 := binary.BigEndian.Uint32, binary.BigEndian.Uint64
	if string(old[:4]) != "QFI\xfb" || be32(old[4:]) != 2 {
		return nil, nil
	}
	q, err := readQcow2(read)
	if err != nil {
		return nil, err
	}
	if be32(old[32:]) != 0 || q.leastExtra < snapshotExtra {
		return nil, nil // encrypted, or with snapshots of a QEMU before 1.1
	}
	cluster := uint64(1) << q.clusterBits
	first, err := read(0, min(cluster, maxHeader))
	if err != nil {
		return nil, err
	}
	out := append([]byte{}, first[:headerV2]...)
	binary.BigEndian.PutUint32(out[4:], 3)
	out = append(out, make([]byte, headerV3-headerV2)...) // no feature bits
	binary.BigEndian.PutUint32(out[96:], 4)               // as in version 2: reference counts of 16 bits
	binary.BigEndian.PutUint32(out[100:], headerV3)
	nameAt, nameLen := be64(first[8:]), uint64(be32(first[16:]))
	damaged := fmt.Errorf("%w: damaged header", errNotQcow2)
	if nameAt > uint64(len(first)) || nameLen > uint64(len(first)) || nameAt+nameLen > uint64(len(first)) || nameAt != 0 && nameAt < headerV2 {
		return nil, damaged
	}
	end := uint64(len(first))
	if nameAt > 0 {
		end = nameAt
	}
	for at := uint64(headerV2); at+8 <= end && be32(first[at:]) != 0; {
		next := at + 8 + (uint64(be32(first[at+4:]))+7)&^7
		if next > end {
			return nil, damaged
		}
		out = append(out, first[at:next]...)
		at = next
	}
	out = append(out, make([]byte, 8)...) // the end of the extensions
	if nameAt > 0 {
		binary.BigEndian.PutUint64(out[8:], uint64(len(out)))
		out = append(out, first[nameAt:nameAt+nameLen]...)
	}
	if len(out) > len(first) {
		return nil, nil // the name is too long
	}
	return out, nil
}

// PlanDisk plans what the disk of a VM that is off lacks to give freed space back: another
// version if old is set, and discard in the domain's definition.
func PlanDisk(d *virt.Domain, old bool, lv func() (Libvirt, error)) (out []plan.Action) {
	if d == nil || d.State != virt.Off {
		return nil
	}
	disk, ok := mainDisk(d)
	if !ok {
		return nil
	}
	if old {
		out = append(out, plan.Action{
			ID: "disk.upgrade", Why: "change the disk of " + d.Name + " to qcow2 1.1, so that this machine gets space back that the guest frees", Timing: "define",
			Shows: []string{"qemu-img amend -o compat=1.1 " + disk.File},
			Do:    with(lv, func(ctx context.Context, l Libvirt) error { return upgradeDisk(ctx, l, d, disk.File) }),
		})
	}
	if disk.Discard != "unmap" {
		out = append(out, plan.Action{
			ID: "disk.discard", Why: "let the guest of " + d.Name + " free space in the file of its disk", Timing: "define",
			Shows: []string{"virsh update-device " + d.Name + " (" + disk.Target + ", discard='unmap') --config"},
			Do:    with(lv, func(ctx context.Context, l Libvirt) error { return l.SetDiscard(ctx, d.Name, disk.Target) }),
		})
	}
	return out
}

// upgradeDisk writes the new header, if the domain is still the same one and off. A QEMU that
// another program starts right then would read the old header or the new one; it never writes one.
func upgradeDisk(ctx context.Context, l Libvirt, d *virt.Domain, file string) error {
	now, err := l.Domain(ctx, d.Name)
	switch {
	case err != nil:
		return err
	case now.UUID != d.UUID || now.Mark != d.Mark:
		return fmt.Errorf("the domain %q was replaced by another one: %w", d.Name, plan.ErrStale)
	case now.State != virt.Off:
		return nil
	}
	header, err := newHeader(func(at, n uint64) ([]byte, error) { return l.ReadVolume(ctx, file, at, n) })
	if err != nil || header == nil {
		return err
	}
	return whileBusy(ctx, func() error { return l.WriteVolume(ctx, file, 0, header) })
}
