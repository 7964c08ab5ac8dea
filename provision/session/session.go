package session

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
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
	"aivm.dev/aivm/internal/sockets"
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

// DefaultBaseDir is the directory of VM disks unless paths.base_dir in the config names another.
const DefaultBaseDir = "/var/lib/libvirt/aivm"

// Session holds what a verb works with, as values and functions. cmd creates one per run. It is
// used by one goroutine, except where noted.
type Session struct {
	UI         Console
	InTTY      bool // the user can be asked
	OutTTY     bool // stdout is a terminal
	JSON       bool // --json: texts for people are left out
	Verbose    int
	Stdin      io.Reader // of programs in a guest, and of ssh
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
	NoFirewall bool               // --no-firewall: for this run
	Verb       string             // for the JSON of a dry run
	Rerun      string             // the command line as typed, for hints
	Hook       func(point string) // fault points; nil in the shipped program
	Firewall   FirewallState      // the firewall state of this machine
	// The access to the outside; Seams replaces it.
	DialVirt  func(context.Context, virt.URI) (*virt.Conn, error)
	DialGuest func(context.Context, guest.Target) (guest.Conn, error)
	// AwaitGuest waits until a guest accepts the login.
	AwaitGuest func(ctx context.Context, t guest.Target, phase func(guest.Phase, time.Duration)) (guest.Conn, error)
	HostKeyOf  func(ctx context.Context, addr string) (ssh.PublicKey, error)
	DialNet    func(ctx context.Context, network, addr string) (net.Conn, error) // to a guest's SSH server
	// LoginSSH logs in over an alias with the real ssh; nil where no guest is real.
	LoginSSH func(ctx context.Context, l sshcfg.Layout, alias string) error
	Routes   func() (routes plan.Known[[]network.Route], interfaces []string)
	// Connections returns the programs of this machine that are connected to an address.
	Connections func(addr netip.AddrPort) []sockets.Holder
	Now         func() time.Time // the time of day

	Fetcher       *image.Fetcher
	ServerAnswers *bool           // whether the default image's server answers; nil: not tried
	Fetched       map[string]bool // images that this run fetched or built, by Ref
	Store         *config.Store
	Timing        *ui.Timing
	once          sync.Once
	facts         host.Facts
	Printed       map[string]bool
	originalPaths map[string]string        // the environment variables that Distrust changed, with their original values
	GuestWritable map[string]bool          // folders that this run checked and a guest may write
	installed     []string                 // packages that this run installed
	libvirt       atomic.Pointer[virt.URI] // that has the VM of this run
	mu            sync.Mutex               // guards conns
	conns         map[virt.URI]*virt.Conn
	Parked        guest.Conn // to the guest of ParkedVM, between two observations
	ParkedVM      string
}

// Console prints what a run does, and asks the user. It does not print results, which are
// returned.
type Console interface {
	Say(format string, args ...any)
	Warn(format string, args ...any)
	Task(label string) ui.Task
	// Suspend hides the progress line, so that another program can use the terminal, until
	// resume is called.
	Suspend() (resume func())
	Confirm(ctx context.Context, question string, defaultYes bool) (bool, error)
	Choose(ctx context.Context, question string, items []string) (int, error)
	AskLine(ctx context.Context, question string) (string, error)
}

// SetStreams makes the session print to and read from s, and returns the session.
func (e *Session) SetStreams(s *ui.Streams) *Session {
	e.UI, e.InTTY, e.OutTTY, e.JSON, e.Verbose = s, s.InTTY, s.OutTTY, s.JSON, s.Verbose
	e.Stdin, e.Stdout, e.Stderr = s.In, s.Out, s.Err
	return e
}

// FirewallState reads the state of aivm's firewall on this machine.
type FirewallState interface {
	// Hooks reports whether libvirt's hooks are installed and run this program, and whether
	// they were ever installed.
	Hooks() (current, known bool, err error)
	// Rules reads the rules of a network. sudo: use sudo if this user may not ask the kernel;
	// it never asks for a password.
	Rules(ctx context.Context, network string, sudo bool) firewall.Facts
	// Manifests reads the manifests below /var/lib/aivm, of all networks and users.
	Manifests() ([]root.NetManifest, error)
	// Ruleset reads all rules of the kernel, as nft prints them in JSON.
	Ruleset(ctx context.Context, sudo bool) ([]byte, error)
}

// Close closes the connections of this run.
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

// UseLibvirt makes this run use the libvirt at u, which has the VM of the run.
func (e *Session) UseLibvirt(u virt.URI) { e.libvirt.Store(&u) }

// URI returns the URI of the libvirt that this run uses: that of its VM, else that of new VMs.
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

// Virsh returns a virsh command line, for hints, that connects to the libvirt of this run.
func (e *Session) Virsh(words string) string { return e.URI().Virsh(words) }

// Libvirt returns the connection to the libvirt of this run, opened on first use.
func (e *Session) Libvirt(ctx context.Context) (*virt.Conn, error) {
	return e.LibvirtAt(ctx, e.URI())
}

// LibvirtAt is Libvirt for another URI.
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

// saveConn saves the connection to u for later use; e.mu is held.
func (e *Session) saveConn(u virt.URI, c *virt.Conn) {
	if e.conns == nil {
		e.conns = map[virt.URI]*virt.Conn{}
	}
	e.conns[u] = c
}

// closeConns closes the connections to libvirt; e.mu is held.
func (e *Session) closeConns() {
	for _, c := range e.conns {
		_ = c.Close()
	}
	e.conns = nil
}

// DropLibvirt closes the connections to libvirt after an error, so that the next use connects
// again.
func (e *Session) DropLibvirt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeConns()
}

// adoptLibvirt uses the connection to libvirt that the privileged helper opened.
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

// Domains returns a function that connects to libvirt when an action runs, so that a plan can be
// made before libvirt is installed.
func (e *Session) Domains(ctx context.Context) func() (domain.Libvirt, error) {
	return func() (domain.Libvirt, error) { return e.Libvirt(ctx) }
}

// Networks is Domains for libvirt's networks.
func (e *Session) Networks(ctx context.Context) func() (network.Libvirt, error) {
	return func() (network.Libvirt, error) { return e.Libvirt(ctx) }
}

// HostFacts reads the host's facts once per run, and again after ForgetHost.
func (e *Session) HostFacts() host.Facts {
	e.once.Do(func() { e.facts = host.Observe(e.Host) })
	return e.facts
}

// ForgetHost makes the next HostFacts read the host again, after packages were installed.
func (e *Session) ForgetHost() { e.once = sync.Once{} }

// State returns the user's state directory.
func (e *Session) State() state.Dir { return state.Dir{Layout: e.SSH} }

// Key returns the name of a VM that is unique on this machine.
func (e *Session) Key(vm string) string { return root.VMKey(e.UID, vm) }

// Expand replaces a leading ~ of a configured path with the home directory.
func (e *Session) Expand(p string) string {
	if p == "~" {
		return e.Home
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		return filepath.Join(e.Home, rest)
	}
	return p
}

// BaseDir returns the absolute directory of VM disks for a VM's paths.
func (e *Session) BaseDir(p config.Paths) string {
	if p.BaseDir == "" {
		return DefaultBaseDir
	}
	return filepath.Clean(e.Expand(p.BaseDir))
}

// Load reads the config, once per run, and warns about unknown keys. Changes go through
// config.Update, which reads it again under its lock.
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

// Reload makes the next Load read the config again.
func (e *Session) Reload() { e.Store = nil }

// ResetRun forgets what this run read and printed, as if another run began.
func (e *Session) ResetRun() { e.Store, e.Printed = nil, nil }

// WarningText returns a warning about the config with file and line.
func WarningText(path string, w config.Warning) string {
	if w.Line > 0 {
		return path + ":" + strconv.Itoa(w.Line) + ": " + w.Message
	}
	return path + ": " + w.Message
}
