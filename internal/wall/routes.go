package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Route is one route of this machine, in whichever of its routing tables.
type Route struct {
	Dst     netip.Prefix
	Table   uint32
	Link    int  // index of the interface it leaves by, 0 if it names none
	Gateway bool // it leads to a router
}

// MainTable is the routing table that is used where no rule names another.
const MainTable = unix.RT_TABLE_MAIN

// Routes asks the kernel for the unicast routes of all routing tables, IPv4
// and IPv6; no privilege.
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

// dumpRoutes reads one family's routes; again, if they changed meanwhile.
func dumpRoutes(family int) ([]Route, error) {
	for range 20 {
		b, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, family)
		if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP) {
			return nil, nil // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		if rs, whole, err := parseRoutes(b, byte(family)); err != nil || whole {
			return rs, err
		}
	}
	return nil, errors.New("they change all the time")
}

// parseRoutes reads RTM_NEWROUTE messages (rtnetlink(7)); whole is false if the
// kernel says that the routes changed while it listed them.
func parseRoutes(b []byte, family byte) (out []Route, whole bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, false, err
	}
	for _, m := range msgs {
		if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			return nil, false, nil
		}
		// A kernel without the family answers for all others.
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
			return nil, false, fmt.Errorf("a route to %s/%d", addr, m.Data[1])
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

// nextHops reads the ways of a route that has several: struct rtnexthop, each
// with attributes behind it.
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

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// way is one interface in one routing table.
type way struct {
	table uint32
	link  int
}

// manyRoutes by one way, through a router, are a list of parts of the
// internet, such as a country's, and no networks of somebody's.
const manyRoutes = 512

// narrow are the prefixes that count as networks of somebody's where the same
// way leads to the internet, too: tunnels that leave some networks out have
// routes for all the rest, in pieces of every size.
const narrow4, narrow6 = 16, 48

// reached returns the networks the routes lead to that are this machine's own
// business. In the main table, those are reached without a router or by a
// tunnel; in others, which VPNs and rules of a person's make, all of them. The
// internet is none: neither a default route nor what stands for one.
func reached(rs []Route, tunnel func(link int) bool) []netip.Prefix {
	world, routed := map[way]bool{}, map[way]int{}
	for _, r := range rs {
		w := way{r.Table, r.Link}
		if wide(r.Dst) {
			world[w] = true
		}
		if r.Gateway {
			routed[w]++
		}
	}
	var out []netip.Prefix
	for _, r := range rs {
		w, own := way{r.Table, r.Link}, r.Table != MainTable || tunnel(r.Link)
		switch {
		case r.Gateway && (!own || routed[w] > manyRoutes):
			continue
		case own && world[w] && r.Dst.Bits() < map[bool]int{true: narrow4, false: narrow6}[r.Dst.Addr().Is4()]:
			continue
		// A single address is a host's own, or a cached path, not a subnet.
		case r.Dst.Addr().Is6() && r.Dst.IsSingleIP():
			continue
		}
		out = appendLocal(out, r.Dst)
	}
	return out
}
