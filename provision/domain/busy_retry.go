package domain

import (
	"context"
	"errors"
	"time"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// busyRetrier repeats a call while libvirt is busy with the pool, in which other runs
// create their volumes too.
type busyRetrier struct{ Libvirt }

const (
	busyLimit = 2 * time.Minute
	busyEvery = 250 * time.Millisecond
)

func (l busyRetrier) PoolAt(ctx context.Context, path string) (p *virt.Pool, err error) {
	err = whileBusy(ctx, func() error { p, err = l.Libvirt.PoolAt(ctx, path); return err })
	return p, err
}

func (l busyRetrier) EnsurePool(ctx context.Context, name, path string) error {
	return whileBusy(ctx, func() error { return l.Libvirt.EnsurePool(ctx, name, path) })
}

func (l busyRetrier) DeleteVolume(ctx context.Context, pool, name string) error {
	return whileBusy(ctx, func() error { return l.Libvirt.DeleteVolume(ctx, pool, name) })
}

// whileBusy repeats f while it returns virt.ErrBusy, for at most busyLimit.
func whileBusy(ctx context.Context, f func() error) error {
	for start := time.Now(); ; {
		err := f()
		if !errors.Is(err, virt.ErrBusy) || time.Since(start) > busyLimit {
			return err
		}
		plan.Report(ctx, "waiting for libvirt, which is busy with the storage pool", -1)
		if err := pause.For(ctx, busyEvery); err != nil {
			return err
		}
	}
}
