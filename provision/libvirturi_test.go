package provision

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/target"
)

const (
	ofT   = "qemu+unix:///system?socket=/run/of-t"
	ofNew = "qemu+unix:///system?socket=/run/of-new"
)

// worldWithSockets returns a World in which libvirt has the VM t at one socket, u at the default
// one, and new VMs at a third; dialled lists the connections made.
func worldWithSockets(t *testing.T) (w *looptest.World, dialled *[]string) {
	t.Helper()
	w = newWorld(t)
	b, err := os.ReadFile(w.StorePath)
	if err != nil {
		t.Fatal(err)
	}
	text := "schema_version = 5\nactive_vm = \"t\"\n[defaults.vm]\nlibvirt_uri = \"" + ofNew + "\"\n" +
		strings.TrimPrefix(string(b), "schema_version = 5\n") + "libvirt_uri = \"" + ofT + "\"\n" +
		"[[vms]]\nname = \"u\"\nnetwork_name = \"n\"\n" +
		"[[attachments]]\nhost_path = \"" + w.MakeFolder("p") + "\"\nvm_name = \"t\"\nmode = \"shared-root\"\naccess = \"rw\"\n"
	if err := os.WriteFile(w.StorePath, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dialled = &[]string{}
	w.DialVirt = func(_ context.Context, u virt.URI) (*virt.Conn, error) {
		*dialled = append(*dialled, u.String())
		return nil, virt.ErrDenied
	}
	return w, dialled
}

// Each verb uses the libvirt of its VM, and so do the commands in its hints.
func TestWhichLibvirtIsAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		run  func(*testing.T, *Env, *looptest.World) error
		want []string
	}{
		"list asks each": {
			func(t *testing.T, e *Env, _ *looptest.World) error { _, err := e.Listing(t.Context()); return err },
			[]string{ofT, virt.SystemURI},
		},
		"status of one at another socket": {
			func(t *testing.T, e *Env, _ *looptest.World) error {
				st, err := e.StatusInDetail(t.Context(), "t", false)
				next := strings.Join(st.Next, "\n")
				if !strings.Contains(next, "virsh -c '"+ofT+"' console t") || strings.Contains(next, virt.SystemURI+" ") {
					t.Error(next)
				}
				return err
			},
			[]string{ofT},
		},
		"status of one at the usual socket": {
			func(t *testing.T, e *Env, _ *looptest.World) error {
				st, err := e.StatusInDetail(t.Context(), "u", false)
				if next := strings.Join(st.Next, "\n"); !strings.Contains(next, "virsh -c qemu:///system console u") {
					t.Error(next)
				}
				return err
			},
			[]string{virt.SystemURI},
		},
		"a verb of the active VM": {
			func(t *testing.T, e *Env, _ *looptest.World) error {
				_, _, err := e.OwnVM(t.Context(), "")
				return refused(err)
			},
			[]string{ofT},
		},
		"detach": {
			func(t *testing.T, e *Env, w *looptest.World) error {
				l, err := folders.For(e.Loop).FindDetachment(t.Context(), folders.DetachOptions{Folder: w.MakeFolder("p")})
				if err != nil {
					return err
				}
				_, err = e.Libvirt(t.Context())
				if l.W.Libvirt != e.URI() {
					t.Error(l.W.Libvirt)
				}
				return refused(err)
			},
			[]string{ofT},
		},
		"a new VM": {
			func(t *testing.T, e *Env, _ *looptest.World) error {
				store, err := e.Load()
				if err != nil {
					return err
				}
				w, err := target.NewVM(store, "new")
				if err != nil || w.Libvirt.String() != ofNew || w.Record.VM.LibvirtURI != ofNew {
					t.Errorf("%+v, %v", w, err)
				}
				_, err = e.Libvirt(t.Context())
				return refused(err)
			},
			[]string{ofNew},
		},
		"no VM at all": {
			func(t *testing.T, e *Env, _ *looptest.World) error {
				_, err := e.NetworkStatus(t.Context(), "", false)
				return err
			},
			[]string{ofNew},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, dialled := worldWithSockets(t)
			if err := tc.run(t, env(w), w); err != nil {
				t.Error(err)
			}
			slices.Sort(*dialled)
			if got := slices.Compact(*dialled); !slices.Equal(got, tc.want) {
				t.Errorf("asked %q, want %q", got, tc.want)
			}
			if len(w.Ops) != 0 {
				t.Errorf("root was asked for %v", w.Ops)
			}
		})
	}
}

// refused returns nil for the error of a libvirt that refuses the user, else err.
func refused(err error) error {
	if err != nil && strings.Contains(err.Error(), virt.ErrDenied.Error()) {
		return nil
	}
	return err
}
