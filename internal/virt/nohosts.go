package virt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// NoHosts is dnsmasq's option not to answer from this machine's /etc/hosts,
// which libvirt passes on since 5.6; files of hosts libvirt itself writes are
// read all the same.
const NoHosts = "no-hosts"

const dnsmasqNS = "http://libvirt.org/schemas/network/dnsmasq/1.0"

// DnsmasqOptions are the options of every network of aivm's.
func DnsmasqOptions() *libvirtxml.NetworkDnsmasqOptions {
	return &libvirtxml.NetworkDnsmasqOptions{Option: []libvirtxml.NetworkDnsmasqOption{{Value: NoHosts}}}
}

// readsHosts reports whether the network's dnsmasq answers from /etc/hosts.
func readsHosts(x libvirtxml.Network) bool {
	if x.DnsmasqOptions != nil {
		for _, o := range x.DnsmasqOptions.Option {
			if o.Value == NoHosts {
				return false
			}
		}
	}
	return true
}

// HideHosts adds the option to the definition of a network made without it,
// and changes no other word. One that runs has it from its next start on.
func (c *Conn) HideHosts(ctx context.Context, name string) error {
	return c.withNetwork(ctx, name, func(n libvirt.Network) error {
		read := func() (string, *Network, error) {
			desc, err := c.l.NetworkGetXMLDesc(n, uint32(libvirt.NetworkXMLInactive))
			if err != nil {
				return "", nil, err
			}
			k, err := ParseNetwork(desc)
			return desc, k, err
		}
		desc, was, err := read()
		if err != nil || !was.HostsFile {
			return err
		}
		hidden, err := withNoHosts(desc)
		if err != nil {
			return err
		}
		if _, err := c.l.NetworkDefineXML(hidden); err != nil {
			return err
		}
		_, now, err := read()
		if err != nil {
			return err
		}
		if now.HostsFile || now.UUID != was.UUID || now.Mark != was.Mark || now.Bridge != was.Bridge || now.Subnet != was.Subnet || len(now.Hosts) != len(was.Hosts) {
			return fmt.Errorf("libvirt changed more of network %q than was asked for; what it was:\n%s", name, desc)
		}
		return nil
	})
}

// withNoHosts puts the option into a network's definition as text, among the
// options that are there, if any.
func withNoHosts(desc string) (string, error) {
	if before, after, ok := strings.Cut(desc, "<dnsmasq:options>"); ok {
		return before + "<dnsmasq:options><dnsmasq:option value='" + NoHosts + "'/>" + after, nil
	}
	i := strings.LastIndex(desc, "</network>")
	if i < 0 {
		return "", errors.New("a network's definition without an end")
	}
	return desc[:i] + "<dnsmasq:options xmlns:dnsmasq='" + dnsmasqNS + "'><dnsmasq:option value='" + NoHosts + "'/></dnsmasq:options>\n" + desc[i:], nil
}
