package domain

import (
	"context"
	"errors"
	"strings"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// To make an image of a VM, aivm boots and cleans a copy of it: a transient domain, which
// libvirt forgets when it is off, on an overlay of the VM's disk. The VM's own disk is
// only read. If the run is killed, the next run that touches the VM removes the copy.

// CopyName returns the name of the copy's domain.
func CopyName(vm string) string { return vm + "-prepare" }

func copyVolume(key string) string { return key + ".prepare.qcow2" }
func copySerial(key string) string { return key + ".prepare.log" }

// PlanDropCopy plans to remove the copy of a VM; no actions if nothing of it exists.
func PlanDropCopy(p *virt.Pool, name, key string, owner int, pool string, lv func() (Libvirt, error)) []plan.Action {
	if !hasVolume(p, copyVolume(key)) && len(logVolumes(p, copySerial(key))) == 0 {
		return nil
	}
	dir := p.Path
	return []plan.Action{{
		ID: "copy.drop", Why: "remove the copy of VM " + name + " that was made to prepare an image",
		Shows: []string{"virsh destroy " + CopyName(name), "virsh vol-delete --pool " + pool + " " + copyVolume(key)},
		Do:    with(lv, func(ctx context.Context, l Libvirt) error { return DropCopy(ctx, l, name, key, owner, pool, dir) }),
	}}
}

// DropCopy stops the copy's domain, if aivm made it, and deletes its volumes. dir is the
// pool's directory.
func DropCopy(ctx context.Context, l Libvirt, name, key string, owner int, pool, dir string) error {
	d, err := l.Domain(ctx, CopyName(name))
	switch {
	case errors.Is(err, virt.ErrNotFound):
	case err != nil:
		return err
	case d.Mark.By(owner):
		disk, ok := d.Disk(DiskSerial)
		if !ok || disk.File == "" || !isCopy(disk.File, key) {
			break // a VM that happens to have that name
		}
		if err := l.Destroy(ctx, d.Name); err != nil && !errors.Is(err, virt.ErrNotFound) {
			return err
		}
	}
	l = busyRetrier{l}
	if err := deleteLogs(ctx, l, pool, dir, copySerial(key)); err != nil {
		return err
	}
	return l.DeleteVolume(ctx, pool, copyVolume(key))
}

// isCopy reports whether file is the path of the copy's disk.
func isCopy(file, key string) bool {
	v := "/" + copyVolume(key)
	return len(file) > len(v) && file[len(file)-len(v):] == v
}

// Chain returns the volumes of a VM's disk and its backing files, the disk first.
func Chain(p *virt.Pool, top string) ([]virt.Volume, error) {
	var out []virt.Volume
	for path := top; path != ""; {
		found := false
		for _, v := range p.Volumes {
			if v.Path == path {
				out, path, found = append(out, v), v.Backing, true
				break
			}
		}
		if !found || len(out) > 64 {
			return nil, ui.Refused("the disk %s is not in the storage pool at %s", path, p.Path).Hint(ui.Cmd(p.Libvirt.Virsh("vol-list --pool ") + p.Name))
		}
	}
	return out, nil
}

// MakeCopy creates an overlay on a VM's disk and boots the copy from it. s is the VM's own
// spec.
func MakeCopy(ctx context.Context, l Copier, pool, baseDir string, disk virt.Volume, key string, s Spec) error {
	err := l.CreateVolume(ctx, pool, virt.NewVolume{
		Name: copyVolume(key), Format: "qcow2", Mode: "0600", Capacity: disk.Capacity, BackingPath: disk.Path, BackingFormat: "qcow2",
	})
	if err != nil {
		return err
	}
	// No shared folders and no seed: the copy has no access to the host.
	s.Name, s.SeedPath, s.ExportRoot = CopyName(s.Name), "", ""
	s.DiskPath, s.SerialLog = baseDir+"/"+copyVolume(key), baseDir+"/"+copySerial(key)
	desc, err := XML(s)
	if err != nil {
		return err
	}
	if d, err := l.Domain(ctx, s.Name); err == nil {
		return ui.Refused("a domain %q exists already, and the copy would have the same name", s.Name).Hint(ui.Cmd(d.Libvirt.Virsh("dominfo ") + s.Name))
	} else if !errors.Is(err, virt.ErrNotFound) {
		return err
	}
	if err := l.Boot(ctx, desc); err != nil {
		return ui.Failed("starting the copy of VM %s: %w", strings.TrimSuffix(s.Name, "-prepare"), err).
			Hint(ui.CmdFor("check whether the VM itself starts", "aivm vm up "+strings.TrimSuffix(s.Name, "-prepare")))
	}
	return nil
}

// CopyPath returns the path of the copy's disk.
func CopyPath(baseDir, key string) string { return baseDir + "/" + copyVolume(key) }

// CopySerial returns the volume name of the copy's serial log.
func CopySerial(key string) string { return copySerial(key) }

// Copier has the calls that making a copy needs in addition to Libvirt.
type Copier interface {
	Libvirt
	Boot(ctx context.Context, desc string) error
}
