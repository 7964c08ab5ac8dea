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

// Base is the guest image that a VM's disk is an overlay of.
//
// In the pool it is a volume that all VMs of all users share. The first run that needs it
// uploads it; several runs may do so at the same time, or be killed during the upload.
// libvirt can neither rename nor lock a volume, but it creates each name only once. So a
// volume has one writer, the run that created it. A marker volume beside it shows that it
// is complete. A run that finds an incomplete volume that does not grow uploads the image
// under the next name; it does not delete the volume of a run that is only slow.
type Base struct {
	SHA256 string // hexadecimal; names the volume
	Format string // "qcow2" or "raw"
	Size   int64  // bytes of the file
	Disk   int64  // bytes of the disk in it, 0 = not known
	Open   func() (io.ReadCloser, error)
}

// volumeName returns the nth name of the image's volume. n is 1 unless an interrupted run
// has left an incomplete volume of that name.
func (b Base) volumeName(n int) string {
	name := basePrefix + b.SHA256[:min(sumDigits, len(b.SHA256))]
	if n > 1 {
		name += "-" + strconv.Itoa(n)
	}
	return name
}

const marker = ".done"

// findVolumes returns the image's volumes in the pool: the complete ones, and parts, those
// without a marker, which another run is writing or has left behind.
func (b Base) findVolumes(p *virt.Pool) (complete, parts []virt.Volume) {
	if p == nil {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(p.Volumes)) {
		rest, isBase := strings.CutPrefix(name, b.volumeName(1))
		if n, err := strconv.Atoi(strings.TrimPrefix(rest, "-")); !isBase || rest != "" && (err != nil || name != b.volumeName(n)) {
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

// completeIn returns the name of a complete volume of the image in the pool.
func (b Base) completeIn(p *virt.Pool) (volume string, ok bool) {
	complete, _ := b.findVolumes(p)
	if len(complete) == 0 {
		return "", false
	}
	return complete[0].Name, true
}

// freeName returns the first name that neither a volume nor a marker has.
func (b Base) freeName(p *virt.Pool) string {
	n := 1
	for hasVolume(p, b.volumeName(n)) || hasVolume(p, b.volumeName(n)+marker) {
		n++
	}
	return b.volumeName(n)
}

// stallAfter is how long a volume may stay unchanged before its writer counts as dead. If
// that is wrong, both runs upload the image, each its own volume: slower, but correct.
const stallAfter = 10 * time.Second

// uploadWait has the times of the wait for another run's upload.
type uploadWait struct {
	stall time.Duration // stallAfter
	poll  time.Duration // between two checks
}

// waitOrDefault returns w.wait, or the default times if it is not set.
func (w Wanted) waitOrDefault() uploadWait {
	if w.wait != (uploadWait{}) {
		return w.wait
	}
	return uploadWait{stall: stallAfter, poll: 500 * time.Millisecond}
}

// growthWatch records, by name, since when the incomplete volumes of a base have not changed.
type growthWatch map[string]struct {
	volume virt.Volume
	since  time.Time
}

// growing returns an incomplete volume that was written to less than stall ago.
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

// readPool reads the pool again.
func readPool(ctx context.Context, l Libvirt, baseDir string) (*virt.Pool, error) {
	p, err := l.PoolAt(ctx, baseDir)
	if errors.Is(err, virt.ErrNotFound) || err == nil && !p.Active {
		return nil, fmt.Errorf("the storage pool at %s does not exist any more: %w", baseDir, plan.ErrStale)
	}
	return p, err
}

// uploadBase uploads the image to the pool, unless another run does or did.
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
			plan.Report(ctx, "waiting for another aivm that uploads the image", min(float64(v.Allocation)/float64(max(base.Size, 1)), 1))
			if err := pause.For(ctx, wait.poll); err != nil {
				return err
			}
			continue
		}
		name := base.freeName(p)
		switch err := writeVolume(ctx, l, pool, name, base); {
		case errors.Is(err, virt.ErrExists):
			continue // another run created it first
		case err != nil:
			return err
		}
		if finished, err := markComplete(ctx, l, pool, name, base, w.BaseDir); finished || err != nil {
			return err
		}
	}
}

// writeVolume creates the volume and uploads the image; virt.ErrExists if another run has
// created it.
func writeVolume(ctx context.Context, l Libvirt, pool, name string, base Base) error {
	r, err := base.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	// Created as raw, so that libvirt takes the bytes as they are; a refresh then reads the
	// format from the header. Mode 0400: nobody writes to a base, and only QEMU, whose user
	// libvirt makes the file's owner when a VM starts, reads it: an image that was made of
	// a VM may hold secrets.
	if err := l.CreateVolume(ctx, pool, virt.NewVolume{Name: name, Format: "raw", Mode: "0400", Capacity: uint64(base.Size)}); err != nil {
		return err
	}
	pr := &progressReader{r: r, ctx: ctx, total: base.Size}
	if err := l.Upload(ctx, pool, name, pr, uint64(base.Size)); err != nil {
		return errors.Join(err, l.DeleteVolume(context.WithoutCancel(ctx), pool, name))
	}
	return nil
}

// markComplete marks the volume this run has written as complete, and deletes what is not
// needed any more: its own volume, if another one was completed first, else the incomplete
// ones of dead runs. It reports false if another run took its volume for such a one and
// deleted it.
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
			// A part that cannot be deleted only takes up space.
			_ = l.DeleteVolume(ctx, pool, v.Name)
		}
	}
	return true, nil
}

// hasOverlay reports whether a disk in the pool is an overlay of v.
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
	lastReport  time.Time
}

func (p *progressReader) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	p.done += int64(n)
	if time.Since(p.lastReport) > 100*time.Millisecond {
		p.lastReport = time.Now()
		plan.Report(p.ctx, "", float64(p.done)/float64(max(p.total, 1)))
	}
	return n, err
}
