package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/gitsync"
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

// Facts holds what one observation read, without privileges.
type Facts struct {
	Progress // what earlier observations and actions of this run found and did

	Inst    *state.Instance
	Virt    plan.Known[*virt.Conn] // the connection to libvirt
	Socket  string                 // of libvirt, if it refuses this user
	Absent  bool                   // libvirt is not installed
	Domain  domain.Facts
	Net     network.Facts
	Share   share.HostFacts
	Conn    guest.Conn // nil unless the guest answered
	ConnErr error      // why Conn is nil
	Guest   Guest
	Wall    *WallFacts // nil: not read yet

	Creation     Creation                   // read only if the VM is created or started
	Keys         Keys                       // of the VM
	SSH          sshcfg.Facts               // the user's ssh configuration
	Server       *codeserver.Source         // of code-server, if its archive has to be fetched; else nil
	HostExecuted *plan.Known[hostexec.List] // the host-executed files of a new folder
	Outside      []gitsync.Need             // what git needs from outside the verb's folder
	AliasPlanned bool                       // the plan made from these facts writes the ssh entry
}

// Creation holds the facts that only the plan to create or start a VM needs.
type Creation struct {
	Host       host.Facts
	Identities plan.Known[[]sshcfg.Identity]
	Image      ImageFacts // for a disk that is created
	ID         string     // the UUID for a VM that has none
}

// ImageFacts holds what the plan to get a VM's image needs.
type ImageFacts struct {
	Ref     image.Ref   // the image that --image or the config means on this host today
	Err     error       // why Ref is not known
	Auto    bool        // neither --image nor the config names one; aivm chooses
	Entry   image.Entry // the cache's entry
	Cached  bool        // the cache has it
	Refetch bool        // get it although the cache has it
	Notes   []string    // what the user should know about the choice
	From    string      // where it is fetched from
	Host    string      // the server that is asked first
	Unfit   error       // why it can be neither fetched nor built
}

// Builds reports whether the image has to be built on this machine; false if the image is
// not known.
func (f ImageFacts) Builds() bool {
	return f.Err == nil && f.Ref.Kind == image.KindPackages && (!f.Cached || f.Refetch)
}

// Keys holds the errors of reading a VM's host keys; nil: readable.
type Keys struct {
	Own    error // the host key that aivm generated for the VM
	Pinned error // the host key that the VM must show
}

// StartsVM reports whether this run creates or starts w's VM.
func (f *Facts) StartsVM(w *target.Target) bool { return w.Boot && f.Conn == nil && !f.Running() }

// Atts returns w's folders without the skipped ones; none while the VM has no device for them.
func (f *Facts) Atts(w *target.Target) []share.Attachment { return f.AttsWithout(w, f.Skipped) }

// AttsWithout is Atts with another set of skipped folders.
func (f *Facts) AttsWithout(w *target.Target, skipped Skipped) []share.Attachment {
	if f.LacksFolderDevice() {
		return nil
	}
	return w.Atts(skipped)
}

// LacksFolderDevice reports whether the VM was adopted from aivm 0.3 and does not have aivm's
// virtiofs device for folders yet.
func (f *Facts) LacksFolderDevice() bool {
	return f.Inst != nil && f.Inst.Adopted && !f.Inst.HasFolderDevice
}

// Skip adds folders to those that this run skips.
func (f *Facts) Skip(skipped Skipped) { f.Skipped = f.Skipped.With(skipped) }

// Running reports whether libvirt lists the VM as running.
func (f *Facts) Running() bool {
	d := f.Domain.Domain
	return d.Err == nil && d.Value != nil && d.Value.State == virt.Running
}

// Guest holds what the probe script in the guest printed.
type Guest struct {
	Boot  cloudinit.Status
	Share share.GuestFacts
	Clock time.Duration // by how much it is ahead of this machine's clock, at least
	// ShareErr is set if no virtiofsd serves the VM's folders: every access to them in the
	// guest blocks indefinitely.
	ShareErr error
}

// DialLimit is how long a VM that libvirt does not report as off may take to answer before
// it counts as unreachable.
const DialLimit = 5 * time.Second

// ErrNotTried is the reason why a fact that was not read is unknown.
var ErrNotTried = errors.New("not tried")

// ObserveLibvirt reads the domain, and the pool and networks only if a plan may need them.
func (e Loop) ObserveLibvirt(ctx context.Context, w *target.Target, f *Facts) {
	f.Net.Libvirt = e.URI()
	l, err := e.Libvirt(ctx)
	if err != nil {
		if errors.Is(err, virt.ErrDenied) {
			f.Socket = e.URI().Socket()
		}
		if f.Absent = e.LibvirtAbsent(err); f.Absent {
			// libvirt is not installed, so there are no domains, pools or networks.
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

// GuestTarget returns the address, user, pinned host key and login methods for the guest. The
// function it returns closes the connection to the ssh agent.
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

// WallFacts holds the firewall rules of one network.
type WallFacts struct {
	Network string
	Rules   firewall.Facts
	// Guests are the guests that the rules must let through in addition to those they
	// already contain; nil: the rules contain some.
	Guests  plan.Known[[]wall.Guest]
	Hooks   plan.Known[Hooks] // of libvirt; read if rules are missing or a network is started
	Allow   string            // the command that lets this user read the rules; "": no password is needed
	Offered bool              // Allow was shown to this user before
}

// Hooks is the state of libvirt's hooks.
type Hooks struct {
	Current bool // installed, and they run this program
	Known   bool // were installed once
}

// WallRules returns the rules that were read, or nil.
func (f *Facts) WallRules() *firewall.Facts {
	if f.Wall == nil {
		return nil
	}
	return &f.Wall.Rules
}

// CanProbeFolders reports whether the guest answers and access to its folders does not block.
func (f *Facts) CanProbeFolders() bool { return f.Conn != nil && f.Guest.ShareErr == nil }

// HasDevice reports whether the VM has a virtiofs device for the token, now or after its next
// start; false if libvirt cannot be asked.
func HasDevice(f *Facts, token string) bool {
	d := f.Domain.Domain
	return d.Err == nil && d.Value != nil && (virt.HasFilesystem(d.Value.Filesystems, token) || virt.HasFilesystem(d.Value.StoredFS, token))
}

// NewDomain reports whether the VM has no domain, so that its disk has to be created.
func (f *Facts) NewDomain() bool {
	return f.Domain.Domain.Err == nil && f.Domain.Domain.Value == nil
}

// NetworkNamed returns libvirt's network of that name, or nil.
func NetworkNamed(f *Facts, name string) *virt.Network {
	for _, n := range f.Net.Networks.Value {
		if n.Name == name {
			return n
		}
	}
	return nil
}
