package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/sockets"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/test/hints"
)

func TestOnDNSPort(t *testing.T) {
	const udp = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  101: 01084D0A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 5001 2 0000000000000000 0
  102: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5002 2 0000000000000000 0
  103: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5003 2 0000000000000000 0
  bad
  104: 0:0035 0 07 0 0 0 0 0 0 0
  105: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5005 2 0 0
  106: 0000000000000000FFFF000001084D0A:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5006 2 0 0
`
	var got []string
	for _, l := range onDNSPort(sockets.Parse([]byte(udp)), false) {
		got = append(got, l.Addr.String()+" "+l.UID+" "+l.inode)
	}
	if want := "10.77.8.1 101 5001, 0.0.0.0 0 5002, :: 0 5005, 10.77.8.1 0 5006"; strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 1 1 0 100 0 0 10 0
   1: 0100007F:0035 0200007F:9999 01 00000000:00000000 00:00000000 00000000   101        0 2 1 0 100 0 0 10 0
`
	if ls := onDNSPort(sockets.Parse([]byte(tcp)), true); len(ls) != 1 || ls[0].Addr.String() != "127.0.0.1" || ls[0].inode != "1" {
		t.Errorf("%+v", ls)
	}
}

// The hints are the line for the program, in commands that a shell reads.
func TestPort53Hints(t *testing.T) {
	gateway, every := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("0.0.0.0")
	for _, c := range []struct {
		l    Listener
		want string
	}{
		{Listener{Addr: every, PID: 812, Program: "dnsmasq"}, `printf "bind-dynamic\nexcept-interface=virbr-aivm\n" > /etc/dnsmasq.d/aivm-net && systemctl restart dnsmasq`},
		{Listener{Addr: gateway, PID: 812, Program: "dnsmasq"}, `printf "except-interface=virbr-aivm\n" > /etc/dnsmasq.d/aivm-net`},
		{Listener{Addr: gateway, PID: 812, Program: "dnsmasq", libvirt: "aivm-net"}, "sudo kill 812"},
		{Listener{Addr: gateway, PID: 812, Program: "dnsmasq", libvirt: "other"}, "network other, which has the same gateway"},
		{Listener{Addr: every, PID: 812, Program: "named"}, "listen-on { !10.77.0.1; any; };"},
		{Listener{Addr: every, PID: 812, Program: "unbound"}, "interface: 127.0.0.1"},
		{Listener{Addr: every, PID: 812, Program: "x\x1b[2Jy"}, "not on 10.77.0.1"},
		{Listener{Addr: every, UID: "0"}, "not on 10.77.0.1"},
	} {
		var text []string
		for _, h := range c.l.hints("aivm-net", "virbr-aivm", gateway) {
			text = append(text, h.String())
			if h.Command != "" {
				if _, err := hints.Split(h.Command); err != nil {
					t.Errorf("%s: %v", h.Command, err)
				}
			}
		}
		if all := strings.Join(text, "\n"); !strings.Contains(all, c.want) {
			t.Errorf("%+v:\n%s", c.l, all)
		}
		if s := c.l.String(); strings.ContainsRune(s, '\x1b') {
			t.Errorf("%q", s)
		}
	}
	if s := (Listener{UID: "0"}).String(); s != "a program of user root" {
		t.Error(s)
	}
}

// A real network, whose gateway's port 53 this process has before the network starts.
func TestPortOfGatewayTaken(t *testing.T) {
	for proto, listen := range map[string]func(net.ListenConfig, string) (func() error, error){
		"tcp": func(c net.ListenConfig, at string) (func() error, error) {
			l, err := c.Listen(t.Context(), "tcp4", at)
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		},
		"udp": func(c net.ListenConfig, at string) (func() error, error) {
			l, err := c.ListenPacket(t.Context(), "udp4", at)
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		},
	} {
		t.Run(proto, func(t *testing.T) {
			spec := defaults().OnSubnet(netip.MustParsePrefix("10.213.78.0/28"))
			spec.Name, spec.Bridge = fmt.Sprintf("nettest%d%s", os.Getpid(), proto), fmt.Sprintf("virbr-%c%d", proto[0], os.Getpid()%10000000)
			// The address does not exist yet, as that of a program which listens on every address.
			free := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
			}}
			stop, err := listen(free, spec.GatewayIP+":53")
			if err != nil {
				t.Fatal(err)
			}
			c, err := virt.Dial(t.Context(), virt.URI{})
			if err != nil {
				t.Fatalf("this test needs the libvirt of this machine (sudo systemctl start libvirtd, or sudo libvirtd -d): %v", err)
			}
			t.Cleanup(func() {
				_ = c.Close()
				for _, verb := range []string{"net-destroy", "net-undefine"} {
					if out, err := exec.Command("virsh", "-c", virt.SystemURI, verb, spec.Name).CombinedOutput(); err != nil {
						t.Errorf("%s: %v\n%s", verb, err, out)
					}
				}
			})
			as, err := Plan(facts(nil, nil), Wanted{Spec: spec, Owner: os.Getuid()}, func() (Libvirt, error) { return c, nil })
			if err != nil {
				t.Fatal(err)
			}
			_, err = (plan.Runner{}).Run(context.Background(), plan.Plan{Actions: as})
			me := filepath.Base(os.Args[0])
			want := fmt.Sprintf("cannot start network %q: %s (process %d) listens on port 53 of the gateway 10.213.78.1, where libvirt starts the network's DNS server", spec.Name, me[:min(len(me), 15)], os.Getpid())
			var ue *ui.Error
			if !errors.As(err, &ue) || ue.Message != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			_ = stop()
			if err := start(t.Context(), c, spec); err != nil {
				t.Errorf("after the program ended: %v", err)
			}
		})
	}
}
