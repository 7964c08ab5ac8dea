package domain

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// A PooledBase is a guest image in a pool.
type PooledBase struct {
	Sum     string // the first digits of its SHA-256
	Bytes   uint64
	Users   []string // keys of the VMs whose disks are overlays of it
	Growing bool     // another run is uploading it
}

const (
	basePrefix = "base-"
	sumDigits  = 32
)

// Bases returns the guest images of a pool and the VMs that use each.
func Bases(p *virt.Pool) []PooledBase {
	if p == nil {
		return nil
	}
	out := map[string]*PooledBase{}
	sumOf := func(volume string) string {
		rest, isBase := strings.CutPrefix(volume, basePrefix)
		if !isBase || len(rest) < sumDigits {
			return ""
		}
		return rest[:sumDigits]
	}
	for name, v := range p.Volumes {
		sum := sumOf(name)
		if sum == "" {
			continue
		}
		b := out[sum]
		if b == nil {
			b = &PooledBase{Sum: sum}
			out[sum] = b
		}
		b.Bytes += v.Allocation
		if !strings.HasSuffix(name, marker) && !hasVolume(p, name+marker) && time.Since(v.Modified) < stallAfter {
			b.Growing = true
		}
		for _, o := range p.Volumes {
			if o.Backing == v.Path && o.Backing != "" {
				b.Users = append(b.Users, strings.TrimSuffix(o.Name, ".qcow2"))
			}
		}
	}
	list := make([]PooledBase, 0, len(out))
	for _, sum := range slices.Sorted(maps.Keys(out)) {
		slices.Sort(out[sum].Users)
		list = append(list, *out[sum])
	}
	return list
}

// RemoveBase removes an image from the pool, if no disk is an overlay of it.
//
// Another run may be about to create an overlay. So the marker is deleted first: a run
// that searches for the image from then on does not find it and uploads it under another
// name. A run that had found it before has created its overlay by the second check, or
// libvirt tells it that the volume does not exist.
func RemoveBase(ctx context.Context, l Libvirt, pool, baseDir, sum string) error {
	l = busyRetrier{l}
	b := Base{SHA256: sum}
	p, err := readPool(ctx, l, baseDir)
	if err != nil {
		return err
	}
	if err := unused(p, sum); err != nil {
		return err
	}
	complete, parts := b.findVolumes(p)
	for _, v := range complete {
		if err := l.DeleteVolume(ctx, pool, v.Name+marker); err != nil {
			return err
		}
	}
	if p, err = readPool(ctx, l, baseDir); err != nil {
		return err
	}
	if err := unused(p, sum); err != nil {
		for _, v := range complete {
			if hasOverlay(p, v) {
				mark := virt.NewVolume{Name: v.Name + marker, Format: "raw", Mode: "0400", Capacity: 0}
				if cerr := l.CreateVolume(context.WithoutCancel(ctx), pool, mark); cerr != nil {
					return cerr
				}
			}
		}
		return err
	}
	for _, v := range append(complete, parts...) {
		if err := l.DeleteVolume(ctx, pool, v.Name); err != nil {
			return err
		}
	}
	return nil
}

// unused returns an error if a VM uses the image or another run uploads it.
func unused(p *virt.Pool, sum string) error {
	for _, b := range Bases(p) {
		switch {
		case b.Sum != sum[:min(sumDigits, len(sum))]:
		case len(b.Users) > 0:
			return ui.Refused("the image is used by %s", strings.Join(b.Users, ", "))
		case b.Growing:
			return ui.Refused("another aivm is uploading the image to the storage pool").Hint(ui.Remark("try again in a minute"))
		}
	}
	return nil
}

// PooledShows returns the command that a plan shows for RemoveBase.
func PooledShows(pool, sum string) string {
	return fmt.Sprintf("virsh vol-delete --pool %s %s", pool, Base{SHA256: sum}.volumeName(1))
}
