package network

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

const ownSpace = "AIVM_NETWORK_TEST_SPACE"

// The dnsmasq of a real libvirt network does not resolve names of the host's /etc/hosts; a network
// created without the option stops doing so at its next start. All in the test's own namespaces.
func TestHostsFileIsNotAnswered(t *testing.T) {
	if os.Getenv(ownSpace) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), ownSpace+"=1")
		if os.Geteuid() != 0 {
			cmd = exec.Command("sudo", "-n", "--", "env", ownSpace+"=1", "unshare", "-mn", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		} else {
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("in separate namespaces: %v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	sh := func(script string) {
		t.Helper()
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	sh(`mount --make-rprivate /
		for d in /etc/libvirt /run /var/lib/libvirt /var/cache/libvirt; do mkdir -p $d; mount -t tmpfs none $d; done
		mkdir -p /run/lock /etc/libvirt/qemu/networks /var/lib/libvirt/dnsmasq
		printf '127.0.0.1 localhost\n192.0.2.77 secret-host\n' >` + dir + `/hosts
		mount --bind ` + dir + `/hosts /etc/hosts
		ip link set lo up
		libvirtd -d`)
	b, err := os.ReadFile("/run/libvirtd.pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGTERM) })
	ctx := context.Background()
	c, err := virt.Dial(ctx, virt.URI{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", defaults().GatewayIP+":53")
	}}
	name := defaults().Name
	ask := func(host string) string {
		t.Helper()
		// A fully qualified name, so that no search list of the host is tried.
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		addrs, err := resolver.LookupHost(ctx, host+".")
		if e := new(net.DNSError); err != nil && (!errors.As(err, &e) || e.IsTimeout) {
			t.Fatalf("asking dnsmasq for %s: %v", host, err)
		}
		return strings.Join(addrs, " ")
	}
	restart := func() {
		t.Helper()
		_ = exec.Command("virsh", "-c", "qemu:///system", "net-destroy", name).Run()
		if err := c.StartNetwork(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = exec.Command("virsh", "-c", "qemu:///system", "net-destroy", name).Run() })

	desc, err := XML(defaults(), me)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DefineNetwork(ctx, desc); err != nil {
		t.Fatal(err)
	}
	restart()
	if got := ask("secret-host"); got != "" {
		t.Errorf("dnsmasq answers %s from /etc/hosts", got)
	}

	// A running network as earlier versions of aivm made it.
	if err := c.RemoveNetwork(ctx, name); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "old")
	before, rest, ok := strings.Cut(desc, "<options")
	if !ok {
		before, rest, _ = strings.Cut(desc, "<dnsmasq:options")
	}
	if _, after, found := strings.Cut(rest, "options>"); found {
		desc = before + after
	}
	if err := os.WriteFile(old, []byte(desc), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.DefineNetwork(ctx, desc); err != nil {
		t.Fatal(err)
	}
	restart()
	if got := ask("secret-host"); got != "192.0.2.77" {
		t.Errorf("without the option: %q, so the test proves nothing", got)
	}
	for range 2 {
		n, err := c.Network(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		as, err := Plan(Facts{Networks: known(n)}, Wanted{Spec: defaults(), Owner: me}, func() (Libvirt, error) { return c, nil })
		if err != nil {
			t.Fatal(err)
		}
		if !n.HostsFile && len(as) > 0 {
			t.Errorf("still planned: %s", as[0].ID)
		}
		for _, a := range as {
			if err := a.Do(ctx); err != nil {
				t.Fatalf("%s: %v", a.ID, err)
			}
		}
	}
	restart()
	if got := ask("secret-host"); got != "" {
		t.Errorf("dnsmasq still answers %s from /etc/hosts after the update", got)
	}
	if n, err := c.Network(ctx, name); err != nil || !n.Mark.By(me) || n.HostsFile {
		t.Errorf("%+v %v", n, err)
	}
}

func known(n *virt.Network) plan.Known[[]*virt.Network] { return plan.Yes([]*virt.Network{n}) }
