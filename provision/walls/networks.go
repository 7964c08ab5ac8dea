package walls

import (
	"context"
	"errors"
	"fmt"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/network"
)

// Create creates a network with its firewall before any VM uses it; an existing one is
// repaired. name "" means the network the next VM gets.
func (e Part) Create(ctx context.Context, name string) (Created, error) {
	var n config.Network
	changed, err := e.RunJob(ctx, loop.Job{
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			l, err := e.observeCreate(ctx, name)
			if err == nil {
				n = l.network
				p, err = e.planNetwork(ctx, l)
			}
			return p, err
		},
		CloseFacts: e.Reload,
	})
	if err != nil {
		return Created{}, err
	}
	c := Created{Network: n, Was: !changed}
	if e.JSON {
		e.Reload()
		c.Status, err = e.NetworkStatus(ctx, n.Name, false)
	}
	return c, err
}

// Created is the result of Create.
type Created struct {
	Network config.Network
	Was     bool           // it existed and nothing was missing
	Status  NetworksStatus // only with --json
}

// createFacts is a network to be created, and the facts its plan depends on.
type createFacts struct {
	network config.Network
	known   bool // the config has a record of it
	facts   network.Facts
	wall    loop.Facts // its firewall rules, and libvirt's hooks
}

// observeCreate chooses the network's values and reads what of it exists.
func (e Part) observeCreate(ctx context.Context, name string) (m createFacts, err error) {
	store, err := e.Load()
	if err != nil {
		return m, err
	}
	if m.network, m.known, err = namedNetwork(store, name); err != nil {
		return m, err
	}
	l, err := e.LibvirtWithHelp(ctx)
	if err != nil {
		return m, err
	}
	n, f := &m.network, &m.facts
	f.Libvirt = e.URI()
	f.Routes, f.Interfaces = e.Routes()
	f.Networks.Value, f.Networks.Err = l.Networks(ctx)
	switch {
	case m.known:
	case name == "":
		wished := n.Network
		n.Network, err = network.Choose(*f, wished, e.UID, wished != config.DefaultConfig().Defaults.Network)
	default:
		n.Network, err = network.ChooseForName(*f, n.Network, e.UID)
	}
	if err != nil {
		return m, err
	}
	n.Name = n.Network.Name
	e.ObserveForStart(ctx, n.Network.Name, &m.wall)
	return m, nil
}

// namedNetwork returns the record of that name, or the one a new network gets.
func namedNetwork(store *config.Store, name string) (n config.Network, known bool, err error) {
	c := &store.Config
	if name == "" {
		name = c.Defaults.Network.Name
	}
	if have, ok := c.FindNetwork(name); ok {
		return *have, true, nil
	}
	if !wall.ValidNetwork(name) {
		return n, false, ui.Usage("%q is not a valid network name: use letters, digits, '_', '.' and '-'", name).Hint(ui.Cmd("aivm host net create aivm-net"))
	}
	return c.NewNetwork(name), false, nil
}

// planNetwork plans what is missing of a network: its definition, its rules before its
// start, its record.
func (e Part) planNetwork(ctx context.Context, m createFacts) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	n, f := m.network, m.facts
	nas, err := network.Plan(f, network.Wanted{Spec: n.Network, Owner: e.UID}, e.Networks(ctx))
	if err != nil {
		return p, err
	}
	guests := []wall.Guest{}
	for _, k := range f.Networks.Value {
		if k.Name == n.Network.Name {
			w := wall.Wall{Guests: guests}
			for _, h := range k.Hosts {
				w = w.With(h.MAC, h.IP)
			}
			guests = w.Guests
		}
	}
	rules, err := e.Plan(n, &m.wall, guests)
	if p.Notes = rules.Notes; err != nil {
		return p, err
	}
	as := BeforeStart(n.Network.Name, nas, rules.Actions)
	if len(as) > 0 && n.Firewall.Enabled {
		hooks, err := PlanHooks(m.wall.Wall.Hooks)
		if err != nil {
			return p, err
		}
		p.Add(hooks...)
	}
	p.Add(as...)
	if !m.known {
		p.Add(plan.Action{
			ID: "store.network:" + n.Name, Why: fmt.Sprintf("record the network %s in the config", n.Name), Shows: []string{"write " + e.StorePath}, Consent: plan.Ask,
			Do: func(ctx context.Context) error {
				return config.Update(ctx, e.StorePath, func(c *config.Config) error {
					if _, ok := c.FindNetwork(n.Name); !ok {
						c.UpsertNetwork(n)
					}
					return nil
				})
			},
		})
	}
	return p, nil
}

// NetworksStatus is what `host net status` prints with --json.
type NetworksStatus struct {
	Schema   int             `json:"schema"`
	Networks []NetworkStatus `json:"networks"`
}

// NetworkStatus is one network in a NetworksStatus. State is "running", "off", "missing",
// "foreign" (another user's or program's network has the name) or "unknown".
type NetworkStatus struct {
	Name      string         `json:"name"`
	State     string         `json:"state"`
	Why       string         `json:"why,omitempty"`
	Fix       []string       `json:"fix"`
	Recorded  bool           `json:"recorded"` // in the config
	Bridge    string         `json:"bridge"`
	Subnet    string         `json:"subnet"`
	Gateway   string         `json:"gateway"`
	DHCPStart string         `json:"dhcp_start"`
	DHCPEnd   string         `json:"dhcp_end"`
	Autostart bool           `json:"autostart"`
	Firewall  string         `json:"firewall"`
	VMs       []string       `json:"vms"`
	Addresses []NetworkGuest `json:"addresses"`
}

// NetworkGuest is an address that is reserved for a VM.
type NetworkGuest struct {
	VM      string `json:"vm"`
	MAC     string `json:"mac"`
	Address string `json:"address"`
}

// NetworkStatus reads the state of a network, or of all: those of the config, and those aivm
// made for this user that are not in it. With sudo, libvirt may be asked as root.
func (e Part) NetworkStatus(ctx context.Context, name string, sudo bool) (NetworksStatus, error) {
	out := NetworksStatus{Schema: 1, Networks: []NetworkStatus{}}
	store, err := e.Load()
	if err != nil {
		return out, err
	}
	have, haveErr := e.networksNow(ctx, sudo)
	find := func(name string) *virt.Network {
		for _, k := range have {
			if k.Name == name {
				return k
			}
		}
		return nil
	}
	for _, n := range store.Config.Networks {
		if name != "" && n.Name != name {
			continue
		}
		out.Networks = append(out.Networks, e.networkStatus(ctx, store, n, true, find(n.Network.Name), haveErr))
	}
	for _, k := range have {
		_, recorded := store.Config.FindNetwork(k.Name)
		if !recorded && k.Mark.By(e.UID) && (name == "" || name == k.Name) {
			n := config.Network{Name: k.Name, Network: network.SpecOf(k), Firewall: store.Config.Defaults.Firewall}
			out.Networks = append(out.Networks, e.networkStatus(ctx, store, n, false, k, nil))
		}
	}
	if name != "" && len(out.Networks) == 0 {
		return out, ui.Refused("aivm has no network %s", name).Hint(ui.Cmd("aivm host net create "+shellescape.Quote(name)), ui.Cmd("aivm host net status"))
	}
	return out, nil
}

// networksNow returns libvirt's networks; with sudo it asks as root if libvirt refuses this
// user.
func (e Part) networksNow(ctx context.Context, sudo bool) ([]*virt.Network, error) {
	l, err := e.Libvirt(ctx)
	if errors.Is(err, virt.ErrDenied) && sudo {
		l, err = e.LibvirtAsRoot(ctx)
	}
	if err != nil {
		if e.LibvirtAbsent(err) {
			return nil, nil
		}
		return nil, err
	}
	return l.Networks(ctx)
}

// networkStatus compares a network of the config, or of the defaults, with libvirt's.
func (e Part) networkStatus(ctx context.Context, store *config.Store, n config.Network, recorded bool, k *virt.Network, haveErr error) NetworkStatus {
	s := NetworkStatus{
		Name: n.Name, Fix: []string{}, Recorded: recorded, Bridge: n.Network.Bridge, Subnet: n.Network.SubnetCIDR, Gateway: n.Network.GatewayIP,
		DHCPStart: n.Network.DHCPStart, DHCPEnd: n.Network.DHCPEnd, VMs: append([]string{}, store.Config.NetworkUsers(n.Name)...), Addresses: []NetworkGuest{},
	}
	_, s.Firewall = e.Listed(ctx, n)
	create := "aivm host net create " + shellescape.Quote(n.Name)
	switch {
	case haveErr != nil:
		s.State, s.Why = "unknown", haveErr.Error()
		if errors.Is(haveErr, virt.ErrDenied) {
			s.Fix = []string{"aivm host net status --sudo"}
		}
		return s
	case k == nil:
		s.State, s.Why, s.Fix = string(virt.Missing), "it is created when a VM needs it", []string{create}
		return s
	case !k.Mark.By(e.UID):
		s.State, s.Why, s.Fix = "foreign", "libvirt has a network of this name that aivm did not make for this user", []string{e.Virsh("net-dumpxml ") + k.Name}
		return s
	case !k.Active:
		s.State, s.Why, s.Fix = string(virt.Off), "it is started when a VM needs it", []string{create}
	default:
		s.State = string(virt.Running)
	}
	s.Autostart = k.Autostart
	if is := network.SpecOf(k); recorded && (is.Bridge != n.Network.Bridge || is.SubnetCIDR != n.Network.SubnetCIDR || is.GatewayIP != n.Network.GatewayIP) {
		s.Why = fmt.Sprintf("libvirt has bridge %s, %s, gateway %s; the config says bridge %s, %s, gateway %s", is.Bridge, is.SubnetCIDR, is.GatewayIP, n.Network.Bridge, n.Network.SubnetCIDR, n.Network.GatewayIP)
		s.Fix = []string{"aivm host net destroy " + shellescape.Quote(n.Name) + " --force", create}
		s.Bridge, s.Subnet, s.Gateway = is.Bridge, is.SubnetCIDR, is.GatewayIP
	}
	for _, h := range k.Hosts {
		s.Addresses = append(s.Addresses, NetworkGuest{VM: h.Name, MAC: h.MAC, Address: h.IP.String()})
	}
	return s
}
