package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"sync"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/share"
)

// Listing is the JSON of `list` (CONTRACTS).
type Listing struct {
	Schema   int             `json:"schema"`
	Store    string          `json:"store"`
	ActiveVM string          `json:"active_vm"`
	VMs      []ListedVM      `json:"vms"`
	Networks []ListedNetwork `json:"networks"`
	Folders  []ListedFolder  `json:"folders"`
}

// ListedVM is one VM of a Listing.
type ListedVM struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Alias   string `json:"alias"`
	Address string `json:"address"`
	Network string `json:"network"`
	CPUs    int    `json:"cpus"`
	RAMMB   int    `json:"ram_mb"`
	DiskGB  int    `json:"disk_gb"`
	Image   string `json:"image"`
	// NotAdopted: it is there without aivm's mark, as one that 0.3 made is until
	// `vm adopt`.
	NotAdopted bool `json:"not_adopted,omitempty"`
}

// ListedNetwork is one network of a Listing.
type ListedNetwork struct {
	Name     string `json:"name"`
	Bridge   string `json:"bridge"`
	Subnet   string `json:"subnet"`
	Firewall bool   `json:"firewall"` // its rules are in place, as far as this user may look
	Rules    string `json:"rules"`    // how they are: "in place", "missing", "altered", "older", "unknown", "off"
	VMs      int    `json:"vms"`
}

// ListedFolder is one attachment of a Listing. State is what this machine knows:
// "ok" is mounted for the VM's device, whatever the guest makes of it (status
// asks the guest); "detaching" is mounted for it though no attachment says so.
type ListedFolder struct {
	HostPath string `json:"host_path"`
	VM       string `json:"vm"`
	Mode     string `json:"mode"`
	Access   string `json:"access"`
	GuestDst string `json:"guest_dst"`
	State    string `json:"state"`
	Protect  bool   `json:"protect,omitempty"`
}

// Listing reads the store, the states of the domains and the mounts; nothing
// is changed, no privilege is needed, and what cannot be read is "unknown".
func (e *Env) Listing(ctx context.Context) (Listing, error) {
	store, err := e.load()
	if err != nil {
		return Listing{}, err
	}
	c := store.Config
	out := Listing{Schema: 1, Store: store.Path, ActiveVM: c.ActiveVM, VMs: []ListedVM{}, Networks: []ListedNetwork{}, Folders: []ListedFolder{}}
	// libvirt answers while the mount table is read.
	var states func(string) string
	var asked sync.WaitGroup
	asked.Go(func() { states = e.states(ctx, len(c.VMs) > 0) })
	out.Folders = e.folders(c)
	asked.Wait()
	for _, vm := range c.VMs {
		l := ListedVM{Name: vm.Name, Alias: vm.Name, State: states(vm.Name), Network: vm.NetworkName, CPUs: vm.VM.CPUs, RAMMB: vm.VM.RAMMB, DiskGB: vm.VM.DiskGB, Image: vm.Image.Name}
		if l.State == string(virt.Missing) {
			if s, there := e.unadopted(ctx, vm.Name); there {
				l.State, l.NotAdopted = string(s), true
			}
		}
		if in, err := e.state().Instance(vm.Name); err == nil && in != nil {
			l.Address = in.Address
		}
		out.VMs = append(out.VMs, l)
	}
	for _, n := range c.Networks {
		l := ListedNetwork{Name: n.Name, Bridge: n.Network.Bridge, Subnet: n.Network.SubnetCIDR, VMs: len(c.NetworkUsers(n.Name))}
		l.Firewall, l.Rules = e.listedWall(ctx, n)
		out.Networks = append(out.Networks, l)
	}
	sort.Slice(out.VMs, func(i, j int) bool { return out.VMs[i].Name < out.VMs[j].Name })
	sort.Slice(out.Networks, func(i, j int) bool { return out.Networks[i].Name < out.Networks[j].Name })
	return out, nil
}

// states returns a function from VM name to state. libvirt is asked only if
// there is a VM.
func (e *Env) states(ctx context.Context, any bool) func(string) string {
	if !any {
		return func(string) string { return "unknown" }
	}
	l, err := e.libvirt(ctx)
	var states map[string]virt.State
	if err == nil {
		states, err = l.States(ctx, e.UID)
	}
	absent := err != nil && e.libvirtAbsent(err)
	return func(name string) string {
		if absent {
			return string(virt.Missing)
		}
		if err != nil {
			return "unknown"
		}
		if s, ok := states[name]; ok {
			return string(s)
		}
		return string(virt.Missing)
	}
}

// mountTable is this machine's mount table as it is now.
func (e *Env) mountTable() ([]byte, error) { return e.Host.Head(mountinfo.Self, 64<<20) }

// shared reads what the VM's device shows, and the folders of atts.
func (e *Env) shared(vm string, atts []share.Attachment) (share.HostFacts, error) {
	table, err := e.mountTable()
	if err != nil {
		return share.HostFacts{}, fmt.Errorf("reading this machine's mounts: %w", err)
	}
	return share.ObserveHost(e.key(vm), atts, table)
}

// folders lists the attachments with what the host's mount table says of them,
// and what is mounted for a VM without an attachment: its guest can get at that
// too.
func (e *Env) folders(c config.Config) []ListedFolder {
	out := []ListedFolder{}
	vms := map[string]bool{}
	for _, vm := range c.VMs {
		vms[vm.Name] = true
	}
	for _, a := range c.Attachments {
		vms[a.VMName] = true
	}
	for vm := range vms {
		atts := attachments(c, vm)
		hf, err := e.shared(vm, atts)
		for _, a := range atts {
			state := "unknown"
			if a.State == share.Detaching {
				state = "detaching"
			} else if _, serr := os.Lstat(a.HostPath); errors.Is(serr, os.ErrNotExist) {
				state = "missing"
			} else if a.Mode == share.Git {
				state = gitState(a)
			} else if err == nil {
				state = "detached"
				if hf.Mounted(a) {
					state = "ok"
				}
			}
			out = append(out, ListedFolder{HostPath: a.HostPath, VM: vm, Mode: string(a.Mode), Access: a.Access, GuestDst: a.GuestDst, State: state, Protect: a.Protect})
		}
		for _, r := range strays(hf, atts) {
			out = append(out, ListedFolder{HostPath: r.Path, VM: vm, Mode: string(share.SharedRoot), Access: access(r), State: "detaching"})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].HostPath < out[j].HostPath || out[i].HostPath == out[j].HostPath && out[i].VM < out[j].VM
	})
	return out
}

// attachments are the folders of a VM.
func attachments(c config.Config, vm string) []share.Attachment {
	var out []share.Attachment
	for _, a := range c.Attachments {
		if a.VMName == vm {
			out = append(out, attachment(a))
		}
	}
	return out
}

// strays is what the VM's device shows although no attachment asks for it.
func strays(hf share.HostFacts, atts []share.Attachment) []share.Reached {
	var out []share.Reached
	unwanted := hf.Strays(atts)
	for _, r := range hf.Reached() {
		if slices.Contains(unwanted, r.Token) {
			out = append(out, r)
		}
	}
	return out
}

func access(r share.Reached) string {
	if r.RO {
		return string(share.ReadOnly)
	}
	return string(share.ReadWrite)
}

// attachment turns a record into what provision/share works with.
func attachment(a config.Attachment) share.Attachment {
	mode, err := share.ParseMode(a.Mode)
	if err != nil {
		mode = share.Mode(a.Mode)
	}
	out := share.Attachment{HostPath: a.HostPath, VM: a.VMName, Mode: mode, Access: a.Access, GuestDst: a.GuestDst, Tag: a.Tag, Typed: a.TypedPath, State: share.State(a.State), Protect: a.Protect}
	if out.GuestDst == "" {
		out.GuestDst = a.HostPath
	}
	if out.Tag == "" {
		out.Tag = share.Token(a.HostPath)
	}
	return out
}
