package oneshot

import (
	"context"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/program"
	"aivm.dev/aivm/internal/qemu"
	"aivm.dev/aivm/internal/template"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/userfs"
	"aivm.dev/aivm/internal/userstack"
	"aivm.dev/aivm/provision/oneshot/terminal"
)

// Stored is a template of the store, started by QEMU.
type Stored struct {
	store    template.Store
	template template.Template
	stale    string
	log      *os.File
}

// Find returns the template that a run asks for. note is what the user is to know about it. The VM's
// console is written to debug; nil: to nothing.
func Find(ctx context.Context, dir string, o Options, debug io.Writer) (b *Stored, note string, err error) {
	store := template.Store{Dir: dir}
	t, ok, err := store.Find(o.Template)
	if err != nil {
		return nil, "", ui.Failed("reading the templates: %w", err)
	}
	if !ok {
		setup := "aivm setup"
		if o.Template != "default" {
			setup += " --template " + o.Template
		}
		return nil, "", ui.Refused("there is no template named %s", ui.CleanTo(o.Template, 64)).Hint(ui.CmdFor("build it once", setup))
	}
	if t.Old(time.Now()) {
		note = "template " + o.Template + " is older than 30 days; to update what is installed in it: aivm setup --upgrade"
	}
	s := &Stored{store: store, template: t, stale: t.Damaged}
	if t.Damaged == "" {
		if s.stale, err = stale(ctx, &s.template); err != nil {
			return nil, "", err
		}
	}
	if o.MemoryMiB != 0 && o.MemoryMiB != t.Key.MemoryMiB || o.CPUs != 0 && o.CPUs != t.Key.CPUs {
		s.size(o)
	}
	if debug != nil {
		if s.log, err = console(debug); err != nil {
			return nil, "", ui.Failed("making a pipe: %w", err)
		}
	}
	return s, note, nil
}

// console returns a pipe, from which the VM's console is written to w.
func console(w io.Writer) (*os.File, error) {
	r, end, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer r.Close()
		_, _ = io.Copy(w, r)
	}()
	return end, nil
}

// size gives the VM other sizes than the template's, which prevents a resume.
func (s *Stored) size(o Options) {
	if o.MemoryMiB != 0 {
		s.template.Key.MemoryMiB = o.MemoryMiB
	}
	if o.CPUs != 0 {
		s.template.Key.CPUs = o.CPUs
	}
	if s.stale == "" {
		s.stale = "has another size of memory or number of CPUs"
	}
}

// stale returns why the saved state of the template does not fit this machine and this aivm; "" if it
// does. It makes t's program and acceleration those of this machine.
func stale(ctx context.Context, t *template.Template) (string, error) {
	path, err := qemu.Find()
	if err != nil {
		return "", err
	}
	p := t.Program
	if stamp, err := qemu.Stamp(path); err != nil || path != p.Path || stamp != p.Stamp {
		if p, err = qemu.Probe(ctx, path); err != nil {
			return "", ui.Failed("%w", err)
		}
	}
	accel := t.Key.Accel
	if accel == "kvm" && unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		accel = "tcg"
	}
	agent, err := program.Digest(runtime.GOARCH)
	if err != nil {
		return "", ui.Failed("aivm's program for the guest: %w", err)
	}
	k := t.Key
	wanted := template.NewKey(template.Wanted{
		Name: k.Name, Program: p, Accel: accel, MemoryMiB: k.MemoryMiB, CPUs: k.CPUs, DiskGiB: k.DiskGiB, Image: k.Image,
	})
	wanted.Setup, wanted.Agent = k.Setup, agent
	why := t.Stale(wanted)
	if len(why) == 0 {
		return "", nil
	}
	t.Program, t.Key = p, wanted
	return "is stale: " + strings.Join(why, "; "), nil
}

// Template returns the template's name.
func (s *Stored) Template() string { return s.template.Key.Name }

// Resumable reports whether the saved state fits.
func (s *Stored) Resumable() (ok bool, why string) { return s.stale == "", s.stale }

// Resume continues the saved state.
func (s *Stored) Resume(ctx context.Context, link *os.File) (Machine, error) {
	return started(s.store.Resume(ctx, s.template, s.options(link)))
}

// Cold boots the template's disk.
func (s *Stored) Cold(ctx context.Context, link *os.File) (Machine, error) {
	return started(s.store.Cold(ctx, s.template, s.options(link)))
}

func (s *Stored) options(link *os.File) template.Options {
	o := template.Options{Log: s.log}
	if link != nil {
		o.NIC = &qemu.NIC{Socket: link, MAC: userstack.GuestMAC, MTU: userstack.MTU}
	}
	return o
}

// started returns the VM, or no Machine at all after an error.
func started(r *template.Running, err error) (Machine, error) {
	if err != nil {
		return nil, err
	}
	return &vm{r}, nil
}

// vm is a Machine of QEMU.
type vm struct{ running *template.Running }

// Folders returns this process's end of the port for folders.
func (v *vm) Folders() *os.File { return v.running.FS }

// Connect waits for the agent.
func (v *vm) Connect(ctx context.Context) (Guest, error) {
	var s *guestd.Session
	var err error
	if v.running.Cold {
		s, err = guestd.ConnectWithin(ctx, v.running.Control, bootAnswers)
	} else {
		s, err = v.running.Connect(ctx)
	}
	if err != nil {
		return nil, err
	}
	return agent{s}, nil
}

// Kill ends QEMU.
func (v *vm) Kill() { v.running.Close() }

// Done is closed when QEMU has ended.
func (v *vm) Done() <-chan struct{} { return v.running.VM.Done() }

// Words returns what QEMU reported when it ended.
func (v *vm) Words() string {
	if err := v.running.VM.Wait(); err != nil {
		return err.Error()
	}
	return ""
}

// Steps returns how long the parts of the start took.
func (v *vm) Steps() []template.Step { return v.running.Steps }

// agent is a Guest of guestd.
type agent struct{ *guestd.Session }

// Start starts a command.
func (a agent) Start(ctx context.Context, c guestd.Command) (terminal.Process, error) {
	p, err := a.Session.Start(ctx, c)
	if err != nil {
		return nil, err // not p: a nil pointer in an interface is no nil interface
	}
	return p, nil
}

// OwnChildren are the real processes of a run.
var OwnChildren = Children{Folders: serveFolders, Network: startNetwork}

func serveFolders(ctx context.Context, folders []Folder, relay *os.File) (FolderServer, error) {
	var exports []userfs.Export
	for _, f := range folders {
		exports = append(exports, userfs.Export{Dir: f.Host, ReadOnly: f.ReadOnly})
	}
	s, err := userfs.Start(ctx, userfs.Config{Exports: exports, Relay: relay})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func startNetwork(ctx context.Context, link *os.File, debug io.Writer) (Stack, error) {
	s, err := userstack.Start(ctx, userstack.Config{Link: link, Log: debug})
	if err != nil {
		return nil, err
	}
	return network{s}, nil
}

// network is the network process and how the guest uses it.
type network struct{ *userstack.Stack }

// Setup returns the guest's settings.
func (network) Setup() *guestd.Network {
	return &guestd.Network{Address: userstack.GuestAddress, Gateway: userstack.GatewayAddress, DNS: []netip.Addr{userstack.GatewayAddress}, MTU: userstack.MTU}
}
