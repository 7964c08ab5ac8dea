package provision

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/sshcfg"
)

// DefaultBaseDir is where VM disks lie unless paths.base_dir says otherwise.
const DefaultBaseDir = "/var/lib/libvirt/aivm"

// Env is what a verb works with: the outside world as values and functions,
// made once by cmd. It is used by one goroutine, except where noted.
type Env struct {
	UI         *ui.Streams
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
	NoFirewall bool                                      // --no-firewall: this once
	Verb       string                                    // for the JSON of a dry run
	Rerun      string                                    // the command line as typed, for hints
	Hook       func(point string)                        // fault points; nil in the shipped program
	DialVirt   func(context.Context) (*virt.Conn, error) // virt.Dial unless a test says otherwise
	Wall       Wallkeeper                                // the walls as they are on this machine; nil: the real ones
	// What Seams replaces, nil outside tests.
	DialGuest func(context.Context, guest.Target) (guest.Conn, error)
	HostKeyOf func(ctx context.Context, addr string) (ssh.PublicKey, error)
	DialNet   func(ctx context.Context, network, addr string) (net.Conn, error)
	Routes    func() (plan.Known[[]network.Route], []string)
	Now       func() time.Time

	fetch     *image.Fetcher
	answers   *bool           // whether the default image's server does
	fetched   map[string]bool // images this run has got, by Ref
	store     *config.Store
	timing    *ui.Timing
	once      sync.Once
	facts     host.Facts
	warned    map[string]bool
	paths     map[string]string // what distrust changed in the environment, as it was
	mayHave   map[string]bool   // folders a guest may have for writing, as this run found
	installed []string          // packages, in this run
	mu        sync.Mutex        // guards conn
	conn      *virt.Conn
	parked    guest.Conn // to the guest, between two looks at the VM parkedVM
	parkedVM  string
}

// Close ends the connections of this run.
func (e *Env) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		_ = e.conn.Close()
		e.conn = nil
	}
	if e.parked != nil {
		_ = e.parked.Close()
		e.parked = nil
	}
	if e.Root != nil {
		_ = e.Root.Close()
	}
}

// park keeps the connection to the guest for the next look: a login costs more
// than everything else of it.
func (e *Env) park(w *want, f *facts) {
	if f.conn == nil {
		return
	}
	if e.parked != nil {
		_ = e.parked.Close()
	}
	e.parked, e.parkedVM, f.conn = f.conn, w.name, nil
}

// unpark returns it, if it is to this VM and still alive.
func (e *Env) unpark(ctx context.Context, w *want) (guest.Conn, guestFacts, bool) {
	c := e.parked
	if c == nil {
		return nil, guestFacts{}, false
	}
	e.parked = nil
	if e.parkedVM == w.name {
		if g, err := e.probe(ctx, c, w); err == nil {
			return c, g, true
		}
	}
	_ = c.Close()
	return nil, guestFacts{}, false
}

// libvirt returns the connection to libvirt, made on first use.
func (e *Env) libvirt(ctx context.Context) (*virt.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		return e.conn, nil
	}
	dial := e.DialVirt
	if dial == nil {
		dial = virt.Dial
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	e.conn = c
	return c, nil
}

// dropLibvirt forgets a connection that went bad, so that the next use dials
// again.
func (e *Env) dropLibvirt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		_ = e.conn.Close()
		e.conn = nil
	}
}

// adoptLibvirt takes over a connection the root helper opened.
func (e *Env) adoptLibvirt(ctx context.Context, res root.Result) error {
	if res.File == nil {
		return errors.New("the privileged helper passed no connection to libvirt")
	}
	defer res.File.Close()
	nc, err := net.FileConn(res.File)
	if err != nil {
		return err
	}
	c, err := virt.Adopt(ctx, nc)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.conn = c
	e.mu.Unlock()
	return nil
}

// domains and networks are the lazy views the rooms take: they are asked for
// when an action runs, so that a plan can be made before libvirt exists.
func (e *Env) domains(ctx context.Context) func() (domain.Libvirt, error) {
	return func() (domain.Libvirt, error) { return e.libvirt(ctx) }
}

func (e *Env) networks(ctx context.Context) func() (network.Libvirt, error) {
	return func() (network.Libvirt, error) { return e.libvirt(ctx) }
}

// hostFacts reads the host once per run; forgetHost makes the next call read
// again, after packages were installed.
func (e *Env) hostFacts() host.Facts {
	e.once.Do(func() { e.facts = host.Observe(e.Host) })
	return e.facts
}

func (e *Env) forgetHost() { e.once = sync.Once{} }

// state is where this person's aivm keeps what it knows of the VMs.
func (e *Env) state() state.Dir { return state.Dir{Layout: e.SSH} }

// key names a VM machine-wide.
func (e *Env) key(vm string) string { return root.VMKey(e.UID, vm) }

// expand resolves a leading ~ of a configured path.
func (e *Env) expand(p string) string {
	if p == "~" {
		return e.Home
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		return filepath.Join(e.Home, rest)
	}
	return p
}

func (e *Env) baseDir(p config.Paths) string {
	if p.BaseDir == "" {
		return DefaultBaseDir
	}
	return filepath.Clean(e.expand(p.BaseDir))
}

// load reads the store, once for all looks of a run, and tells about unknown
// keys. Changes go through config.Update, which reads again under its lock.
func (e *Env) load() (*config.Store, error) {
	if e.store == nil {
		s, err := config.Load(e.StorePath)
		if err != nil {
			return nil, err
		}
		e.store = s
	}
	s := e.store
	for _, w := range s.Warnings {
		e.warnOnce(warningText(s.Path, w))
	}
	return s, nil
}

func warningText(path string, w config.Warning) string {
	if w.Line > 0 {
		return path + ":" + strconv.Itoa(w.Line) + ": " + w.Message
	}
	return path + ": " + w.Message
}
