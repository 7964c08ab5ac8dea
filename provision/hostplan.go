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

// planned is what a look came to: what is missing on the host, and what the plan
// has decided.
type planned struct {
	plan.Plan
	machine.Chosen
	alias bool // the ssh entry is written
}

// planHost is everything missing on the host for w. before is what the last look
// of this run decided, nil at the first: a decision stands.
func (e *Env) planHost(ctx context.Context, w *target.Target, f *loop.Facts, before *planned) (planned, error) {
	p := planned{Plan: plan.Plan{Stage: plan.Host}, Chosen: machine.Given(w, f)}
	if before != nil {
		p.Record, p.Network = before.Record, before.Network
	}
	make := w.Boot && f.Conn == nil && !f.Running()
	if goOn, err := e.planAccess(ctx, &p.Plan, w, f, make); err != nil || !goOn {
		return p, err
	}
	if err := machine.For(e.Loop).CheckIdentity(w, f); err != nil {
		return p, err
	}
	if w.Image != "" && !w.NewVM && f.Domain.Domain.Err == nil && f.Domain.Domain.Value != nil {
		e.NoteOnce("VM " + w.Name + " has its disk already: --image counts when a VM is made")
	}
	if as, err := legacy03.For(e.Loop).PlanMove(w, f); err != nil || len(as) > 0 {
		p.Add(as...)
		return p, err
	}
	if make {
		as, chosen, err := e.planVM(ctx, w, f)
		if err != nil {
			return p, err
		}
		p.Chosen = chosen
		p.Add(as...)
	} else if w.Guest && (f.Conn != nil || f.Running()) {
		as, err := e.WalledFor(ctx, w, f)
		if err != nil {
			return p, err
		}
		p.Add(as...)
	}
	left, err := folders.For(e.Loop).PlanLeft(w, f)
	if err != nil {
		return p, err
	}
	p.Add(left...)
	if err := folders.For(e.Loop).PlanHost(&p.Plan, w, f); err != nil {
		return p, err
	}
	if err := clones.For(e.Loop).PlanHost(&p.Plan, w); err != nil {
		return p, err
	}
	alias, err := machine.For(e.Loop).PlanAlias(w, p.Chosen)
	if err != nil {
		return p, err
	}
	p.alias = len(alias) > 0
	p.Add(alias...)
	p.Add(machine.For(e.Loop).PlanStoreVM(w, p.Chosen)...)
	p.Add(editors.For(e.Loop).PlanServer(w)...)
	return p, nil
}

// WalledFor has the rules of the VM's network in place before a guest behind them
// is used.
func (e *Env) WalledFor(ctx context.Context, w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	return walls.For(e.Loop).Running(ctx, w.Network, f)
}

// planAccess sees to it that libvirt can be asked where the plan hangs on its
// answer. goOn is false when nothing more can be planned before another look.
func (e *Env) planAccess(ctx context.Context, p *plan.Plan, w *target.Target, f *loop.Facts, make bool) (goOn bool, err error) {
	if make {
		as, err := e.PlanMachine(e.HostFacts(), host.Need{Image: f.NewDomain() && images.For(e.Loop).NeedsBuild(ctx, w)})
		if err != nil {
			return false, err
		}
		if len(as) > 0 {
			as[len(as)-1].Again = true
			p.Add(as...)
			// What libvirt knows is still hidden: start it, then look again. A
			// libvirt that is not installed knows nothing, and all can be shown.
			return f.Virt.Err == nil || e.LibvirtAbsent(f.Virt.Err), nil
		}
	}
	asked := make || w.Folder != nil && f.Conn == nil || f.Conn != nil && folders.AsksLibvirt(w, f)
	// A run was killed between the first login and the removal of the seed.
	left := f.Conn != nil && f.Inst.SeedLeft && f.Guest.Boot.SeedRead && errors.Is(f.Virt.Err, virt.ErrDenied)
	if asked && f.Domain.Domain.Err != nil || left {
		return false, e.PlanLibvirt(p, f.Virt.Err)
	}
	return true, nil
}

// planVM is the VM itself: image, network, address, disk, domain, boot.
func (e *Env) planVM(ctx context.Context, w *target.Target, f *loop.Facts) ([]plan.Action, machine.Chosen, error) {
	fresh := f.NewDomain()
	baseDir, key := e.BaseDir(w.Record.Paths), e.Key(w.Name)
	c, notes, err := machine.Choose(w, f, e.HostFacts(), e.UID, key, baseDir)
	if err != nil {
		return nil, c, err
	}
	for _, s := range notes {
		e.WarnOnce(s)
	}
	ids, err := e.Identities(ctx, w)
	if err != nil {
		return nil, c, err
	}
	var out, imageActions []plan.Action
	var base func() (domain.Base, error)
	ownKey := ""
	if fresh {
		own := sshcfg.PlanOwnKey(e.SSH, ids)
		if out = append(out, own...); len(own) > 0 {
			ownKey = e.SSH.OwnKeyPath()
		}
		if c.Record.Image.Name, err = images.For(e.Loop).Name(ctx, w); err != nil {
			return nil, c, err
		}
		if imageActions, base, err = images.For(e.Loop).Plan(ctx, w); err != nil {
			return nil, c, err
		}
		if c.Record.VM.DiskGB, err = images.RoomFor(w, base, c.Record.VM.DiskGB); err != nil {
			return nil, c, err
		}
	}
	in := machine.Remember(w, f, c, ids, ownKey)
	c.Instance = &in
	out = append(out, machine.For(e.Loop).PlanState(w, f, in)...)
	out = append(out, imageActions...)
	walled, err := e.planNetwork(ctx, w, f, c)
	if err != nil {
		return nil, c, err
	}
	out = append(out, walled...)
	eas, err := share.PlanHost(f.Share, key, nil, nil)
	if err != nil {
		return nil, c, err
	}
	out = append(out, eas...)
	pool := domain.PoolFor(f.Domain.Pool.Value, baseDir, session.DefaultBaseDir)
	if !fresh && f.Domain.Pool.Err == nil {
		// A killed "vm prepare" left one, which keeps the disk busy.
		out = append(out, domain.PlanDropCopy(f.Domain.Pool.Value, w.Name, key, e.UID, pool, e.Domains(ctx))...)
	}
	das, err := domain.Plan(f.Domain, domain.Wanted{
		Spec: domain.Spec{
			Name: w.Name, UUID: in.UUID, Owner: e.UID, Arch: domain.Arch(e.HostFacts().Arch), Accel: c.Accel, VCPUs: c.Record.VM.CPUs, RAMMB: c.Record.VM.RAMMB,
			DiskPath: domain.DiskPath(baseDir, key), SeedPath: domain.SeedPath(baseDir, key), SerialLog: domain.SerialPath(baseDir, key),
			ExportRoot: root.ExportRoot(key), FSTag: share.FSTag, Network: c.Network.Network.Name, MAC: c.MAC,
		},
		Elsewhere: in.Adopted, Key: key, DiskGB: c.Record.VM.DiskGB, BaseDir: baseDir, Base: base, Boot: true,
		Seed: func() ([]byte, error) { return machine.For(e.Loop).Seed(ctx, w, c.MAC) },
	}, pool, e.Domains(ctx))
	if err != nil {
		return nil, c, err
	}
	arm, err := folders.For(e.Loop).PlanArm(w, f)
	if err != nil {
		return nil, c, err
	}
	out = append(append(out, arm...), folders.For(e.Loop).PlanStale(w, f)...)
	return append(out, das...), c, nil
}

// planNetwork is the VM's network, and the rules in front of its start.
func (e *Env) planNetwork(ctx context.Context, w *target.Target, f *loop.Facts, c machine.Chosen) ([]plan.Action, error) {
	part, spec := walls.For(e.Loop), c.Network.Network
	out, err := part.PlanHooks()
	if err != nil {
		return nil, err
	}
	nas, err := network.Plan(f.Net, network.Wanted{Spec: spec, Owner: e.UID, VM: w.Name, MAC: c.MAC, IP: c.Address}, e.Networks(ctx))
	if err != nil {
		return nil, err
	}
	part.See(ctx, spec.Name, f)
	rules, err := part.Plan(c.Network, f, walls.GuestsOf(loop.NetworkNamed(f, spec.Name), c.MAC, c.Address))
	if err != nil {
		return nil, err
	}
	part.Offer(rules, f)
	return append(out, walls.BeforeStart(spec.Name, nas, rules)...), nil
}
