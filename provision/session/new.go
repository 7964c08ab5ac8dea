package session

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/sockets"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/sshcfg"
)

// Check is one line of a check list.
type Check = host.Check

// The states of a Check that are printed with their own sign.
const (
	StateOK  = host.OK
	StateBad = host.Bad
)

// Builders returns the functions that build images; the privileged helper runs them.
func Builders() map[string]root.BuildFunc { return image.Builders() }

// Options are the settings of a run from the command line.
type Options struct {
	UI           *ui.Streams
	Config       string // --config; "": the default path
	Yes, YesSudo bool
	DryRun       bool
	NoFirewall   bool
	Verb, Rerun  string
	Hook         func(point string)
	Seams        *Seams // nil in the shipped program
}

// New creates the session of one run from this process. It opens no connection; those are made
// when they are needed.
func New(o Options) (*Session, error) {
	path, err := StorePath(o.Config)
	if err != nil {
		return nil, err
	}
	sshHome, err := sshcfg.SSHHome()
	if err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = sshHome
	}
	self, err := os.Executable()
	if err != nil {
		return nil, ui.Failed("finding aivm's own program: %w", err)
	}
	e := &Session{
		StorePath: path, Home: home, UID: os.Getuid(), GID: os.Getgid(), Getenv: os.Getenv,
		Host: host.OSEnv(), Editor: editor.OSEnv(), SSH: sshcfg.DefaultLayout(sshHome, os.Getenv),
		Cache: image.Cache{Dir: cacheDir(home), Who: o.Rerun},
		Root: root.New(root.Options{
			Euid: os.Geteuid(), Self: []string{self}, NonInteractive: !o.UI.InTTY,
			Stderr: sudoOutput{o.UI}, Builders: Builders(),
		}),
		Approval: plan.Approval{Yes: o.Yes, YesSudo: o.YesSudo},
		DryRun:   o.DryRun, NoFirewall: o.NoFirewall, Verb: o.Verb, Rerun: o.Rerun, Hook: o.Hook, Timing: ui.NewTiming(),
	}
	e.SetStreams(o.UI)
	if o.Seams == nil {
		e.LoginSSH = LoginSSH
	}
	o.Seams.applyTo(e)
	e.SetDefaults()
	// For [behavior] yes_sudo and Distrust. If the config cannot be read, the verb reports it.
	if st, err := config.Load(path); err == nil {
		e.Store = st
		e.Distrust(guestFolders(&st.Config))
		e.Approval.YesSudo = e.Approval.YesSudo || st.Config.Behavior.YesSudo
	}
	return e, nil
}

// sudoOutput writes sudo's messages while the progress line is suspended.
type sudoOutput struct{ s *ui.Streams }

// Write prints p with control characters escaped.
func (w sudoOutput) Write(p []byte) (int, error) {
	defer w.s.Suspend()()
	if w.s.Err == nil {
		return len(p), nil
	}
	return io.WriteString(w.s.Err, ui.CleanLines(string(p)))
}

// StorePath returns the path of the config; flag is --config, "" for the default path.
func StorePath(flag string) (string, error) {
	if flag == "" {
		return config.DefaultPath()
	}
	if rest, ok := strings.CutPrefix(flag, "~/"); ok {
		if h, err := os.UserHomeDir(); err == nil {
			flag = filepath.Join(h, rest)
		}
	}
	abs, err := filepath.Abs(flag)
	if err == nil && !utf8.ValidString(abs) {
		err = errors.New("the path is not valid UTF-8, and ssh's configuration and libvirt's definitions name it")
	}
	if err != nil {
		return "", ui.Usage("--config %q: %w", flag, err)
	}
	return abs, nil
}

func cacheDir(home string) string {
	base := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(base) {
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "aivm", "images")
}

// Seams replaces all that a run accesses: this machine, libvirt, the guest, root. A test that
// sets them depends on no machine (test/record).
type Seams struct {
	UID, GID  int
	Host      host.Env
	Editor    editor.Env
	SSH       sshcfg.Layout
	Root      root.Applier
	DialVirt  func(context.Context, virt.URI) (*virt.Conn, error)
	DialGuest func(context.Context, guest.Target) (guest.Conn, error)
	HostKeyOf func(ctx context.Context, addr string) (ssh.PublicKey, error)
	DialNet   func(ctx context.Context, network, addr string) (net.Conn, error) // to a guest's SSH server, for its first line
	Routes    func() (plan.Known[[]network.Route], []string)
	Firewall  FirewallState
	Now       func() time.Time
	// Connections returns the programs that are connected to a guest; nil: there are none.
	Connections func(netip.AddrPort) []sockets.Holder
}

func (s *Seams) applyTo(e *Session) {
	if s == nil {
		return
	}
	e.UID, e.GID, e.Host, e.Editor, e.SSH, e.Root = s.UID, s.GID, s.Host, s.Editor, s.SSH, s.Root
	e.DialVirt, e.DialGuest, e.HostKeyOf, e.DialNet = s.DialVirt, s.DialGuest, s.HostKeyOf, s.DialNet
	e.Routes, e.Firewall, e.Now = s.Routes, s.Firewall, s.Now
	if e.Connections = s.Connections; e.Connections == nil {
		e.Connections = func(netip.AddrPort) []sockets.Holder { return nil }
	}
	if dial := s.DialGuest; dial != nil {
		e.AwaitGuest = func(ctx context.Context, t guest.Target, _ func(guest.Phase, time.Duration)) (guest.Conn, error) {
			return dial(ctx, t)
		}
	}
}

// LoginSSH is the real LoginSSH of a session.
func LoginSSH(ctx context.Context, l sshcfg.Layout, alias string) error {
	return sshcfg.Login(ctx, l, alias, nil)
}

// SetDefaults sets the functions that are still nil to the real ones.
func (e *Session) SetDefaults() {
	if e.DialVirt == nil {
		e.DialVirt = virt.Dial
	}
	if e.DialGuest == nil {
		e.DialGuest, e.AwaitGuest = guest.Dial, guest.WaitReady
	}
	if e.HostKeyOf == nil {
		e.HostKeyOf = guest.HostKeyOf
	}
	if e.DialNet == nil {
		e.DialNet = (&net.Dialer{}).DialContext
	}
	if e.Routes == nil {
		e.Routes = network.ObserveRoutes
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.Connections == nil {
		e.Connections = func(a netip.AddrPort) []sockets.Holder { return sockets.ConnectedTo("/proc", a) }
	}
}
