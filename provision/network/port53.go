package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/sockets"
	"aivm.dev/aivm/internal/ui"
)

// dnsPort is the port of the DNS server that libvirt starts on a network's gateway.
const dnsPort = 53

// A Listener is a socket of this machine on the DNS port.
type Listener struct {
	Addr    netip.Addr // unspecified: every address
	UID     string     // of the user who opened it
	inode   string
	Program string // "" if it cannot be seen, which is so for other users' processes
	PID     int
	Likely  bool   // Program was not seen to have the socket; it is the only DNS server that runs
	libvirt string // the network whose DNS server it is, "" for any other program
}

// Listeners returns the sockets on the DNS port that prevent another one at the address gateway. It
// returns nothing if it cannot read them.
func Listeners(gateway netip.Addr) (found []Listener) {
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		for _, l := range onDNSPort(sockets.Table("/proc", table), strings.HasPrefix(table, "tcp")) {
			if l.Addr == gateway || l.Addr.IsUnspecified() {
				found = append(found, l)
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	holders, servers := map[string]sockets.Process{}, []sockets.Process{}
	for _, p := range sockets.Processes("/proc") {
		if slices.Contains(dnsServers, p.Name()) && libvirtsNetwork(p) == "" {
			servers = append(servers, p)
		}
		for inode := range p.Inodes() {
			holders[inode] = p
		}
	}
	for i := range found {
		l := &found[i]
		p, seen := holders[l.inode]
		if !seen && len(servers) == 1 {
			p, l.Likely = servers[0], true
		}
		if seen || l.Likely {
			l.PID, l.Program, l.libvirt = p.PID(), p.Name(), libvirtsNetwork(p)
		}
	}
	return found
}

// dnsServers lists programs that listen on the DNS port, by the names the kernel keeps, which have
// at most 15 characters.
var dnsServers = []string{
	"AdGuardHome", "blocky", "coredns", "dnscrypt-proxy", "dnsdist", "dnsmasq", "docker-proxy", "knot", "knotd", "kresd", "maradns", "named", "nsd", "pdns_recursor", "pdns_server",
	"pihole-FTL", "smartdns", "stubby", "systemd-resolve", "technitium", "unbound",
}

// libvirtsNetwork returns the network whose DNS server the process is, "" for any other process.
func libvirtsNetwork(p sockets.Process) string {
	for _, arg := range p.Args() {
		if conf, ok := strings.CutPrefix(arg, "--conf-file=/var/lib/libvirt/dnsmasq/"); ok {
			return strings.TrimSuffix(conf, ".conf")
		}
	}
	return ""
}

// onDNSPort returns the sockets that listen on the DNS port.
func onDNSPort(table []sockets.Socket, tcp bool) (found []Listener) {
	for _, s := range table {
		if s.Local.Port() == dnsPort && (!tcp || s.State == sockets.Listen) {
			found = append(found, Listener{Addr: s.Local.Addr(), UID: strconv.Itoa(s.UID), inode: s.Inode})
		}
	}
	return found
}

// String returns who listens: "dnsmasq (process 812)", or what is known.
func (l Listener) String() string {
	switch {
	case l.Likely:
		return fmt.Sprintf("another program, probably %s (process %d),", ui.Clean(l.Program), l.PID)
	case l.PID != 0:
		return fmt.Sprintf("%s (process %d)", ui.Clean(l.Program), l.PID)
	}
	name := "uid " + l.UID
	if u, err := user.LookupId(l.UID); err == nil {
		name = u.Username
	}
	return "a program of user " + ui.Clean(name)
}

// explainStart returns err, with which libvirt failed to start the network, or names the program that
// listens on the DNS port of its gateway, and the line that keeps it from there.
func explainStart(err error, name, bridge string, gateway netip.Addr) error {
	found := Listeners(gateway)
	if err == nil || len(found) == 0 {
		return err
	}
	// The one that is known best.
	slices.SortStableFunc(found, func(a, b Listener) int { return rank(a) - rank(b) })
	l := found[0]
	where := "the gateway " + gateway.String()
	if l.Addr.IsUnspecified() {
		where = "every address of this machine, and so on that of the gateway " + gateway.String()
	}
	why := ""
	if !strings.Contains(err.Error(), "dnsmasq") { // libvirt tells its DNS server's command line, and that the address is in use
		why = ": " + err.Error()
	}
	e := ui.Failed("cannot start network %q: %s listens on port %d of %s, where libvirt starts the network's DNS server%s", name, l, dnsPort, where, why)
	e.Err = errors.Join(e.Err, err)
	return e.Hint(l.hints(name, bridge, gateway)...).Hint(ui.CmdFor("to see all that listen there", fmt.Sprintf("sudo ss -lntup 'sport = :%d'", dnsPort)))
}

func rank(l Listener) int {
	switch {
	case l.PID == 0:
		return 2
	case l.Likely:
		return 1
	}
	return 0
}

// hints returns how to keep the program from the gateway.
func (l Listener) hints(name, bridge string, gateway netip.Addr) []ui.Hint {
	switch {
	case l.libvirt == name:
		return []ui.Hint{ui.CmdFor("it is the network's DNS server of an earlier start, which libvirt has lost; to end it", fmt.Sprintf("sudo kill %d", l.PID))}
	case l.libvirt != "":
		return []ui.Hint{ui.Remark("it is the DNS server of libvirt's network " + ui.Clean(l.libvirt) + ", which has the same gateway")}
	case l.Program == "dnsmasq":
		lines := "except-interface=" + bridge
		if l.Addr.IsUnspecified() {
			lines = "bind-dynamic\\n" + lines
		}
		return []ui.Hint{ui.CmdFor("to keep it from the network's bridge", `sudo sh -c 'printf "`+lines+`\n" > /etc/dnsmasq.d/`+name+` && systemctl restart dnsmasq'`)}
	case l.Program == "named":
		return []ui.Hint{ui.Remark("in the section options of named.conf, set: listen-on { !" + gateway.String() + "; any; };"), ui.CmdFor("then", "sudo systemctl restart named")}
	case l.Program == "unbound":
		return []ui.Hint{ui.Remark("in the section server of unbound.conf, name the addresses it serves instead of all: interface: 127.0.0.1"), ui.CmdFor("then", "sudo systemctl restart unbound")}
	case l.Program == "systemd-resolve":
		return []ui.Hint{ui.Remark("in /etc/systemd/resolved.conf, remove the DNSStubListenerExtra of that address"), ui.CmdFor("then", "sudo systemctl restart systemd-resolved")}
	}
	return []ui.Hint{ui.Remark("configure that program to listen on the addresses it serves, not on " + gateway.String())}
}
