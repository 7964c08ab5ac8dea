package provision

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// planHost is everything missing on the host for w. It is pure over facts and
// the files of the state directory; closures in it run later.
func (e *Env) planHost(ctx context.Context, w *want, f *facts) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	make := w.boot && f.conn == nil && !f.running()
	if goOn, err := e.planAccess(ctx, &p, w, f, make); err != nil || !goOn {
		return p, err
	}
	if err := e.checkIdentity(w, f); err != nil {
		return p, err
	}
	if w.image != "" && !w.newVM && f.domain.Domain.Err == nil && f.domain.Domain.Value != nil {
		e.noteOnce("VM " + w.name + " has its disk already: --image counts when a VM is made")
	}
	if as, err := e.planMove(w, f); err != nil || len(as) > 0 {
		p.Add(as...)
		return p, err
	}
	if make {
		as, err := e.planVM(ctx, w, f)
		if err != nil {
			return p, err
		}
		p.Add(as...)
	} else if w.guest && (f.conn != nil || f.running()) {
		as, err := e.planRunningWall(ctx, w, f)
		if err != nil {
			return p, err
		}
		p.Add(as...)
	}
	left, err := e.planLeft(w, f)
	if err != nil {
		return p, err
	}
	p.Add(left...)
	if err := e.planFolder(&p, w, f); err != nil {
		return p, err
	}
	if err := e.planGitHost(&p, w); err != nil {
		return p, err
	}
	if err := e.planAlias(&p, w, f); err != nil {
		return p, err
	}
	p.Add(e.planStoreVM(w, f)...)
	p.Add(e.planServer(w)...)
	return p, nil
}

// planAccess sees to it that libvirt can be asked where the plan hangs on its
// answer. goOn is false when nothing more can be planned before another look.
func (e *Env) planAccess(ctx context.Context, p *plan.Plan, w *want, f *facts, make bool) (goOn bool, err error) {
	if make {
		as, err := e.planMachine(e.hostFacts(), host.Need{Image: w.newDomain(f) && e.needsBuild(ctx, w)})
		if err != nil {
			return false, err
		}
		if len(as) > 0 {
			as[len(as)-1].Again = true
			p.Add(as...)
			// What libvirt knows is still hidden: start it, then look again. A
			// libvirt that is not installed knows nothing, and all can be shown.
			return f.virt.Err == nil || e.libvirtAbsent(f.virt.Err), nil
		}
	}
	asked := make || w.folder != nil && f.conn == nil || f.conn != nil && w.asksLibvirt(f)
	// A run was killed between the first login and the removal of the seed.
	left := f.conn != nil && f.inst.SeedLeft && f.guest.boot.SeedRead && errors.Is(f.virt.Err, virt.ErrDenied)
	if asked && f.domain.Domain.Err != nil || left {
		return false, e.planLibvirt(p, f)
	}
	return true, nil
}

// checkIdentity refuses a domain that is not this person's, or that there is
// no way into from here. A name nobody chose is changed instead.
func (e *Env) checkIdentity(w *want, f *facts) error {
	d := f.domain.Domain
	if d.Err != nil || d.Value == nil {
		return nil
	}
	err := domain.CheckOurs(d.Value, e.UID)
	if err != nil && !w.newVM && !d.Value.Mark.Ours {
		return notAdopted(w.name)
	}
	if err == nil {
		_, keyErr := e.SSH.PinnedKey(w.name)
		switch {
		case errors.Is(keyErr, os.ErrNotExist):
			err = e.stateLost(w)
		case keyErr != nil:
			return ui.Failed("the pinned host key of VM %q cannot be read: %w", w.name, keyErr).Hint("ls -l " + shellQuote(e.SSH.VMDir(w.name)))
		case f.inst == nil && f.running():
			return ui.Refused("the address of VM %q is not remembered in %s any more", w.name, e.state().InstancePath(w.name)).
				Hint("to have it read anew: aivm vm restart " + w.name)
		}
	}
	if err != nil && w.autoName {
		w.rename()
		if err := e.freeName(w); err != nil {
			return err
		}
		return plan.ErrStale
	}
	return err
}

// stateLost refuses a VM of this person's whose host key and address are not
// here: made with another HOME or XDG_STATE_HOME, or its files are gone. There
// is no way into it from here.
func (e *Env) stateLost(w *want) error {
	dir := e.SSH.VMDir(w.name)
	err := ui.Refused("VM %q exists, but what is needed to get into it (host key, address) is not in %s", w.name, dir).
		Hint("was it made with another HOME or XDG_STATE_HOME? then use that", "or bring "+shellQuote(dir)+" back from a backup")
	if w.newVM {
		err.Hint("or make one of another name: aivm vm create NAME")
	}
	return err.Hint("to give it and its disk up: aivm vm delete " + w.name)
}

// newDomain reports whether a disk would have to be made.
func (w *want) newDomain(f *facts) bool {
	return f.domain.Domain.Err == nil && f.domain.Domain.Value == nil
}

// planLibvirt gets access to a libvirt that refuses this user: root opens the
// socket and passes it on; nothing is changed by that.
func (e *Env) planLibvirt(p *plan.Plan, f *facts) error {
	if !errors.Is(f.virt.Err, virt.ErrDenied) {
		return ui.Failed("libvirt cannot be asked: %w", f.virt.Err).Hint("aivm host doctor", "sudo systemctl status libvirtd")
	}
	p.Add(plan.Action{
		ID: "libvirt.open", Why: "talk to libvirt, which this user may not do directly",
		Root: root.LibvirtSocket{Path: virt.Socket()}, Got: e.adoptLibvirt, Again: true,
	})
	return nil
}

// planVM is the VM itself: image, network, address, disk, domain, boot.
func (e *Env) planVM(ctx context.Context, w *want, f *facts) ([]plan.Action, error) {
	var out []plan.Action
	fresh := w.newDomain(f)
	baseDir := e.baseDir(w.record.Paths)
	key := e.key(w.name)
	spec, err := network.Choose(f.net, w.wished, e.UID, !w.newNet || !w.autoNet())
	if err != nil {
		return nil, err
	}
	if w.newNet {
		w.network.Network, w.network.Name = spec, spec.Name
		w.record.NetworkName = spec.Name
	}
	mac := network.MAC(key)
	if !fresh && f.domain.Domain.Value.MAC != "" {
		mac = f.domain.Domain.Value.MAC
	}
	ip, err := e.address(w, f, spec, mac)
	if err != nil {
		return nil, err
	}
	size := host.Size{CPUs: w.record.VM.CPUs, RAMMB: w.record.VM.RAMMB, DiskGB: w.record.VM.DiskGB}
	if fresh {
		var warnings []string
		if size, warnings, err = host.Choose(e.hostFacts(), w.wish, baseDir); err != nil {
			return nil, err
		}
		for _, s := range warnings {
			e.warnOnce(s)
		}
		w.record.VM.CPUs, w.record.VM.RAMMB, w.record.VM.DiskGB = size.CPUs, size.RAMMB, size.DiskGB
	}
	accel, slow := host.Accel(e.hostFacts())
	if slow != "" && fresh {
		e.warnOnce(slow)
	}
	ids, err := e.identities(ctx, w)
	if err != nil {
		return nil, err
	}
	var own, imageActions []plan.Action
	var base func() (domain.Base, error)
	if fresh {
		own = sshcfg.PlanOwnKey(e.SSH, ids)
		if imageActions, base, err = e.planImage(ctx, w); err != nil {
			return nil, err
		}
		if size.DiskGB, err = w.roomFor(base, size.DiskGB); err != nil {
			return nil, err
		}
		w.record.VM.DiskGB = size.DiskGB
	}
	out = append(out, own...)
	out = append(out, e.planState(w, f, mac, ip, ids, len(own) > 0)...)
	out = append(out, imageActions...)
	hooks, err := e.planHooks()
	if err != nil {
		return nil, err
	}
	out = append(out, hooks...)
	nas, err := network.Plan(f.net, network.Wanted{Spec: spec, Owner: e.UID, VM: w.name, MAC: mac, IP: ip}, e.networks(ctx))
	if err != nil {
		return nil, err
	}
	rules, err := e.planWall(ctx, w, f, spec, guestsOf(networkNamed(f, spec.Name), mac, ip))
	if err != nil {
		return nil, err
	}
	out = append(out, beforeStart(spec.Name, nas, rules)...)
	eas, err := share.PlanHost(f.share, key, nil, nil)
	if err != nil {
		return nil, err
	}
	out = append(out, eas...)
	if !fresh && f.domain.Pool.Err == nil {
		// A killed "vm prepare" left one, which keeps the disk busy.
		out = append(out, domain.PlanDropCopy(f.domain.Pool.Value, w.name, key, e.UID, domain.PoolFor(f.domain.Pool.Value, baseDir, DefaultBaseDir), e.domains(ctx))...)
	}
	das, err := domain.Plan(f.domain, domain.Wanted{
		Spec: domain.Spec{
			Name: w.name, UUID: f.inst.UUID, Owner: e.UID, Accel: accel, VCPUs: size.CPUs, RAMMB: size.RAMMB,
			DiskPath: domain.DiskPath(baseDir, key), SeedPath: domain.SeedPath(baseDir, key), SerialLog: domain.SerialPath(baseDir, key),
			ExportRoot: root.ExportRoot(key), FSTag: share.FSTag, Network: spec.Name, MAC: mac,
		},
		Elsewhere: f.inst.Adopted, Key: key, DiskGB: size.DiskGB, BaseDir: baseDir, Base: base, Boot: true,
		Seed: func() ([]byte, error) { return e.seed(ctx, w, mac) },
	}, domain.PoolFor(f.domain.Pool.Value, baseDir, DefaultBaseDir), e.domains(ctx))
	if err != nil {
		return nil, err
	}
	arm, err := e.planArm(w, f)
	if err != nil {
		return nil, err
	}
	out = append(append(out, arm...), e.planStale(w, f)...)
	return append(out, das...), nil
}

// autoNet reports whether the network's values are the built-in defaults, so
// that a conflict may be avoided instead of refused.
func (w *want) autoNet() bool {
	return w.wished == config.DefaultConfig().Defaults.Network
}

// address is the VM's fixed address: the one reserved, the one decided before,
// or the first free one.
func (e *Env) address(w *want, f *facts, spec config.NetworkSpec, mac string) (netip.Addr, error) {
	n := networkNamed(f, spec.Name)
	ip, reserved, err := network.Address(spec, n, mac)
	if err != nil {
		return ip, ui.Refused("%w", err).Hint("aivm list", "aivm vm delete NAME of a VM you no longer need")
	}
	if !reserved && f.inst != nil {
		if old, perr := netip.ParseAddr(f.inst.Address); perr == nil && network.Free(spec, n, mac, old) {
			return old, nil
		}
	}
	return ip, nil
}

// networkNamed is libvirt's network of that name, nil if there is none.
func networkNamed(f *facts, name string) *virt.Network {
	for _, n := range f.net.Networks.Value {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// planFolder binds the folders below the VM's export root.
func (e *Env) planFolder(p *plan.Plan, w *want, f *facts) error {
	if len(w.atts()) == 0 {
		return nil
	}
	as, err := e.planShare(w, f)
	if err != nil {
		return err
	}
	for _, a := range as {
		b, bind := a.Root.(root.Bind)
		armed := bind && hasAction(*p, "share.arm:"+b.Token) && len(b.Protect) == 0
		if !hasAction(*p, a.ID) && !armed {
			p.Add(a)
		}
	}
	return nil
}

func hasAction(p plan.Plan, id string) bool {
	for _, a := range p.Actions {
		if a.ID == id {
			return true
		}
	}
	return false
}

// planAlias writes the ssh stanza and the Include line. A configuration that
// cannot be edited never keeps a VM from being used: the line to add is said.
func (e *Env) planAlias(p *plan.Plan, w *want, f *facts) error {
	if f.inst == nil {
		return nil
	}
	st := e.stanza(w, *f.inst)
	as, err := sshcfg.Plan(sshcfg.Observe(e.SSH, st), st)
	p.Add(as...)
	f.aliasMade = len(as) > 0
	if !errors.Is(err, sshcfg.ErrReadOnly) {
		return err
	}
	e.warnOnce(err.Error())
	var ue *ui.Error
	if errors.As(err, &ue) {
		for _, h := range ue.Hints {
			e.warnOnce(h)
		}
	}
	return nil
}

// planStoreVM records a VM that is new to the store, once it exists.
func (e *Env) planStoreVM(w *want, f *facts) []plan.Action {
	if !w.newVM {
		return nil
	}
	return []plan.Action{{
		ID: "store.vm", Why: fmt.Sprintf("record the VM %s in the config", w.name), Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			err := config.Update(ctx, e.StorePath, func(c *config.Config) error {
				if _, ok := c.FindVM(w.name); ok {
					return nil
				}
				if _, ok := c.FindNetwork(w.network.Name); !ok {
					c.UpsertNetwork(w.network)
				}
				w.record.NetworkName = w.network.Name
				if f.inst != nil && f.inst.Made != nil {
					m, vm := f.inst.Made, &w.record.VM
					w.record.Image.Name, vm.CPUs, vm.RAMMB, vm.DiskGB = m.Image, m.CPUs, m.RAMMB, m.DiskGB
				}
				c.UpsertVM(w.record)
				if w.setActive || w.active && c.ActiveVM == "" {
					c.ActiveVM = w.name
				}
				return nil
			})
			if err == nil {
				w.newVM = false
				if e.Verb == "create" {
					// What is recorded is not created again.
					e.Rerun = "aivm vm up " + w.name
				}
			}
			return err
		},
	}}
}
