package packets

import (
	"fmt"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
)

// through returns a test that performs the request in namespace p and checks whether it gets through.
func through(w *world, p *namespace, r request, want bool) func(t *testing.T) {
	return func(t *testing.T) {
		t.Helper()
		r.MS = shortWait
		if want {
			r.MS = longWait
		}
		if a := p.ask(r); a.OK != want {
			t.Errorf("%s %s from %s: got through: %v, want %v (%s)", r.Proto, r.Addr, p.name, a.OK, want, a.Err)
		}
	}
}

// TestDestinationNAT checks that destination NAT rules on the host, of Docker or of the user, give a
// guest no access to blocked addresses, whether the original or the translated address is blocked.
func TestDestinationNAT(t *testing.T) {
	w := newWorld(t)
	const nat = `table ip nat {
		chain prerouting {
			type nat hook prerouting priority -100; policy accept;
			ip daddr 1.1.1.1 tcp dport 8080 dnat to 198.18.5.9:80
			ip daddr 1.1.1.1 tcp dport 8081 dnat to 10.1.2.3:22
			ip daddr 1.1.1.1 tcp dport 8443 redirect to :22
			ip daddr 10.1.2.3 tcp dport 8080 dnat to 1.1.1.1:443
			fib daddr type local tcp dport 8090 dnat to 198.18.5.9:80
			fib daddr type local tcp dport 8002 dnat to 198.18.5.9:80
		}
	}
`
	addrs := []string{"1.1.1.1:8080", "1.1.1.1:8081", "1.1.1.1:8443", "10.1.2.3:8080", "10.77.0.1:8090", "203.0.113.2:8090", "10.77.0.1:8002"}
	for _, on := range []bool{false, true} {
		w.flushRules()
		w.host.load(nat)
		if on {
			w.loadRules()
		}
		for _, a := range addrs {
			through(w, w.one, request{Op: "dial", Proto: "tcp", Addr: a}, !on)(t)
		}
	}
	// An endpoint in allow_lan stays reachable.
	through(w, w.one, request{Op: "dial", Proto: "tcp", Addr: "10.1.2.3:5432"}, true)(t)
}

// TestFlushAndReload checks that connections a guest opened while the rules were flushed end when the
// rules are loaded again, and that connections opened by the host continue.
func TestFlushAndReload(t *testing.T) {
	w := newWorld(t)
	w.loadRules()
	fromHost := request{Op: "keep", Addr: "10.77.0.10:22"}
	through(w, w.host, fromHost, true)(t)
	through(w, w.one, request{Op: "keep", Addr: "1.1.1.1:443"}, true)(t)
	w.flushRules()
	fromGuest := []string{"10.77.0.1:22", "10.1.2.3:22", "198.18.5.9:80", "10.77.0.11:80"}
	for _, a := range fromGuest {
		through(w, w.one, request{Op: "keep", Addr: a}, true)(t)
	}
	through(w, w.lan, request{Op: "keep", Addr: "10.77.0.10:22"}, true)(t)
	w.loadRules()
	for _, a := range fromGuest {
		through(w, w.one, request{Op: "reuse", Addr: a}, false)(t)
	}
	through(w, w.lan, request{Op: "reuse", Addr: "10.77.0.10:22"}, false)(t)
	through(w, w.one, request{Op: "reuse", Addr: "1.1.1.1:443"}, true)(t)
	fromHost.Op = "reuse"
	through(w, w.host, fromHost, true)(t)
}

// TestBesideOtherFirewalls checks that other firewalls on the host can block the guest but cannot
// open anything: their accept does not override aivm's drop. It also checks that CutOffs reports what
// they block.
func TestBesideOtherFirewalls(t *testing.T) {
	w := newWorld(t)
	others := map[string]struct {
		rules string
		inet  bool     // whether the guest still reaches the internet
		dns   bool     // whether the guest still reaches the DNS server
		named []string // parts of what CutOffs reports: what is blocked, and the command that fixes it
	}{
		"Docker": {`table ip filter {
			chain DOCKER-USER { return
			}
			chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER
			}
		}`, false, true, []string{"connections to the internet", "answers from the internet", "DOCKER-USER -i brn"}},
		"ufw": {`table ip filter {
			chain ufw-before-input { ct state established,related accept
			}
			chain INPUT { type filter hook input priority 0; policy drop; jump ufw-before-input
			}
		}`, true, false, []string{"DHCP", "DNS", "sudo ufw allow in on brn"}},
		"firewalld": {`table inet firewalld {
			chain filter_INPUT { type filter hook input priority 10; policy accept; ct state { established, related } accept
				iifname "lo" accept
				reject with icmpx admin-prohibited
			}
		}`, true, false, []string{"DHCP", "DNS", "firewall-cmd --zone=libvirt --change-interface=brn"}},
		// The rules of libvirt 11 for a NAT network, with its nftables backend.
		"libvirt": {`table ip libvirt_network {
			chain guest_output { ip saddr 10.77.0.0/24 iif "brn" counter accept
				iif "brn" counter reject
			}
			chain guest_input { oif "brn" ip daddr 10.77.0.0/24 ct state established,related counter accept
				oif "brn" counter reject
			}
			chain guest_cross { iif "brn" oif "brn" counter accept
			}
			chain forward { type filter hook forward priority filter; policy accept; jump guest_cross
				jump guest_input
				jump guest_output
			}
			chain guest_nat { type nat hook postrouting priority srcnat; policy accept; ip saddr 10.77.0.0/24 ip daddr 224.0.0.0/24 return
				meta l4proto tcp ip saddr 10.77.0.0/24 ip daddr != 10.77.0.0/24 masquerade to :1024-65535
				meta l4proto udp ip saddr 10.77.0.0/24 ip daddr != 10.77.0.0/24 masquerade to :1024-65535
				ip saddr 10.77.0.0/24 ip daddr != 10.77.0.0/24 masquerade
			}
		}`, true, true, nil},
		"accepts all": {`table inet open {
			chain a { type filter hook prerouting priority -300; policy accept; accept
			}
			chain i { type filter hook input priority -400; policy accept; accept
			}
			chain f { type filter hook forward priority 400; policy accept; accept
			}
		}`, true, true, nil},
	}
	closed := only(probes(), func(p probe) bool { return !p.open && p.claim != "spoofing" && !p.ipv6 })
	for name, o := range others {
		for _, first := range []bool{true, false} { // whether the other firewall is loaded first
			w.flushRules()
			if first {
				w.host.load(o.rules)
			}
			w.loadRules()
			if !first {
				w.host.load(o.rules)
			}
			t.Run(name, func(t *testing.T) {
				run(t, w, closed, asClaimed)
				through(w, w.one, request{Op: "dial", Proto: "tcp", Addr: "1.1.1.1:443"}, o.inet)(t)
				through(w, w.one, request{Op: "dial", Proto: "udp", Addr: "10.77.0.1:53"}, o.dns)(t)
				cs, err := firewall.CutOffs([]byte(w.host.run("nft -j list ruleset")), w.wall, "wan")
				if err != nil || len(cs) > 0 != (o.named != nil) {
					t.Errorf("reported as blocked: %v %v", cs, err)
				}
				for _, n := range o.named {
					if !strings.Contains(fmt.Sprint(cs), n) {
						t.Errorf("%q is missing in %v", n, cs)
					}
				}
			})
		}
	}
}

// TestDigestCoversEveryChange checks that every change in aivm's tables changes their digest, that
// changes in other tables do not, and that loading the same rules again gives the same digest.
func TestDigestCoversEveryChange(t *testing.T) {
	w := newWorld(t)
	w.loadRules()
	read := func() nftread.Content {
		t.Helper()
		return w.host.must(request{Op: "kernel", Tables: w.wall.Tables()}).Kernel
	}
	good := read().Digest
	if good == "" {
		t.Fatal("no digest although the rules are loaded")
	}
	w.loadRules()
	if again := read().Digest; again != good {
		t.Error("the same rules have another digest when they are loaded again")
	}
	table := w.wall.Table()
	for _, c := range []string{
		"insert rule inet T to_host accept", "add rule inet T to_net accept", "insert rule inet T forward accept", "insert rule bridge T own accept",
		"delete element inet T block4 { 10.0.0.0/8 }", "add element inet T ports { tcp . 22 }", "add element inet T lan4 { 10.9.9.9/32 . tcp . 1-9 }",
		"add element bridge T guests { 52:54:00:00:00:99 }", "add element bridge T pairs { 52:54:00:00:00:01 . 8.8.8.8 }", "flush chain inet T to_host",
		"add table inet T { flags dormant; }", "add chain inet T input { policy drop; }", "add chain inet T more { type filter hook input priority -400; policy accept; }",
		"delete table bridge T", "delete table inet T", "delete table arp T", "flush chain arp T output", "insert rule arp T output accept", "flush ruleset",
	} {
		w.loadRules()
		w.host.load(strings.ReplaceAll(c, " T", " "+table))
		if got := read().Digest; got == good {
			t.Errorf("%s does not change the digest", c)
		}
		w.host.run("nft flush ruleset")
	}
	w.loadRules()
	w.host.load("table inet other { chain c { type filter hook input priority 0; policy accept; accept\n }\n }")
	if read().Digest != good {
		t.Error("a table of another program changes the digest of aivm's")
	}
	// Loading replaces the rules atomically.
	for range 20 {
		w.host.load(wall.Script(w.wall, w.host.must(request{Op: "local"}).Local))
		if got := read().Digest; got != good {
			t.Error("another digest after a replacement")
		}
	}
}
