package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Route is one route of the host, in any of its routing tables.
type Route struct {
	Dst     netip.Prefix
	Table   uint32
	Link    int  // index of the outgoing interface, 0 if the route names none
	Gateway bool // the route goes through a router
}

// MainTable is the routing table the kernel uses if no rule selects another one.
const MainTable = unix.RT_TABLE_MAIN

// Routes reads the unicast routes of all routing tables from the kernel, IPv4 and IPv6.
// It needs no privileges.
func Routes() ([]Route, error) {
	var out []Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rs, err := dumpRoutes(family)
		if err != nil {
			return nil, fmt.Errorf("reading this machine's routes: %w", err)
		}
		out = append(out, rs...)
	}
	return out, nil
}

// dumpRoutes reads the routes of one address family. If they change during the dump, it
// tries again, up to 20 times.
func dumpRoutes(family int) ([]Route, error) {
	for range 20 {
		b, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, family)
		if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP) {
			return nil, nil // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		if rs, complete, err := parseRoutes(b, byte(family)); err != nil || complete {
			return rs, err
		}
	}
	return nil, errors.New("the routes changed during each of 20 dumps")
}

// parseRoutes parses RTM_NEWROUTE messages (rtnetlink(7)). complete is false if the
// kernel reports that the routes changed during the dump (NLM_F_DUMP_INTR).
func parseRoutes(b []byte, family byte) (out []Route, complete bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, false, err
	}
	for _, m := range msgs {
		if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			return nil, false, nil
		}
		// A kernel without this family returns the routes of all others.
		if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg || m.Data[0] != family {
			continue
		}
		flags := binary.NativeEndian.Uint32(m.Data[8:])
		if m.Data[7] != unix.RTN_UNICAST || flags&unix.RTM_F_CLONED != 0 {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, false, err
		}
		r := Route{Table: uint32(m.Data[4])}
		dst := make([]byte, map[byte]int{unix.AF_INET: 4, unix.AF_INET6: 16}[family])
		hops := []Route{}
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.RTA_DST:
				copy(dst, a.Value)
			case unix.RTA_TABLE:
				r.Table = number(a.Value)
			case unix.RTA_OIF:
				r.Link = int(number(a.Value))
			case unix.RTA_GATEWAY, unix.RTA_VIA:
				r.Gateway = true
			case unix.RTA_MULTIPATH:
				hops = nextHops(a.Value)
			}
		}
		addr, _ := netip.AddrFromSlice(dst)
		if r.Dst = netip.PrefixFrom(addr, int(m.Data[1])).Masked(); !r.Dst.IsValid() {
			return nil, false, fmt.Errorf("invalid route to %s/%d", addr, m.Data[1])
		}
		if len(hops) == 0 {
			hops = []Route{r}
		}
		for _, h := range hops {
			out = append(out, Route{r.Dst, r.Table, h.Link, h.Gateway})
		}
	}
	return out, true, nil
}

// nextHops parses the next hops of a multipath route: struct rtnexthop, each followed by
// attributes.
func nextHops(b []byte) []Route {
	var out []Route
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		h := Route{Link: int(number(b[4:8]))}
		for a := b[unix.SizeofRtNexthop:n]; len(a) >= unix.SizeofRtAttr; {
			size := int(binary.NativeEndian.Uint16(a))
			kind := binary.NativeEndian.Uint16(a[2:])
			h.Gateway = h.Gateway || kind == unix.RTA_GATEWAY || kind == unix.RTA_VIA
			if size = (size + 3) &^ 3; size < unix.SizeofRtAttr || size > len(a) {
				break
			}
			a = a[size:]
		}
		out = append(out, h)
		b = b[min((n+3)&^3, len(b)):]
	}
	return out
}

// number reads a uint32 in the host's byte order, 0 if b is too short.
func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// tableLink is one interface in one routing table.
type tableLink struct {
	table uint32
	link  int
}

// manyRoutes is the limit above which the routes of one tableLink through a router are
// taken for a list of internet networks, such as those of a country, and not for private
// networks.
const manyRoutes = 512

// narrow4 and narrow6 are the shortest prefixes taken for a private network if the same
// tableLink also leads to the internet. A tunnel that excludes some networks has routes
// for the rest of the internet, in pieces of every size.
const narrow4, narrow6 = 16, 48

// localRoutes returns the networks that the routes connect the host to. In the main
// table, these are the networks reached without a router or through a tunnel; in other
// tables, which VPNs and custom rules use, all networks. Routes to the internet are left
// out: default routes and the pieces that together replace one.
func localRoutes(rs []Route, tunnel func(link int) bool) []netip.Prefix {
	internet, routed := map[tableLink]bool{}, map[tableLink]int{}
	for _, r := range rs {
		w := tableLink{r.Table, r.Link}
		if wide(r.Dst) {
			internet[w] = true
		}
		if r.Gateway {
			routed[w]++
		}
	}
	var out []netip.Prefix
	for _, r := range rs {
		w, own := tableLink{r.Table, r.Link}, r.Table != MainTable || tunnel(r.Link)
		switch {
		case r.Gateway && (!own || routed[w] > manyRoutes):
			continue
		case own && internet[w] && r.Dst.Bits() < map[bool]int{true: narrow4, false: narrow6}[r.Dst.Addr().Is4()]:
			continue
		// A single IPv6 address is the host's own or a cached route, not a subnet.
		case r.Dst.Addr().Is6() && r.Dst.IsSingleIP():
			continue
		}
		out = appendLocal(out, r.Dst)
	}
	return out
}
