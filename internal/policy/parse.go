package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParsePorts parses a port or a range of ports: "443" or "8000-8100".
func ParsePorts(proto, s string) (Ports, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	p := Ports{Proto: proto, First: uint16(a), Last: uint16(b)}
	if err1 != nil || err2 != nil || p.check() != nil {
		return Ports{}, fmt.Errorf("%q is not a port from 1 to 65535 or a range like 8000-8100", s)
	}
	return p, nil
}

// ParseEndpoint parses "10.1.2.3:5432", "10.1.2.0/24:8000-8100" or "[fd00::5]:443", with
// "/udp" appended for UDP; the default is TCP.
func ParseEndpoint(s string) (Endpoint, error) {
	bad := fmt.Errorf("%q is not like \"10.1.2.3:5432\", \"10.1.2.0/24:8000-8100\", \"[fd00::5]:443\" or \"10.1.2.3:53/udp\"", s)
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Endpoint{}, bad
	}
	host, port := s[:i], s[i+1:]
	proto := "tcp"
	if p, name, ok := strings.Cut(port, "/"); ok {
		if port, proto = p, name; proto != "tcp" && proto != "udp" {
			return Endpoint{}, bad
		}
	}
	ports, err := ParsePorts(proto, port)
	if err != nil {
		return Endpoint{}, bad
	}
	six := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if six {
		host = host[1 : len(host)-1]
	}
	p, err := ParseNet(host)
	if err != nil || p.Addr().Is6() != six {
		return Endpoint{}, bad
	}
	return Endpoint{Net: p, Ports: ports}, nil
}

// ParseNet parses a network, or a single address as a network of one address.
func ParseNet(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p = p.Masked(); Usable(p) {
			return p, nil
		}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a network like 10.0.0.0/8", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
