package domain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// Base is the guest image the disk is an overlay of.
//
// In the pool it is a volume that all VMs of all users share. Whoever needs it
// first puts it there, and several may be first, or be killed while they are
// at it. libvirt can neither rename a volume nor lock one, but it makes a name
// only once. So a volume has one writer, who makes it; a marker beside it says
// that it is complete; and who finds one that is not and does not grow takes
// the next name, and never the volume away from somebody who is only slow.
type Base struct {
	SHA256 string // hexadecimal; names the volume
	Format string // "qcow2" or "raw"
	Size   int64  // bytes of the file
	Disk   int64  // bytes of the disk in it, 0 = not known
	Open   func() (io.ReadCloser, error)
}

// nth is the nth name of the image's volume: the first, unless a run that did
// not finish has left a part of it under that name.
func (b Base) volumeName(n int) string {
	name := basePrefix + b.SHA256[:min(sumDigits, len(b.SHA256))]
	if n > 1 {
		name += "-" + strconv.Itoa(n)
	}
	return name
}

const marker = ".done"

// split sorts what the pool has of the image into complete volumes and parts,
// volumes without a marker: somebody writes them, or did.
func (b Base) findVolumes(p *virt.Pool) (complete, parts []virt.Volume) {
	if p == nil {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(p.Volumes)) {
		rest, ours := strings.CutPrefix(name, b.volumeName(1))
		if n, err := strconv.Atoi(strings.TrimPrefix(rest, "-")); !ours || rest != "" && (err != nil || name != b.volumeName(n)) {
			continue
		}
		if hasVolume(p, name+marker) {
			complete = append(complete, p.Volumes[name])
		} else {
			parts = append(parts, p.Volumes[name])
		}
	}
	return complete, parts
}

// in finds a complete volume of the image in the pool.
func (b Base) completeIn(p *virt.Pool) (volume string, ok bool) {
	complete, _ := b.findVolumes(p)
	if len(complete) == 0 {
		return "", false
	}
	return complete[0].Name, true
}

// free is the first name that is not in use, not even by a marker.
func (b Base) freeName(p *virt.Pool) string {
	n := 1
	for hasVolume(p, b.volumeName(n)) || hasVolume(p, b.volumeName(n)+marker) {
		n++
	}
	return b.volumeName(n)
}

// stallAfter is how long a volume may stay as it is before its writer
// counts as dead. Wrong is only slow: then both write, each their own.
const stallAfter = 10 * time.Second

// pace is how a volume that somebody else writes is waited for.
type uploadWait struct {
	stall time.Duration // stallAfter
	poll  time.Duration // between two looks
}

// pacing is w's pace, the usual one if it has none.
func (w Wanted) waitOrDefault() uploadWait {
	if w.wait != (uploadWait{}) {
		return w.wait
	}
	return uploadWait{stall: stallAfter, poll: 500 * time.Millisecond}
}

// watch knows since when the parts of a base have not changed.
type growthWatch map[string]struct {
	volume virt.Volume
	since  time.Time
}

// growing returns a part that was written to less than stall ago.
func (w growthWatch) growing(parts []virt.Volume, stall time.Duration) (virt.Volume, bool) {
	now := time.Now()
	for _, v := range parts {
		k, seen := w[v.Name]
		switch {
		case !seen && !v.Modified.IsZero() && v.Modified.Before(now):
			k.since = v.Modified
		case !seen || k.volume != v:
			k.since = now
		}
		k.volume = v
		w[v.Name] = k
		if now.Sub(k.since) < stall {
			return v, true
		}
	}
	return virt.Volume{}, false
}

// readPool reads the pool anew.
func readPool(ctx context.Context, l Libvirt, baseDir string) (*virt.Pool, error) {
	p, err := l.PoolAt(ctx, baseDir)
	if errors.Is(err, virt.ErrNotFound) || err == nil && !p.Active {
		return nil, fmt.Errorf("the storage pool at %s is gone: %w", baseDir, plan.ErrStale)
	}
	return p, err
}

// uploadBase puts the image into the pool, unless somebody else does or did.
func uploadBase(ctx context.Context, l Libvirt, pool string, w Wanted) error {
	base, err := w.Base()
	if err != nil {
		return err
	}
	wait := w.waitOrDefault()
	for seen := (growthWatch{}); ; {
		p, err := readPool(ctx, l, w.BaseDir)
		if err != nil {
			return err
		}
		if _, ok := base.completeIn(p); ok {
			return nil
		}
		_, parts := base.findVolumes(p)
		if v, ok := seen.growing(parts, wait.stall); ok {
			plan.Report(ctx, "waiting for another aivm that puts the image there", min(float64(v.Allocation)/float64(max(base.Size, 1)), 1))
			if err := pause.For(ctx, wait.poll); err != nil {
				return err
			}
			continue
		}
		name := base.freeName(p)
		switch err := writeVolume(ctx, l, pool, name, base); {
		case errors.Is(err, virt.ErrExists):
			continue // somebody was quicker
		case err != nil:
			return err
		}
		if finished, err := markComplete(ctx, l, pool, name, base, w.BaseDir); finished || err != nil {
			return err
		}
	}
}

// write makes the volume and fills it; ErrExists if somebody else makes it.
func writeVolume(ctx context.Context, l Libvirt, pool, name string, base Base) error {
	r, err := base.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	// Created raw so that libvirt takes the bytes as they are; a refresh then
	// reads the format from the header. 0400: nobody writes to a base, and nobody
	// but QEMU, whose user libvirt gives the file to when a VM starts, reads it: an
	// image that was made of a VM may hold secrets.
	if err := l.CreateVolume(ctx, pool, virt.NewVolume{Name: name, Format: "raw", Mode: "0400", Capacity: uint64(base.Size)}); err != nil {
		return err
	}
	pr := &progressReader{r: r, ctx: ctx, total: base.Size}
	if err := l.Upload(ctx, pool, name, pr, uint64(base.Size)); err != nil {
		return errors.Join(err, l.DeleteVolume(context.WithoutCancel(ctx), pool, name))
	}
	return nil
}

// finish marks the volume this run has written, and removes what is not needed
// any more: its own, if another one was completed meanwhile, or the parts dead
// runs left. It reports false when its own was taken for such a part.
func markComplete(ctx context.Context, l Libvirt, pool, name string, base Base, baseDir string) (bool, error) {
	p, err := readPool(ctx, l, baseDir)
	if err != nil {
		return false, err
	}
	if v, ok := base.completeIn(p); ok && v != name {
		return true, l.DeleteVolume(ctx, pool, name)
	}
	if !hasVolume(p, name) {
		return false, nil
	}
	err = l.CreateVolume(ctx, pool, virt.NewVolume{Name: name + marker, Format: "raw", Mode: "0400", Capacity: 0})
	if err != nil && !errors.Is(err, virt.ErrExists) {
		return false, err
	}
	_, parts := base.findVolumes(p)
	for _, v := range parts {
		if v.Name != name && !hasOverlay(p, v) {
			// One that cannot be removed takes room and does no harm.
			_ = l.DeleteVolume(ctx, pool, v.Name)
		}
	}
	return true, nil
}

// backs reports whether a disk in the pool is an overlay of v.
func hasOverlay(p *virt.Pool, v virt.Volume) bool {
	for _, o := range p.Volumes {
		if o.Backing != "" && o.Backing == v.Path {
			return true
		}
	}
	return false
}

type progressReader struct {
	r           io.Reader
	ctx         context.Context
	done, total int64
	reported    time.Time
}

func (p *progressReader) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	p.done += int64(n)
	if time.Since(p.reported) > 100*time.Millisecond {
		p.reported = time.Now()
		plan.Report(p.ctx, "", float64(p.done)/float64(max(p.total, 1)))
	}
	return n, err
}
