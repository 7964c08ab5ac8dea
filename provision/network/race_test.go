package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// A network that another process created since the plan makes the plan stale; any other error of
// libvirt is reported.
func TestCreatedByAnotherProcess(t *testing.T) {
	w := Wanted{Spec: defaults(), Owner: me}
	exists := errors.New("operation failed: network 'aivm-net' already exists with uuid")
	for _, c := range []struct {
		name  string
		l     fake
		stale bool
	}{
		{"this user's network", fake{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", me), exists}, true},
		{"another user's network", fake{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", 7), exists}, true},
		{"none", fake{nil, errors.New("bridge name in use")}, false},
	} {
		as, err := Plan(facts(nil, nil), w, func() (Libvirt, error) { return c.l, nil })
		if err != nil {
			t.Fatal(err)
		}
		again, err := plan.Runner{}.Run(context.Background(), plan.Plan{Actions: as[:1]})
		if again != c.stale || (err == nil) != c.stale {
			t.Errorf("%s: again %v, %v", c.name, again, err)
		}
	}
	l := fake{nil, fmt.Errorf("network: %w", virt.ErrNotFound)}
	if err := start(context.Background(), l, defaults()); !errors.Is(err, plan.ErrStale) {
		t.Errorf("a network that was removed: %v", err)
	}
}

// The first runs of several VMs at once, with the host's libvirt and a network of this test: they
// create one network, and each VM gets its own address.
func TestFirstRunsAtOnce(t *testing.T) {
	ctx := context.Background()
	spec := defaults().OnSubnet(netip.MustParsePrefix("10.213.77.0/24"))
	spec.Name, spec.Bridge = fmt.Sprintf("nettest%d", os.Getpid()), fmt.Sprintf("virbr-n%d", os.Getpid()%10000000)
	t.Cleanup(func() {
		for _, verb := range []string{"net-destroy", "net-undefine"} {
			if out, err := exec.Command("virsh", "-c", virt.SystemURI, verb, spec.Name).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", verb, err, out)
			}
		}
	})
	dial := func() *virt.Conn {
		c, err := virt.Dial(ctx, virt.URI{})
		if err != nil {
			t.Fatalf("this test needs the libvirt of this machine (sudo systemctl start libvirtd, or sudo libvirtd -d): %v", err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	const runs = 4
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range runs {
		l := dial()
		wg.Go(func() {
			<-begin
			w := Wanted{Spec: spec, Owner: os.Getuid(), VM: fmt.Sprintf("vm%d", i), MAC: MAC(fmt.Sprintf("nettest-%d", i))}
			f, passes := facts(nil, nil), 0
			for again := true; again; passes++ {
				if passes == 12 {
					t.Errorf("run %d: %d passes were not enough", i, passes)
					return
				}
				var err error
				if w.IP, _, err = Address(spec, f.find(spec.Name), w.MAC); err != nil {
					t.Error(err)
					return
				}
				as, err := Plan(f, w, func() (Libvirt, error) { return l, nil })
				if err != nil {
					t.Error(err)
					return
				}
				if again, err = (plan.Runner{}).Run(ctx, plan.Plan{Actions: as}); err != nil {
					t.Errorf("run %d: %v", i, err)
					return
				}
				n, err := l.Network(ctx, spec.Name)
				if err != nil {
					t.Error(err)
					return
				}
				f = facts([]*virt.Network{n}, nil)
			}
		})
	}
	close(begin)
	wg.Wait()
	n, err := dial().Network(ctx, spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	ips := map[netip.Addr]bool{}
	for _, h := range n.Hosts {
		ips[h.IP] = true
	}
	if !n.Active || !n.Autostart || len(n.Hosts) != runs || len(ips) != runs {
		t.Errorf("%+v", n)
	}
}
