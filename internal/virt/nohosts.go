package virt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// NoHosts is the dnsmasq option that keeps it from answering with names of the host's
// /etc/hosts. libvirt passes options to dnsmasq since 5.6. dnsmasq still reads the hosts
// files that libvirt writes.
const NoHosts = "no-hosts"

const dnsmasqNS = "http://libvirt.org/schemas/network/dnsmasq/1.0"

// DnsmasqOptions returns the dnsmasq options of aivm's networks.
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

// HideHosts adds NoHosts to the definition of a network without it and changes nothing
// else. On an active network it takes effect at the next start.
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
			return fmt.Errorf("libvirt changed more of network %q than its dnsmasq options; its definition was:\n%s", name, desc)
		}
		return nil
	})
}

// withNoHosts inserts NoHosts into the text of a network's definition, next to existing
// dnsmasq options if there are any.
func withNoHosts(desc string) (string, error) {
	if before, after, ok := strings.Cut(desc, "<dnsmasq:options>"); ok {
		return before + "<dnsmasq:options><dnsmasq:option value='" + NoHosts + "'/>" + after, nil
	}
	i := strings.LastIndex(desc, "</network>")
	if i < 0 {
		return "", errors.New("the network's definition has no </network>")
	}
	return desc[:i] + "<dnsmasq:options xmlns:dnsmasq='" + dnsmasqNS + "'><dnsmasq:option value='" + NoHosts + "'/></dnsmasq:options>\n" + desc[i:], nil
}
