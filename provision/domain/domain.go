// Package domain owns the libvirt domain of a VM: its XML, its disk and seed volumes,
// and its life cycle (define, start, stop, delete).
//
// It never touches a domain without aivm's mark and this user's uid, never reads a
// definition to change and redefine it, and deletes a disk only for `vm delete`.
// Invariants: an existing disk is used, never replaced; the seed has mode 0600 and is
// removed after the first boot.
package domain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// PoolName is the libvirt storage pool of all VMs whose disks are in the default
// directory.
const PoolName = "aivm"

// Libvirt has the calls this package makes to libvirt.
type Libvirt interface {
	PoolAt(ctx context.Context, path string) (*virt.Pool, error)
	EnsurePool(ctx context.Context, name, path string) error
	CreateVolume(ctx context.Context, pool string, v virt.NewVolume) error
	Upload(ctx context.Context, pool, name string, r io.Reader, size uint64) error
	DeleteVolume(ctx context.Context, pool, name string) error
	Define(ctx context.Context, desc string) error
	Start(ctx context.Context, name string) error
	Shutdown(ctx context.Context, name string) error
	Destroy(ctx context.Context, name string) error
	Undefine(ctx context.Context, name string) error
	DetachDisk(ctx context.Context, name, serial string) error
	Domain(ctx context.Context, name string) (*virt.Domain, error)
	Resize(ctx context.Context, name string, vcpus, ramMB int) error
	SetDiscard(ctx context.Context, name, target string) error
	ReadVolume(ctx context.Context, path string, offset, n uint64) ([]byte, error)
	WriteVolume(ctx context.Context, path string, offset uint64, b []byte) error
}

// Facts is what was read from libvirt. A known nil value means absent.
type Facts struct {
	Domain plan.Known[*virt.Domain]
	Pool   plan.Known[*virt.Pool]
	// OldDisk: the disk has a qcow2 version that is changed before the next start. It is read only
	// for a VM that is to be started.
	OldDisk bool
}

// Wanted is the VM as it should be.
type Wanted struct {
	Spec    Spec
	Key     string // root.VMKey; names the volumes
	DiskGB  int
	BaseDir string
	Base    func() (Base, error) // a function, since the image may still have to be built
	Seed    func() ([]byte, error)
	Boot    bool // start it too
	// Elsewhere is set if its disk is not in the pool, as that of an adopted VM of aivm
	// 0.3.
	Elsewhere bool

	wait uploadWait // of the wait for another run that uploads the image
}

// Names of the volumes of a VM.
func diskVolume(key string) string   { return key + ".qcow2" }
func seedVolume(key string) string   { return key + ".seed" }
func serialVolume(key string) string { return key + ".serial.log" }

// DiskPath, SeedPath and SerialPath return the paths of a VM's files.
func DiskPath(baseDir, key string) string   { return baseDir + "/" + diskVolume(key) }
func SeedPath(baseDir, key string) string   { return baseDir + "/" + seedVolume(key) }
func SerialPath(baseDir, key string) string { return baseDir + "/" + serialVolume(key) }

// SerialVolume returns the volume name of a VM's serial log.
func SerialVolume(key string) string { return serialVolume(key) }

// PoolFor returns the name of the pool for a base directory: that of the existing pool p,
// PoolName for the default directory, or a name with a hash of any other directory.
func PoolFor(p *virt.Pool, baseDir, defaultDir string) string {
	if p != nil {
		return p.Name
	}
	if baseDir == defaultDir {
		return PoolName
	}
	return fmt.Sprintf("%s-%x", PoolName, fnv32(baseDir))
}

// fnv32 returns the 32-bit FNV-1a hash of s.
func fnv32(s string) uint32 {
	h := uint32(2166136261)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

// Foreign returns the sentence about a domain that is not aivm's, for every command the same.
func Foreign(vm string) string {
	return fmt.Sprintf("VM name %q is taken by a domain that aivm neither created nor adopted", vm)
}

// CheckOwner refuses a domain that does not belong to this user.
func CheckOwner(d *virt.Domain, owner int) error {
	if d == nil || d.Mark.By(owner) {
		return nil
	}
	if d.Mark.Exists {
		return ui.Refused("VM name %q is taken: the domain of that name belongs to another user (uid %d)", d.Name, d.Mark.Owner).
			Hint(ui.CmdFor("choose another name", "aivm vm create NAME && aivm code . --vm NAME"), ui.Cmd(d.Libvirt.Virsh("list --all")))
	}
	// Only a VM in the config can be adopted, see target.NotAdopted.
	return ui.Refused("%s", Foreign(d.Name)).
		Hint(ui.Remark("made by aivm 0.3? adopt it with the config that has its record (vm adopt --config FILE)"),
			ui.CmdFor("not yours? choose another name", "aivm vm create NAME && aivm code . --vm NAME"), ui.Cmd(d.Libvirt.Virsh("dominfo ")+d.Name))
}

// Plan plans what is missing until the VM exists and, with w.Boot, runs.
func Plan(f Facts, w Wanted, pool string, lv func() (Libvirt, error)) ([]plan.Action, error) {
	if f.Domain.Err != nil {
		return nil, fmt.Errorf("reading the domain %q: %w", w.Spec.Name, f.Domain.Err)
	}
	d := f.Domain.Value
	if err := CheckOwner(d, w.Spec.Owner); err != nil {
		return nil, err
	}
	var out []plan.Action
	if d == nil {
		a, err := planCreate(f, w, pool, lv)
		if err != nil {
			return nil, err
		}
		out = a
	} else if d.State != virt.Running && f.Pool.Err == nil && !active(f.Pool.Value) {
		// The volumes of an inactive pool are unknown, not missing.
		return []plan.Action{ensurePool(w, pool, plan.None, lv)}, nil
	} else if d.State != virt.Running && f.Pool.Err == nil && !w.Elsewhere && !hasVolume(f.Pool.Value, diskVolume(w.Key)) {
		return nil, ui.Refused("the disk of VM %q is missing: %s", w.Spec.Name, DiskPath(w.BaseDir, w.Key)).
			Hint(ui.CmdFor("restore the file, or delete the VM", "aivm vm delete "+w.Spec.Name))
	}
	if p := f.Pool.Value; active(p) && p.Open && (d == nil || w.Boot && d.State != virt.Running) {
		out = append([]plan.Action{restrictPool(w, pool, lv)}, out...)
	}
	if w.Boot && (d == nil || d.State != virt.Running) {
		out = append(out, plan.Action{
			ID: "domain.start", Why: "start the VM " + w.Spec.Name,
			Shows: []string{"virsh start " + w.Spec.Name}, Timing: "define",
			Do: with(lv, func(ctx context.Context, l Libvirt) error { return startErr(w.Spec.Name, l.Start(ctx, w.Spec.Name)) }),
		})
	}
	return out, nil
}

// startErr adds hints to the error of starting a VM.
func startErr(name string, err error) error {
	if err == nil {
		return nil
	}
	return ui.Failed("starting VM %q: %w", name, err).
		Hint(ui.Cmd("aivm host doctor"), ui.Cmd("sudo tail /var/log/libvirt/qemu/"+name+".log"))
}

// hasVolume reports whether the pool has a volume of that name; false for a nil pool.
func hasVolume(p *virt.Pool, name string) bool {
	if p == nil {
		return false
	}
	_, ok := p.Volumes[name]
	return ok
}

// planCreate plans to create the VM's volumes and to define its domain.
func planCreate(f Facts, w Wanted, pool string, lv func() (Libvirt, error)) ([]plan.Action, error) {
	if f.Pool.Err != nil {
		return nil, fmt.Errorf("reading the storage pool: %w", f.Pool.Err)
	}
	var out []plan.Action
	if !active(f.Pool.Value) {
		out = append(out, ensurePool(w, pool, plan.Ask, lv))
	}
	base, err := w.Base()
	if _, there := base.completeIn(f.Pool.Value); err != nil || !there {
		out = append(out, plan.Action{
			ID: "image.upload", Why: "upload the guest image to the storage pool, once for all VMs",
			Shows: []string{"virsh vol-upload"}, Consent: plan.Ask, Timing: "image",
			Do: with(lv, func(ctx context.Context, l Libvirt) error { return uploadBase(ctx, l, pool, w) }),
		})
	}
	if !hasVolume(f.Pool.Value, diskVolume(w.Key)) {
		out = append(out, plan.Action{
			ID: "disk.create", Why: fmt.Sprintf("create a disk of up to %d GB (it grows as it is used) at %s", w.DiskGB, DiskPath(w.BaseDir, w.Key)),
			Shows: []string{"qemu-img create -f qcow2 -b BASE " + DiskPath(w.BaseDir, w.Key)}, Consent: plan.Ask, Timing: "define",
			Do: with(lv, func(ctx context.Context, l Libvirt) error { return makeDisk(ctx, l, pool, w) }),
		})
	}
	out = append(out,
		plan.Action{
			ID: "seed.create", Why: "write the settings of the first boot (user, key, host key) to a seed disk that only root can read",
			Shows: []string{"write " + SeedPath(w.BaseDir, w.Key)}, Consent: plan.Ask, Timing: "define",
			Do: with(lv, func(ctx context.Context, l Libvirt) error { return writeSeed(ctx, l, pool, w) }),
		},
		plan.Action{
			ID: "domain.define", Why: fmt.Sprintf("define the VM %s: %d CPUs, %d MB of memory, %s", w.Spec.Name, w.Spec.VCPUs, w.Spec.RAMMB, accelName(w.Spec.Accel)),
			Shows: []string{"virsh define (" + w.Spec.Name + ")"}, Consent: plan.Ask, Timing: "define",
			Do: with(lv, func(ctx context.Context, l Libvirt) error { return define(ctx, l, w.Spec) }),
		})
	return out, nil
}

// active reports whether the pool exists and is active.
func active(p *virt.Pool) bool { return p != nil && p.Active }

// ensurePool is the action that defines or starts the pool. The pool's volumes are known
// only after that, so what follows is planned again.
func ensurePool(w Wanted, pool string, c plan.Consent, lv func() (Libvirt, error)) plan.Action {
	return plan.Action{
		ID: "pool.ensure", Why: "keep VM disks in the libvirt storage pool " + w.BaseDir,
		Shows:   []string{fmt.Sprintf("virsh pool-define-as %s dir --target %s", pool, w.BaseDir), "virsh pool-start " + pool},
		Consent: c, Timing: "define", Again: true,
		Do: with(lv, func(ctx context.Context, l Libvirt) error { return l.EnsurePool(ctx, pool, w.BaseDir) }),
	}
}

// restrictPool is the action that gives the directory of a pool an older aivm created the
// mode of a new one. With the old mode every user who knew a file's name could open it,
// and QEMU's command line shows the names.
func restrictPool(w Wanted, pool string, lv func() (Libvirt, error)) plan.Action {
	return plan.Action{
		ID: "pool.close", Why: "deny other users access to the directory of VM disks " + w.BaseDir,
		Shows:  []string{"chmod 0710 " + w.BaseDir},
		Timing: "define",
		Do:     with(lv, func(ctx context.Context, l Libvirt) error { return l.EnsurePool(ctx, pool, w.BaseDir) }),
	}
}

func accelName(a string) string {
	if a == "kvm" {
		return "KVM"
	}
	return "emulated CPU"
}

// with turns f into an action's Do: it connects to libvirt and retries while libvirt is
// busy with the pool.
func with(lv func() (Libvirt, error), f func(context.Context, Libvirt) error) func(context.Context) error {
	return func(ctx context.Context) error {
		l, err := lv()
		if err != nil {
			return err
		}
		return f(ctx, busyRetrier{l})
	}
}

// makeDisk creates the VM's overlay on the image that is in the pool now.
func makeDisk(ctx context.Context, l Libvirt, pool string, w Wanted) error {
	base, err := w.Base()
	if err != nil {
		return err
	}
	if base.Disk > int64(w.DiskGB)<<30 {
		return TooSmall(base.Disk, w.DiskGB)
	}
	p, err := readPool(ctx, l, w.BaseDir)
	if err != nil {
		return err
	}
	volume, ok := base.completeIn(p)
	if !ok {
		return fmt.Errorf("the guest image was removed from the storage pool: %w", plan.ErrStale)
	}
	return staleIfExists(l.CreateVolume(ctx, pool, virt.NewVolume{
		Name: diskVolume(w.Key), Format: "qcow2", Mode: "0600", Capacity: uint64(w.DiskGB) << 30,
		BackingPath: w.BaseDir + "/" + volume, BackingFormat: base.Format,
	}))
}

// TooSmall refuses a disk of gb GB that is smaller than the disk in the image, of image
// bytes.
func TooSmall(image int64, gb int) error {
	need := (image + 1<<30 - 1) >> 30
	return ui.Refused("a disk of %d GB is smaller than the disk in the image, which has %d GB", gb, need).
		Hint(ui.Remark(fmt.Sprintf("use a larger disk: --disk-gb %d, or defaults.vm.disk_gb in the config", need)))
}

// staleIfExists adds ErrStale to the error that a volume exists: another run has created
// it since the plan, so the facts must be observed again.
func staleIfExists(err error) error {
	if errors.Is(err, virt.ErrExists) {
		return fmt.Errorf("%w: %w", err, plan.ErrStale)
	}
	return err
}

// define defines the domain. If another process has defined one of that name since the
// plan, libvirt refuses, and ErrStale makes the run observe and plan again.
func define(ctx context.Context, l Libvirt, s Spec) error {
	desc, err := XML(s)
	if err != nil {
		return err
	}
	err = l.Define(ctx, desc)
	if err == nil {
		return nil
	}
	switch d, derr := l.Domain(ctx, s.Name); {
	case errors.Is(derr, virt.ErrNotFound):
		return err
	case derr != nil:
		return errors.Join(err, derr)
	case d.UUID == s.UUID:
		return err
	}
	return fmt.Errorf("another process defined a domain %q: %w", s.Name, plan.ErrStale)
}

func writeSeed(ctx context.Context, l Libvirt, pool string, w Wanted) error {
	b, err := w.Seed()
	if err != nil {
		return err
	}
	if err := l.DeleteVolume(ctx, pool, seedVolume(w.Key)); err != nil {
		return err
	}
	if err := l.CreateVolume(ctx, pool, virt.NewVolume{Name: seedVolume(w.Key), Format: "raw", Mode: "0600", Capacity: uint64(len(b))}); err != nil {
		return staleIfExists(err)
	}
	return l.Upload(ctx, pool, seedVolume(w.Key), bytes.NewReader(b), uint64(len(b)))
}

// PlanRemoveSeed plans to remove the seed after the first boot; no actions if it is
// already gone.
func PlanRemoveSeed(f Facts, name, key, pool string, lv func() (Libvirt, error)) []plan.Action {
	attached := false
	if d := f.Domain.Value; f.Domain.Err == nil && d != nil {
		_, attached = d.StoredDisk(SeedSerial)
	}
	if !attached && (f.Pool.Err != nil || !hasVolume(f.Pool.Value, seedVolume(key))) {
		return nil
	}
	return []plan.Action{{
		ID: "seed.remove", Why: "remove the seed of the first boot",
		Shows: []string{"virsh detach-disk " + name + " vdb --persistent", "virsh vol-delete " + seedVolume(key)}, Timing: "define",
		Do: with(lv, func(ctx context.Context, l Libvirt) error {
			if err := l.DetachDisk(ctx, name, SeedSerial); err != nil {
				return err
			}
			return l.DeleteVolume(ctx, pool, seedVolume(key))
		}),
	}}
}

// OpenFile returns a Base.Open for a file of the cache.
func OpenFile(path string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return os.Open(path) }
}
