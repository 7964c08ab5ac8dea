package machine

import (
	"errors"
	"net/netip"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// Chosen holds what a plan decides about a VM: values that the command line and the config leave
// open.
type Chosen struct {
	Record   config.VM       // with the sizes and image of a VM that is created, and its network
	Network  config.Network  // with the values of a new network
	MAC      string          // of the VM's network interface
	Address  netip.Addr      // reserved for the VM
	Accel    string          // "kvm" or "qemu"
	Instance *state.Instance // the content of instance.json after the plan; nil: there is none yet
}

// CurrentChoice returns the values that hold without any decision.
func CurrentChoice(w *target.Target, f *loop.Facts) Chosen {
	return Chosen{Record: w.Record, Network: w.Network, Instance: f.Inst}
}

// Choose decides the network, address and sizes of a VM that is created or started. key is its
// unique name on this machine, baseDir the directory of its disk. The strings tell the user of
// choices that they may not expect.
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

// address returns the VM's fixed address: the reserved one, else the one in instance.json if it is
// free, else the first free one.
func address(f *loop.Facts, spec config.NetworkSpec, mac string) (netip.Addr, error) {
	n := loop.NetworkNamed(f, spec.Name)
	ip, reserved, err := network.Address(spec, n, mac)
	if errors.Is(err, network.ErrFull) {
		return ip, ui.Refused("%w", err).Hint(ui.Cmd("aivm list"), ui.CmdFor("delete a VM that you no longer need", "aivm vm delete NAME"))
	}
	if err != nil {
		return ip, err
	}
	if !reserved && f.Inst != nil {
		if old, perr := netip.ParseAddr(f.Inst.Address); perr == nil && network.Free(spec, n, mac, old) {
			return old, nil
		}
	}
	return ip, nil
}
