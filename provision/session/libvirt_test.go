package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
)

// recorder records the requests to the privileged helper and returns an error.
type recorder struct{ ops []root.Op }

func (a *recorder) Do(_ context.Context, op root.Op, _ root.Progress) (root.Result, error) {
	a.ops = append(a.ops, op)
	return root.Result{}, errors.New("not done")
}

func (a *recorder) Close() error { return nil }

func uri(t *testing.T, s string) virt.URI {
	t.Helper()
	u, err := virt.ParseURI(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// denied returns a session whose libvirt, at any socket, refuses this user.
func denied() (*Session, *recorder) {
	a := &recorder{}
	return &Session{
		UI: &ui.Streams{}, Root: a, Host: host.OSEnv(), Timing: ui.NewTiming(), Rerun: "aivm x",
		DialVirt: func(_ context.Context, u virt.URI) (*virt.Conn, error) {
			return nil, fmt.Errorf("%w: %s", virt.ErrDenied, u.Socket())
		},
	}, a
}

// No config makes aivm ask root to open a socket that is not in its list.
func TestRootOpensItsOwnSocketsOnly(t *testing.T) {
	for _, tc := range []struct {
		uri  string
		open string // the socket that root opens; "": refused
	}{
		{virt.SystemURI, virt.URI{}.Socket()},
		{"qemu:///system?socket=/run/libvirt/virtqemud-sock", "/run/libvirt/virtqemud-sock"},
		{"qemu:///system?socket=/run/docker.sock", ""},
		{"qemu:///system?socket=/tmp/libvirt-sock", ""},
		{"qemu:///system?socket=/run/libvirt/virtstoraged-sock", ""},
		{"qemu:///system?socket=/run/libvirt/libvirt-sock2", ""},
	} {
		for name, open := range map[string]func(*Session) error{
			"with help": func(e *Session) error { _, err := e.LibvirtWithHelp(t.Context()); return err },
			"as root":   func(e *Session) error { _, err := e.LibvirtAsRoot(t.Context()); return err },
			"planned": func(e *Session) error {
				_, err := e.Libvirt(t.Context())
				p, err := e.PlanLibvirt(err, e.URI().Socket())
				if err != nil {
					return err
				}
				_, err = e.Root.Do(t.Context(), p.Root, nil)
				return err
			},
		} {
			e, a := denied()
			e.UseLibvirt(uri(t, tc.uri))
			err := open(e)
			if err == nil {
				t.Fatalf("%s, %s: no error", tc.uri, name)
			}
			if tc.open == "" {
				if len(a.ops) != 0 || !strings.Contains(err.Error(), "root helper opens only libvirt's system sockets") {
					t.Errorf("%s, %s: root was asked for %v: %v", tc.uri, name, a.ops, err)
				}
				if hints := strings.Join(HintsOf(err), "; "); !strings.Contains(hints, "aivm config edit") {
					t.Errorf("%s, %s: %s", tc.uri, name, hints)
				}
				continue
			}
			if len(a.ops) != 1 || a.ops[0] != (root.LibvirtSocket{Path: tc.open}) {
				t.Errorf("%s, %s: root was asked for %v: %v", tc.uri, name, a.ops, err)
			}
		}
	}
}

// If nothing listens at a socket that the user configured, no daemon is started.
func TestNothingListensAtTheSocket(t *testing.T) {
	e, a := denied()
	e.DialVirt = virt.Dial
	e.UseLibvirt(uri(t, "qemu:///system?socket="+t.TempDir()+"/sock"))
	_, err := e.LibvirtWithHelp(t.Context())
	if !errors.Is(err, virt.ErrNoDaemon) || len(a.ops) != 0 || !strings.Contains(strings.Join(HintsOf(err), "; "), "aivm config edit") {
		t.Errorf("%v, %v, %v", err, HintsOf(err), a.ops)
	}
}

// A run uses the libvirt of its VM; without a VM, that of new VMs. Hints name the same one.
func TestURI(t *testing.T) {
	e, _ := denied()
	if e.URI() != (virt.URI{}) {
		t.Error(e.URI())
	}
	c := config.DefaultConfig()
	c.Defaults.VM.LibvirtURI = "qemu:///system?socket=/run/new"
	e.Store = &config.Store{Config: c}
	if got := e.Virsh("list"); got != "virsh -c 'qemu+unix:///system?socket=/run/new' list" {
		t.Error(got)
	}
	if _, err := e.Libvirt(t.Context()); err == nil || !strings.HasSuffix(err.Error(), ": /run/new") {
		t.Error(err)
	}
	e.UseLibvirt(uri(t, "qemu:///system?socket=/run/of-vm"))
	if _, err := e.Libvirt(t.Context()); err == nil || !strings.HasSuffix(err.Error(), ": /run/of-vm") {
		t.Error(err)
	}
	hints := strings.Join(HintsOf(e.HostKeyRefusal("a", errors.New("x"))), "; ")
	if !strings.Contains(hints, "virsh -c 'qemu+unix:///system?socket=/run/of-vm' console a") {
		t.Error(hints)
	}
}
