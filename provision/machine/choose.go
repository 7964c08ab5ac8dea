package machine

import (
	"net/netip"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// Chosen is what a plan decides about a VM: values that the words and the config
// leave open.
type Chosen struct {
	Record   config.VM       // sizes and image of a VM that is made, its network
	Network  config.Network  // with the values a new one gets
	MAC      string          // of the VM's card
	Address  netip.Addr      // that is kept for it
	Accel    string          // "kvm" or "qemu"
	Instance *state.Instance // what is remembered from then on; nil: nothing yet
}

// Given returns what stands without a decision.
func CurrentChoice(w *target.Target, f *loop.Facts) Chosen {
	return Chosen{Record: w.Record, Network: w.Network, Instance: f.Inst}
}

// Choose decides network, address and size of a VM that is made or started. key is
// its name on this machine, baseDir where its disk goes. The sentences are for the
// person: where a choice is not what they may expect.
func Choose(w *target.Target, f *loop.Facts, m host.Facts, uid int, key, baseDir string) (Chosen, []string, error) {
	c := CurrentChoice(w, f)
	spec, err := network.Choose(f.Net, w.NetworkSpec, uid, !w.NewNet || !w.AutoNet())
	if err != nil {
		return c, nil, err
	}
	if w.NewNet {
		c.Network.Network, c.Network.Name = spec, spec.Name
		c.Record.NetworkName = spec.Name
	} else {
		c.Network.Network = spec
	}
	c.MAC = network.MAC(key)
	if !f.NewDomain() && f.Domain.Domain.Value.MAC != "" {
		c.MAC = f.Domain.Domain.Value.MAC
	}
	if c.Address, err = address(f, spec, c.MAC); err != nil {
		return c, nil, err
	}
	var slow string
	c.Accel, slow = host.Accel(m)
	if !f.NewDomain() {
		if made := f.Inst; w.NewVM && made != nil && made.CreatedWith != nil {
			c.Record.VM.CPUs, c.Record.VM.RAMMB, c.Record.VM.DiskGB = made.CreatedWith.CPUs, made.CreatedWith.RAMMB, made.CreatedWith.DiskGB
		}
		return c, nil, nil
	}
	size, notes, err := host.Choose(m, w.Size, baseDir)
	if err != nil {
		return c, nil, err
	}
	c.Record.VM.CPUs, c.Record.VM.RAMMB, c.Record.VM.DiskGB = size.CPUs, size.RAMMB, size.DiskGB
	if slow != "" {
		notes = append(notes, slow)
	}
	return c, notes, nil
}

// address is the VM's fixed address: the one reserved, the one decided before, or
// the first free one.
func address(f *loop.Facts, spec config.NetworkSpec, mac string) (netip.Addr, error) {
	n := loop.NetworkNamed(f, spec.Name)
	ip, reserved, err := network.Address(spec, n, mac)
	if err != nil {
		return ip, ui.Refused("%w", err).Hint(ui.Cmd("aivm list"), ui.Cmd("aivm vm delete NAME of a VM you no longer need"))
	}
	if !reserved && f.Inst != nil {
		if old, perr := netip.ParseAddr(f.Inst.Address); perr == nil && network.Free(spec, n, mac, old) {
			return old, nil
		}
	}
	return ip, nil
}
