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

// A PooledBase is a guest image as it lies in a pool.
type PooledBase struct {
	Sum     string // the first digits of its SHA-256
	Bytes   uint64
	Users   []string // keys of the VMs whose disks are overlays of it
	Growing bool     // somebody is putting it there
}

const (
	basePrefix = "base-"
	sumDigits  = 32
)

// Bases lists the guest images of a pool, with who uses each.
func Bases(p *virt.Pool) []PooledBase {
	if p == nil {
		return nil
	}
	out := map[string]*PooledBase{}
	sumOf := func(volume string) string {
		rest, ours := strings.CutPrefix(volume, basePrefix)
		if !ours || len(rest) < sumDigits {
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

// RemoveBase takes an image that no disk is an overlay of out of the pool.
//
// Another run may be about to make one. The marker goes first: whoever looks
// for the image from then on does not find it and puts it there again under
// another name. Who had found it before has made its disk by the second look,
// or is told by libvirt that the volume is gone.
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

func unused(p *virt.Pool, sum string) error {
	for _, b := range Bases(p) {
		switch {
		case b.Sum != sum[:min(sumDigits, len(sum))]:
		case len(b.Users) > 0:
			return ui.Refused("the image is used by %s", strings.Join(b.Users, ", "))
		case b.Growing:
			return ui.Refused("another aivm is putting the image into the storage pool just now").Hint(ui.Remark("try again in a minute"))
		}
	}
	return nil
}

// PooledShows is what a person is shown of RemoveBase.
func PooledShows(pool, sum string) string {
	return fmt.Sprintf("virsh vol-delete --pool %s %s", pool, Base{SHA256: sum}.volumeName(1))
}
