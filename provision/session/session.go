package session

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/sshcfg"
)

// DefaultBaseDir is where VM disks lie unless paths.base_dir says otherwise.
const DefaultBaseDir = "/var/lib/libvirt/aivm"

// Session is what a verb works with: the outside world as values and functions,
// made once by cmd. It is used by one goroutine, except where noted.
type Session struct {
	UI         Console
	InTTY      bool // a person can be asked
	JSON       bool // results are for a program: what only a person would read is left out
	Verbose    int
	Stdin      io.Reader // of what runs in a guest, and of ssh
	Stdout     io.Writer
	Stderr     io.Writer
	StorePath  string
	Home       string // $HOME: "~" in paths
	UID, GID   int
	Getenv     func(string) string
	Host       host.Env
	Editor     editor.Env
	SSH        sshcfg.Layout
	Cache      image.Cache
	Root       root.Applier
	Approval   plan.Approval
	DryRun     bool
	NoFirewall bool               // --no-firewall: this once
	Verb       string             // for the JSON of a dry run
	Rerun      string             // the command line as typed, for hints
	Hook       func(point string) // fault points; nil in the shipped program
	Firewall   FirewallState      // the walls as they are on this machine
	// What is asked of the world outside; Seams replaces it.
	DialVirt  func(context.Context, virt.URI) (*virt.Conn, error)
	DialGuest func(context.Context, guest.Target) (guest.Conn, error)
	// AwaitGuest waits until a guest lets us in.
	AwaitGuest func(ctx context.Context, t guest.Target, phase func(guest.Phase, time.Duration)) (guest.Conn, error)
	HostKeyOf  func(ctx context.Context, addr string) (ssh.PublicKey, error)
	DialNet    func(ctx context.Context, network, addr string) (net.Conn, error) // to a guest's server
	Routes     func() (routes plan.Known[[]network.Route], interfaces []string)
	Now        func() time.Time // the time of day

	Fetcher       *image.Fetcher
	ServerAnswers *bool           // whether the default image's server does
	Fetched       map[string]bool // images this run has got, by Ref
	Store         *config.Store
	Timing        *ui.Timing
	once          sync.Once
	facts         host.Facts
	Printed       map[string]bool
	originalPaths map[string]string        // what distrust changed in the environment, as it was
	GuestWritable map[string]bool          // folders a guest may have for writing, as this run found
	installed     []string                 // packages, in this run
	libvirt       atomic.Pointer[virt.URI] // of the VM the run is about
	mu            sync.Mutex               // guards conns
	conns         map[virt.URI]*virt.Conn
	Parked        guest.Conn // to the guest, between two looks at the VM ParkedVM
	ParkedVM      string
}

// Console tells a person what a run does, and asks. It prints no results: those
// are returned.
type Console interface {
	Say(format string, args ...any)
	Warn(format string, args ...any)
	Task(label string) ui.Task
	// Suspend leaves the terminal to another program until resume is called.
	Suspend() (resume func())
	Confirm(ctx context.Context, question string, defaultYes bool) (bool, error)
	Choose(ctx context.Context, question string, items []string) (int, error)
	AskLine(ctx context.Context, question string) (string, error)
}

// On has the session speak through s, and returns it.
func (e *Session) SetStreams(s *ui.Streams) *Session {
	e.UI, e.InTTY, e.JSON, e.Verbose = s, s.InTTY, s.JSON, s.Verbose
	e.Stdin, e.Stdout, e.Stderr = s.In, s.Out, s.Err
	return e
}

// Wallkeeper is how the composer sees what keeps walls in place on this
// machine.
type FirewallState interface {
	// Hooks reports whether libvirt's hooks are in place and run this program,
	// and whether any ever were.
	Hooks() (current, known bool, err error)
	// Rules reads the rules of a network. sudo says that sudo may be used where
	// this user may not ask the kernel; it never asks for a password.
	Rules(ctx context.Context, network string, sudo bool) firewall.Facts
	// Manifests are the walls root keeps, of all networks and users.
	Manifests() ([]root.NetManifest, error)
	// Ruleset is everybody's rules, as nft prints them in JSON.
	Ruleset(ctx context.Context, sudo bool) ([]byte, error)
}

// Close ends the connections of this run.
func (e *Session) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeConns()
	if e.Parked != nil {
		_ = e.Parked.Close()
		e.Parked = nil
	}
	if e.Root != nil {
		_ = e.Root.Close()
	}
}

// UseLibvirt has this run ask the libvirt at u, which has the VM it is about.
func (e *Session) UseLibvirt(u virt.URI) { e.libvirt.Store(&u) }

// URI is the libvirt that this run asks: that of the VM it is about, else the
// one of VMs still to be made.
func (e *Session) URI() virt.URI {
	if u := e.libvirt.Load(); u != nil {
		return *u
	}
	if e.Store != nil {
		if u, err := e.Store.Config.Defaults.VM.Libvirt(); err == nil {
			return u
		}
	}
	return virt.URI{}
}

// Virsh returns a command line for people that asks the libvirt of this run.
func (e *Session) Virsh(words string) string { return e.URI().Virsh(words) }

// Libvirt returns the connection to the libvirt of this run, made on first use.
func (e *Session) Libvirt(ctx context.Context) (*virt.Conn, error) {
	return e.LibvirtAt(ctx, e.URI())
}

// LibvirtAt is Libvirt for one VM of many.
func (e *Session) LibvirtAt(ctx context.Context, u virt.URI) (*virt.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.conns[u]; c != nil {
		return c, nil
	}
	c, err := e.DialVirt(ctx, u)
	if err != nil {
		return nil, err
	}
	e.saveConn(u, c)
	return c, nil
}

// keep has later questions to u go over c; e.mu is held.
func (e *Session) saveConn(u virt.URI, c *virt.Conn) {
	if e.conns == nil {
		e.conns = map[virt.URI]*virt.Conn{}
	}
	e.conns[u] = c
}

// hangUp closes the connections to libvirt; e.mu is held.
func (e *Session) closeConns() {
	for _, c := range e.conns {
		_ = c.Close()
	}
	e.conns = nil
}

// DropLibvirt forgets a connection that went bad, so that the next use dials
// again.
func (e *Session) DropLibvirt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeConns()
}

// adoptLibvirt takes over a connection the root helper opened.
func (e *Session) adoptLibvirt(ctx context.Context, res root.Result) error {
	if res.File == nil {
		return errors.New("the privileged helper passed no connection to libvirt")
	}
	defer res.File.Close()
	nc, err := net.FileConn(res.File)
	if err != nil {
		return err
	}
	u := e.URI()
	c, err := virt.Adopt(ctx, nc, u)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.saveConn(u, c)
	e.mu.Unlock()
	return nil
}

// Domains and networks are the lazy views the rooms take: they are asked for
// when an action runs, so that a plan can be made before libvirt exists.
func (e *Session) Domains(ctx context.Context) func() (domain.Libvirt, error) {
	return func() (domain.Libvirt, error) { return e.Libvirt(ctx) }
}

// Networks is Domains for libvirt's networks.
func (e *Session) Networks(ctx context.Context) func() (network.Libvirt, error) {
	return func() (network.Libvirt, error) { return e.Libvirt(ctx) }
}

// HostFacts reads the host once per run; ForgetHost makes the next call read
// again, after packages were installed.
func (e *Session) HostFacts() host.Facts {
	e.once.Do(func() { e.facts = host.Observe(e.Host) })
	return e.facts
}

// ForgetHost has the next HostFacts read this machine again.
func (e *Session) ForgetHost() { e.once = sync.Once{} }

// State is where this person's aivm keeps what it knows of the VMs.
func (e *Session) State() state.Dir { return state.Dir{Layout: e.SSH} }

// Key names a VM machine-wide.
func (e *Session) Key(vm string) string { return root.VMKey(e.UID, vm) }

// Expand resolves a leading ~ of a configured path.
func (e *Session) Expand(p string) string {
	if p == "~" {
		return e.Home
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		return filepath.Join(e.Home, rest)
	}
	return p
}

// BaseDir is where the disks of VMs with these paths lie, absolute.
func (e *Session) BaseDir(p config.Paths) string {
	if p.BaseDir == "" {
		return DefaultBaseDir
	}
	return filepath.Clean(e.Expand(p.BaseDir))
}

// Load reads the store, once for all looks of a run, and tells about unknown
// keys. Changes go through config.Update, which reads again under its lock.
func (e *Session) Load() (*config.Store, error) {
	if e.Store == nil {
		s, err := config.Load(e.StorePath)
		if err != nil {
			return nil, err
		}
		e.Store = s
	}
	s := e.Store
	for _, w := range s.Warnings {
		e.WarnOnce(WarningText(s.Path, w))
	}
	return s, nil
}

// Reload has the next load read the store again.
func (e *Session) Reload() { e.Store = nil }

// Fresh forgets what this run has read and said, as another run would begin.
func (e *Session) ResetRun() { e.Store, e.Printed = nil, nil }

// WarningText is a warning about the store, with file and line.
func WarningText(path string, w config.Warning) string {
	if w.Line > 0 {
		return path + ":" + strconv.Itoa(w.Line) + ": " + w.Message
	}
	return path + ": " + w.Message
}
