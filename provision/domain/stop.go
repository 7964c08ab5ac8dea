package domain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// StopLimit is how long aivm waits for a guest to power off.
const StopLimit = 120 * time.Second

// PlanStop plans to stop a running VM: by the power button, or, with force, by ending
// QEMU at once.
func PlanStop(d *virt.Domain, force bool, lv func() (Libvirt, error)) []plan.Action {
	if d == nil || d.State == virt.Off {
		return nil
	}
	if force {
		return []plan.Action{{
			ID: "domain.destroy", Why: "switch off VM " + d.Name + " at once", Shows: []string{"virsh destroy " + d.Name},
			Do: with(lv, func(ctx context.Context, l Libvirt) error {
				if err := l.Destroy(ctx, d.Name); !errors.Is(err, virt.ErrNotFound) {
					return err
				}
				return nil // the domain does not exist any more
			}),
		}}
	}
	var out []plan.Action
	if d.State == virt.Paused {
		// QEMU pauses a guest by itself when the host's disk is full. Ending QEMU then
		// would lose what the guest has not yet written.
		out = append(out, plan.Action{
			ID: "domain.resume", Why: "resume the paused VM " + d.Name, Shows: []string{"virsh resume " + d.Name},
			Do: with(lv, func(ctx context.Context, l Libvirt) error { return l.Start(ctx, d.Name) }),
		})
	}
	return append(out, plan.Action{
		ID: "domain.shutdown", Why: "shut down VM " + d.Name, Shows: []string{"virsh shutdown " + d.Name},
		Do: with(lv, func(ctx context.Context, l Libvirt) error { return shutdown(ctx, l, d.Name) }),
	})
}

// EndsSessions returns the actions of a stop with the programs that are connected to the guest: if
// there are any, they are named, and the user is asked.
func EndsSessions(stop []plan.Action, sessions []string) []plan.Action {
	if last := len(stop) - 1; last >= 0 && len(sessions) > 0 {
		stop[last].Consent = plan.Ask
		stop[last].Why += "; this ends what is open in it: " + ui.Some(sessions, 5)
	}
	return stop
}

// shutdown presses the VM's power button until it is off, for at most StopLimit.
func shutdown(ctx context.Context, l Libvirt, name string) error {
	start := time.Now()
	asked := time.Time{}
	for {
		d, err := l.Domain(ctx, name)
		if errors.Is(err, virt.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.State == virt.Off {
			return nil
		}
		if time.Since(start) > StopLimit {
			return ui.Failed("VM %q did not power off within %s", name, StopLimit).
				Hint(ui.CmdFor("switch it off at once", "aivm vm down "+name+" --force"), ui.CmdFor("open its console", d.Libvirt.Virsh("console ")+name))
		}
		// A guest early in its boot ignores the power button: press it again.
		if time.Since(asked) > 20*time.Second {
			if err := l.Shutdown(ctx, name); err != nil {
				return err
			}
			asked = time.Now()
		}
		plan.Report(ctx, "waiting for the guest to power off", -1)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// PlanDelete plans to remove the domain and its volumes. The caller has made the user type
// the VM's name.
func PlanDelete(f Facts, name, key, pool string, lv func() (Libvirt, error)) ([]plan.Action, error) {
	if f.Domain.Err != nil {
		return nil, f.Domain.Err
	}
	if f.Pool.Err != nil {
		return nil, f.Pool.Err
	}
	var out []plan.Action
	if f.Domain.Value != nil {
		out = append(out, plan.Action{
			ID: "domain.delete", Why: "remove the VM " + name, Shows: []string{"virsh destroy " + name, "virsh undefine " + name}, Consent: plan.Typed,
			Do: with(lv, func(ctx context.Context, l Libvirt) error {
				now, err := l.Domain(ctx, name)
				if errors.Is(err, virt.ErrNotFound) {
					return nil
				}
				if err != nil {
					return err
				}
				if now.UUID != f.Domain.Value.UUID || now.Mark != f.Domain.Value.Mark {
					return fmt.Errorf("the domain %q was replaced by another one: %w", name, plan.ErrStale)
				}
				if err := l.Destroy(ctx, name); err != nil && !errors.Is(err, virt.ErrNotFound) {
					return err
				}
				if err := l.Undefine(ctx, name); err != nil && !errors.Is(err, virt.ErrNotFound) {
					return err
				}
				return nil
			}),
		})
	}
	for _, v := range []string{seedVolume(key), serialVolume(key), diskVolume(key)} {
		if logs := logVolumes(f.Pool.Value, v); v == serialVolume(key) && len(logs) > 0 {
			dir, shows := f.Pool.Value.Path, []string{}
			for _, n := range logs {
				shows = append(shows, "virsh vol-delete --pool "+pool+" "+n)
			}
			out = append(out, plan.Action{
				ID: "volume.delete:" + v, Why: "delete " + dir + "/" + v, Shows: shows, Consent: plan.Typed,
				Do: with(lv, func(ctx context.Context, l Libvirt) error { return deleteLogs(ctx, l, pool, dir, v) }),
			})
			continue
		}
		if !hasVolume(f.Pool.Value, v) {
			continue
		}
		out = append(out, plan.Action{
			ID: "volume.delete:" + v, Why: "delete " + f.Pool.Value.Volumes[v].Path, Shows: []string{"virsh vol-delete --pool " + pool + " " + v}, Consent: plan.Typed,
			Do: with(lv, func(ctx context.Context, l Libvirt) error { return l.DeleteVolume(ctx, pool, v) }),
		})
	}
	return out, nil
}

// Disk returns the VM's disk volume, whose size the question before a deletion shows.
func Disk(p *virt.Pool, key string) (virt.Volume, bool) {
	if p == nil {
		return virt.Volume{}, false
	}
	v, ok := p.Volumes[diskVolume(key)]
	return v, ok
}
