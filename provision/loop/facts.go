package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/codeserver"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// Facts is one pass over the world, unprivileged.
type Facts struct {
	Progress // what was found and done before

	Inst    *state.Instance
	Virt    plan.Known[*virt.Conn] // the connection itself
	Socket  string                 // of a libvirt that refuses this user
	Absent  bool                   // libvirt is not installed
	Domain  domain.Facts
	Net     network.Facts
	Share   share.HostFacts
	Conn    guest.Conn // nil unless the guest answered
	ConnErr error      // why not
	Guest   Guest
	Wall    *WallFacts // nil: not looked at yet

	Creation     Creation                   // what hangs on the VM being made or started
	Keys         Keys                       // of the VM
	SSH          sshcfg.Facts               // the person's ssh configuration
	Server       *codeserver.Source         // of the code-server that is missing; nil: none is
	HostExecuted *plan.Known[hostexec.List] // of a new folder: what this machine's tools run of it
	AliasPlanned bool                       // the plan of this look writes the ssh entry
}

// Made is what the plan of a VM that is made or started hangs on.
type Creation struct {
	Host       host.Facts
	Identities plan.Known[[]sshcfg.Identity]
	Image      ImageFacts // of a disk that is made
	ID         string     // for a VM that has none
}

// ImageFacts is what getting a VM's image hangs on.
type ImageFacts struct {
	Ref     image.Ref   // what the words stand for here and now
	Err     error       // why that is not known
	Auto    bool        // the words leave it to aivm
	Entry   image.Entry // of the cache
	Cached  bool        // it is in the cache
	Refetch bool        // it is to be got although it is there
	Notes   []string    // what a person should know of the choice
	From    string      // where it is fetched from
	Host    string      // the server that is asked first
	Unfit   error       // why it cannot be got
}

// Builds reports whether the image has to be built on this machine. What is not
// known is not built.
func (f ImageFacts) Builds() bool {
	return f.Err == nil && f.Ref.Kind == image.KindPackages && (!f.Cached || f.Refetch)
}

// Keys says why the host keys of a VM cannot be read; nil: they can.
type Keys struct {
	Own    error // the one made here
	Pinned error // the one it has to show
}

// Makes reports whether w's VM is made or started.
func (f *Facts) StartsVM(w *target.Target) bool { return w.Boot && f.Conn == nil && !f.Running() }

// Atts are the folders w is concerned with, as far as its VM can have them.
func (f *Facts) Atts(w *target.Target) []share.Attachment { return f.AttsWithout(w, f.Skipped) }

// AttsBut is Atts without other folders than the run goes on without.
func (f *Facts) AttsWithout(w *target.Target, left Skipped) []share.Attachment {
	if f.LacksFolderDevice() {
		return nil
	}
	return w.Atts(left)
}

// Unmoved reports whether the VM was taken over and does not have aivm's device
// for folders yet.
func (f *Facts) LacksFolderDevice() bool {
	return f.Inst != nil && f.Inst.Adopted && !f.Inst.HasFolderDevice
}

// LeaveOut has the run go on without these folders.
func (f *Facts) Skip(left Skipped) { f.Skipped = f.Skipped.With(left) }

// Running reports whether libvirt says that the VM runs.
func (f *Facts) Running() bool {
	d := f.Domain.Domain
	return d.Err == nil && d.Value != nil && d.Value.State == virt.Running
}

// Guest is what the one probe script in the guest said.
type Guest struct {
	Boot  cloudinit.Status
	Share share.GuestFacts
	Clock time.Duration // how far ahead of this machine's, at least
	// ShareErr says that nobody serves the VM's folders: whatever touches them
	// in the guest waits for good.
	ShareErr error
}

// DialLimit is how long a VM that libvirt knows nothing against may take to
// answer before it counts as unreachable.
const DialLimit = 5 * time.Second

// ErrNotTried is the reason for what nobody asked.
var ErrNotTried = errors.New("not tried")

// ObserveLibvirt asks for the domain, and for pool and networks only where a
// plan can hang on them.
func (e Loop) ObserveLibvirt(ctx context.Context, w *target.Target, f *Facts) {
	f.Net.Libvirt = e.URI()
	l, err := e.Libvirt(ctx)
	if err != nil {
		if errors.Is(err, virt.ErrDenied) {
			f.Socket = e.URI().Socket()
		}
		if f.Absent = e.LibvirtAbsent(err); f.Absent {
			// Not installed: there is nothing it could know of.
			f.Domain.Domain, f.Domain.Pool = plan.Yes[*virt.Domain](nil), plan.Yes[*virt.Pool](nil)
			f.Net.Networks = plan.Yes[[]*virt.Network](nil)
			f.Net.Routes, f.Net.Interfaces = e.Routes()
			f.Virt = plan.Unknown[*virt.Conn](err)
			return
		}
		f.Virt = plan.Unknown[*virt.Conn](err)
		f.Domain.Domain = plan.Unknown[*virt.Domain](err)
		f.Domain.Pool = plan.Unknown[*virt.Pool](err)
		f.Net.Networks = plan.Unknown[[]*virt.Network](err)
		return
	}
	f.Virt = plan.Yes(l)
	d, err := l.Domain(ctx, w.Name)
	f.Domain.Domain = session.Known(d, err)
	if err == nil && d.State == virt.Running {
		if _, seeded := d.StoredDisk(domain.SeedSerial); !seeded && (f.Inst == nil || !f.Inst.SeedLeft) {
			f.Domain.Pool = plan.Unknown[*virt.Pool](ErrNotTried)
			f.Net.Networks = plan.Unknown[[]*virt.Network](ErrNotTried)
			return
		}
	}
	e.observeRest(ctx, l, w, f)
}

func (e Loop) observeRest(ctx context.Context, l *virt.Conn, w *target.Target, f *Facts) {
	p, err := l.PoolAt(ctx, e.BaseDir(w.Record.Paths))
	f.Domain.Pool = session.Known(p, err)
	ns, err := l.Networks(ctx)
	f.Net.Networks = plan.Known[[]*virt.Network]{Value: ns, Err: err}
	f.Net.Routes, f.Net.Interfaces = e.Routes()
}

// GuestTarget is how the guest is reached; ok is false before the VM has a state.
func (e Loop) GuestTarget(ctx context.Context, w *target.Target, inst *state.Instance) (guest.Target, func(), error) {
	pinned, err := e.SSH.PinnedKey(w.Name)
	if err != nil {
		return guest.Target{}, nil, fmt.Errorf("the pinned host key of %s: %w", w.Name, err)
	}
	auth, done, err := e.Auth(ctx, inst)
	if err != nil {
		return guest.Target{}, nil, err
	}
	return guest.Target{Addr: netip.AddrPortFrom(netip.MustParseAddr(inst.Address), 22).String(), User: inst.User, HostKey: pinned, Auth: auth}, done, nil
}

// WallFacts are the rules of the network a look was about.
type WallFacts struct {
	Network string
	Rules   firewall.Facts
	// Guests are those that rules have to let through beside those they know; nil:
	// the rules know some.
	Guests  plan.Known[[]wall.Guest]
	Hooks   plan.Known[Hooks] // libvirt's; read where rules are missing, or a network is started
	Allow   string            // the command that lets this user read the rules; "": nothing asks for a password
	Offered bool              // this user was told it
}

// Hooks says how it stands with libvirt's hooks.
type Hooks struct {
	Current bool // they are in place and run this program
	Known   bool // they were in place once
}

// WallRules are the rules as far as they were looked at.
func (f *Facts) WallRules() *firewall.Facts {
	if f.Wall == nil {
		return nil
	}
	return &f.Wall.Rules
}

// Asks reports whether the guest can be asked about its folders.
func (f *Facts) CanProbeFolders() bool { return f.Conn != nil && f.Guest.ShareErr == nil }

// Plugged reports whether the VM has a device for the token, now or after its
// next start; a libvirt that cannot be asked may have.
func HasDevice(f *Facts, token string) bool {
	d := f.Domain.Domain
	return d.Err == nil && d.Value != nil && (virt.HasFilesystem(d.Value.Filesystems, token) || virt.HasFilesystem(d.Value.StoredFS, token))
}

// NewDomain reports whether a disk would have to be made.
func (f *Facts) NewDomain() bool {
	return f.Domain.Domain.Err == nil && f.Domain.Domain.Value == nil
}

// NetworkNamed is libvirt's network of that name, nil if there is none.
func NetworkNamed(f *Facts, name string) *virt.Network {
	for _, n := range f.Net.Networks.Value {
		if n.Name == name {
			return n
		}
	}
	return nil
}
