package provision

import (
	"context"
	"errors"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
	"aivm.dev/aivm/sshcfg"
)

// planned is the result of planning one observation: the plan for the host, and the values it decided.
type planned struct {
	plan.Plan
	machine.Chosen
	writesAlias bool         // the plan writes the ssh entry
	skipped     loop.Skipped // the folders that the run does without
}

// planHost plans everything that is missing on the host for w. before is the result for the last
// observation of this run, nil at the first: a decision does not change within a run.
func (e *Env) planHost(ctx context.Context, w *target.Target, f *loop.Facts, before *planned) (planned, error) {
	p := planned{Plan: plan.Plan{Stage: plan.Host}, Chosen: machine.CurrentChoice(w, f), skipped: f.Skipped}
	if before != nil {
		p.Record, p.Network = before.Record, before.Network
	}
	first, proceed, err := e.planPrerequisites(w, f)
	if p.Join(first); err != nil || !proceed {
		return p, err
	}
	if f.StartsVM(w) {
		if w.NoEditor != "" {
			p.Say(w.NoEditor) // before the boot, in which an editor can be installed
		}
		vm, err := e.planVM(ctx, w, f)
		if p.Notes = append(p.Notes, vm.Notes...); err != nil {
			return p, err
		}
		p.Chosen, p.skipped = vm.Chosen, vm.skipped
		p.Add(vm.Actions...)
	} else if w.Guest && (f.Conn != nil || f.Running()) {
		rules, err := e.PlanFirewall(w, f)
		if p.Join(rules); err != nil {
			return p, err
		}
	}
	p.Add(folders.For(e.Loop).PlanPendingDetach(w, f)...)
	shared, err := folders.For(e.Loop).PlanHost(p.Plan, w, f, p.skipped)
	p.skipped = shared.Skipped
	if p.Join(shared.Plan); err != nil {
		return p, err
	}
	remote, err := clones.For(e.Loop).PlanHost(w, f)
	if p.Add(remote...); err != nil {
		return p, err
	}
	alias, err := machine.For(e.Loop).PlanAlias(w, f, p.Chosen)
	if p.Join(alias); err != nil {
		return p, err
	}
	p.writesAlias = !alias.Empty()
	p.Add(machine.For(e.Loop).PlanStoreVM(w, p.Chosen)...)
	p.Add(editors.PlanServer(f.Server)...)
	return p, nil
}

// planPrerequisites plans what comes before the VM itself: access to libvirt, and the conversion of
// an adopted VM. proceed is false if nothing more can be planned, and nothing more has to be read,
// before another observation.
func (e *Env) planPrerequisites(w *target.Target, f *loop.Facts) (p plan.Plan, proceed bool, err error) {
	p.Stage = plan.Host
	access, proceed, err := e.planAccess(w, f)
	if p.Add(access...); err != nil || !proceed {
		return p, false, err
	}
	if err := machine.For(e.Loop).CheckIdentity(w, f); err != nil {
		return p, false, err
	}
	if w.Image != "" && !w.NewVM && f.Domain.Domain.Err == nil && f.Domain.Domain.Value != nil {
		p.Say("VM " + w.Name + " already has a disk: --image is ignored, it applies only to a new VM")
	}
	move, err := legacy03.For(e.Loop).PlanMove(w, f)
	p.Add(move...)
	return p, err == nil && len(move) == 0, err
}

// PlanFirewall plans to load the missing rules of the VM's network before its guest is used.
func (e *Env) PlanFirewall(w *target.Target, f *loop.Facts) (plan.Plan, error) {
	return walls.For(e.Loop).PlanUse(w.Network, f)
}

// ObserveFirewall reads into f what PlanFirewall needs.
func (e *Env) ObserveFirewall(ctx context.Context, w *target.Target, f *loop.Facts) {
	walls.For(e.Loop).ObserveForUse(ctx, w.Network, f)
}

// planAccess plans what is needed to ask libvirt, if the plan depends on its answer: packages,
// daemons, access. proceed is false if nothing more can be planned before another observation.
func (e *Env) planAccess(w *target.Target, f *loop.Facts) (as []plan.Action, proceed bool, err error) {
	if f.StartsVM(w) {
		as, err := e.PlanHostTools(f.Creation.Host, host.Need{Image: f.NewDomain() && f.Creation.Image.Builds()})
		if err != nil {
			return nil, false, err
		}
		if len(as) > 0 {
			as[len(as)-1].Again = true
			// If libvirt is installed but not running, start it and observe again. If it is not
			// installed, it has no domains, and the complete plan can be shown.
			return as, f.Domain.Domain.Err == nil, nil
		}
	}
	needsLibvirt := f.StartsVM(w) || w.Folder != nil && f.Conn == nil || f.Conn != nil && folders.NeedsLibvirt(w, f)
	// A run was killed between the first login and the removal of the seed.
	staleSeed := f.Conn != nil && f.Inst.SeedLeft && f.Guest.Boot.SeedRead && errors.Is(f.Virt.Err, virt.ErrDenied)
	if needsLibvirt && f.Domain.Domain.Err != nil || staleSeed {
		open, err := e.PlanLibvirt(f.Virt.Err, f.Socket)
		if err != nil {
			return nil, false, err
		}
		return []plan.Action{open}, false, nil
	}
	return nil, true, nil
}

// planVM plans the VM itself: image, network, address, disk, domain, boot.
func (e *Env) planVM(ctx context.Context, w *target.Target, f *loop.Facts) (planned, error) {
	newDomain := f.NewDomain()
	baseDir, key := e.BaseDir(w.Record.Paths), e.Key(w.Name)
	p := planned{Plan: plan.Plan{Stage: plan.Host}, skipped: f.Skipped}
	c, notes, err := machine.Choose(w, f, f.Creation.Host, e.UID, key, baseDir)
	if err != nil {
		return p, err
	}
	for _, s := range notes {
		p.Warn(s)
	}
	ids, err := f.Creation.Identities.Value, f.Creation.Identities.Err
	if err != nil {
		return p, err
	}
	var imageActions []plan.Action
	var base func() (domain.Base, error)
	ownKey := ""
	if newDomain {
		own := sshcfg.PlanOwnKey(e.SSH, ids)
		if p.Add(own...); len(own) > 0 {
			ownKey = e.SSH.OwnKeyPath()
		}
		image, disk, err := images.For(e.Loop).Plan(w, f.Creation.Image)
		if p.Notes = append(p.Notes, image.Notes...); err != nil {
			return p, err
		}
		c.Record.Image.Name = images.Name(w, f.Creation.Image)
		imageActions, base = image.Actions, disk
		if c.Record.VM.DiskGB, err = images.RoomFor(w, base, c.Record.VM.DiskGB); err != nil {
			return p, err
		}
	}
	inst := machine.InstanceFor(w, f, c, ids, ownKey)
	c.Instance = &inst
	p.Add(machine.For(e.Loop).PlanState(w, f, inst)...)
	p.Add(imageActions...)
	walled, err := e.planNetwork(ctx, w, f, c)
	if p.Join(walled); err != nil {
		return p, err
	}
	eas, err := share.PlanHost(f.Share, key, nil, nil)
	if err != nil {
		return p, err
	}
	p.Add(eas...)
	pool := domain.PoolFor(f.Domain.Pool.Value, baseDir, session.DefaultBaseDir)
	if !newDomain && f.Domain.Pool.Err == nil {
		// An interrupted "vm prepare" leaves a copy, which keeps the disk in use.
		p.Add(domain.PlanDropCopy(f.Domain.Pool.Value, w.Name, key, e.UID, pool, e.Domains(ctx))...)
	}
	das, err := domain.Plan(f.Domain, domain.Wanted{
		Spec: domain.Spec{
			Name: w.Name, UUID: inst.UUID, Owner: e.UID, Arch: domain.Arch(f.Creation.Host.Arch), Accel: c.Accel, VCPUs: c.Record.VM.CPUs, RAMMB: c.Record.VM.RAMMB,
			DiskPath: domain.DiskPath(baseDir, key), SeedPath: domain.SeedPath(baseDir, key), SerialLog: domain.SerialPath(baseDir, key),
			ExportRoot: root.ExportRoot(key), FSTag: share.FSTag, Network: c.Network.Network.Name, MAC: c.MAC,
		},
		Elsewhere: inst.Adopted, Key: key, DiskGB: c.Record.VM.DiskGB, BaseDir: baseDir, Base: base, Boot: true,
		Seed: func() ([]byte, error) { return machine.For(e.Loop).Seed(ctx, w, c.MAC) },
	}, pool, e.Domains(ctx))
	if err != nil {
		return p, err
	}
	arm, err := folders.For(e.Loop).PlanBeforeBoot(w, f, p.skipped)
	p.skipped = arm.Skipped
	if p.Join(arm.Plan); err != nil {
		return p, err
	}
	p.Add(folders.For(e.Loop).PlanStaleDevices(w, f, p.skipped)...)
	if d := f.Domain.Domain.Value; f.Domain.Domain.Err == nil && d != nil && d.State == virt.Off {
		p.Add(e.planDisk(ctx, f)...)
		p.Join(machine.For(e.Loop).PlanSizes(w, d, f.Creation.Host, e.Domains(ctx)))
	}
	p.Add(das...)
	p.Chosen = c
	return p, nil
}

// planDisk plans what the VM's disk lacks to give freed space back. A VM starts without it too.
func (e *Env) planDisk(ctx context.Context, f *loop.Facts) []plan.Action {
	as := domain.PlanDisk(f.Domain.Domain.Value, f.Domain.OldDisk, e.Domains(ctx))
	for i, a := range as {
		as[i].Fail = func(err error) error {
			if ctx.Err() != nil || errors.Is(err, plan.ErrStale) {
				return err
			}
			e.UI.Warn("space that the guest frees stays allocated on this machine: %s failed: %v", a.Shows[0], err)
			return nil
		}
	}
	return as
}

// planNetwork plans the VM's network, and its firewall before the network starts.
func (e *Env) planNetwork(ctx context.Context, w *target.Target, f *loop.Facts, c machine.Chosen) (plan.Plan, error) {
	p, spec := plan.Plan{Stage: plan.Host}, c.Network.Network
	hooks, err := walls.PlanHooks(f.Wall.Hooks)
	if p.Add(hooks...); err != nil {
		return p, err
	}
	nas, err := network.Plan(f.Net, network.Wanted{Spec: spec, Owner: e.UID, VM: w.Name, MAC: c.MAC, IP: c.Address}, e.Networks(ctx))
	if err != nil {
		return p, err
	}
	rules, err := walls.For(e.Loop).Plan(c.Network, f, walls.GuestsOf(loop.NetworkNamed(f, spec.Name), c.MAC, c.Address))
	if p.Notes = append(p.Notes, rules.Notes...); err != nil {
		return p, err
	}
	p.Add(walls.BeforeStart(spec.Name, nas, rules.Actions)...)
	return p, nil
}
