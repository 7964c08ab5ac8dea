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

// planHost is everything missing on the host for w. It is pure over facts and
// the files of the state directory; closures in it run later.
func (e *Env) planHost(ctx context.Context, w *target.Target, f *loop.Facts) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	make := w.Boot && f.Conn == nil && !f.Running()
	if goOn, err := e.planAccess(ctx, &p, w, f, make); err != nil || !goOn {
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
		as, err := e.planVM(ctx, w, f)
		if err != nil {
			return p, err
		}
		p.Add(as...)
	} else if w.Guest && (f.Conn != nil || f.Running()) {
		as, err := walls.For(e.Loop).PlanRunning(ctx, w, f)
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
	if err := folders.For(e.Loop).PlanHost(&p, w, f); err != nil {
		return p, err
	}
	if err := clones.For(e.Loop).PlanHost(&p, w); err != nil {
		return p, err
	}
	if err := machine.For(e.Loop).PlanAlias(&p, w, f); err != nil {
		return p, err
	}
	p.Add(machine.For(e.Loop).PlanStoreVM(w, f)...)
	p.Add(editors.For(e.Loop).PlanServer(w)...)
	return p, nil
}

// WalledFor has the rules of the VM's network in place before a guest behind them
// is used.
func (e *Env) WalledFor(ctx context.Context, w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	return walls.For(e.Loop).PlanRunning(ctx, w, f)
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
func (e *Env) planVM(ctx context.Context, w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	var out []plan.Action
	fresh := f.NewDomain()
	baseDir := e.BaseDir(w.Record.Paths)
	key := e.Key(w.Name)
	spec, err := network.Choose(f.Net, w.Wished, e.UID, !w.NewNet || !w.AutoNet())
	if err != nil {
		return nil, err
	}
	if w.NewNet {
		w.Network.Network, w.Network.Name = spec, spec.Name
		w.Record.NetworkName = spec.Name
	}
	mac := network.MAC(key)
	if !fresh && f.Domain.Domain.Value.MAC != "" {
		mac = f.Domain.Domain.Value.MAC
	}
	ip, err := machine.For(e.Loop).Address(w, f, spec, mac)
	if err != nil {
		return nil, err
	}
	size := host.Size{CPUs: w.Record.VM.CPUs, RAMMB: w.Record.VM.RAMMB, DiskGB: w.Record.VM.DiskGB}
	if fresh {
		var warnings []string
		if size, warnings, err = host.Choose(e.HostFacts(), w.Wish, baseDir); err != nil {
			return nil, err
		}
		for _, s := range warnings {
			e.WarnOnce(s)
		}
		w.Record.VM.CPUs, w.Record.VM.RAMMB, w.Record.VM.DiskGB = size.CPUs, size.RAMMB, size.DiskGB
	}
	accel, slow := host.Accel(e.HostFacts())
	if slow != "" && fresh {
		e.WarnOnce(slow)
	}
	ids, err := e.Identities(ctx, w)
	if err != nil {
		return nil, err
	}
	var own, imageActions []plan.Action
	var base func() (domain.Base, error)
	if fresh {
		own = sshcfg.PlanOwnKey(e.SSH, ids)
		if imageActions, base, err = images.For(e.Loop).Plan(ctx, w); err != nil {
			return nil, err
		}
		if size.DiskGB, err = images.RoomFor(w, base, size.DiskGB); err != nil {
			return nil, err
		}
		w.Record.VM.DiskGB = size.DiskGB
	}
	out = append(out, own...)
	out = append(out, machine.For(e.Loop).PlanState(w, f, mac, ip, ids, len(own) > 0)...)
	out = append(out, imageActions...)
	hooks, err := walls.For(e.Loop).PlanHooks()
	if err != nil {
		return nil, err
	}
	out = append(out, hooks...)
	nas, err := network.Plan(f.Net, network.Wanted{Spec: spec, Owner: e.UID, VM: w.Name, MAC: mac, IP: ip}, e.Networks(ctx))
	if err != nil {
		return nil, err
	}
	rules, err := walls.For(e.Loop).Plan(ctx, w, f, spec, walls.GuestsOf(loop.NetworkNamed(f, spec.Name), mac, ip))
	if err != nil {
		return nil, err
	}
	out = append(out, walls.BeforeStart(spec.Name, nas, rules)...)
	eas, err := share.PlanHost(f.Share, key, nil, nil)
	if err != nil {
		return nil, err
	}
	out = append(out, eas...)
	if !fresh && f.Domain.Pool.Err == nil {
		// A killed "vm prepare" left one, which keeps the disk busy.
		out = append(out, domain.PlanDropCopy(f.Domain.Pool.Value, w.Name, key, e.UID, domain.PoolFor(f.Domain.Pool.Value, baseDir, session.DefaultBaseDir), e.Domains(ctx))...)
	}
	das, err := domain.Plan(f.Domain, domain.Wanted{
		Spec: domain.Spec{
			Name: w.Name, UUID: f.Inst.UUID, Owner: e.UID, Accel: accel, VCPUs: size.CPUs, RAMMB: size.RAMMB,
			DiskPath: domain.DiskPath(baseDir, key), SeedPath: domain.SeedPath(baseDir, key), SerialLog: domain.SerialPath(baseDir, key),
			ExportRoot: root.ExportRoot(key), FSTag: share.FSTag, Network: spec.Name, MAC: mac,
		},
		Elsewhere: f.Inst.Adopted, Key: key, DiskGB: size.DiskGB, BaseDir: baseDir, Base: base, Boot: true,
		Seed: func() ([]byte, error) { return machine.For(e.Loop).Seed(ctx, w, mac) },
	}, domain.PoolFor(f.Domain.Pool.Value, baseDir, session.DefaultBaseDir), e.Domains(ctx))
	if err != nil {
		return nil, err
	}
	arm, err := folders.For(e.Loop).PlanArm(w, f)
	if err != nil {
		return nil, err
	}
	out = append(append(out, arm...), folders.For(e.Loop).PlanStale(w, f)...)
	return append(out, das...), nil
}
