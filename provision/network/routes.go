package network

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/wall"
)

// Route is one IPv4 route of the host.
type Route struct {
	Interface string
	Dst       netip.Prefix
}

// ObserveRoutes reads the IPv4 routes of the main table, the subnets that other routing tables lead
// to, and the names of the interfaces. It needs no process and no privilege.
func ObserveRoutes() (plan.Known[[]Route], []string) {
	var names []string
	byIndex := map[int]string{}
	if ifs, err := net.Interfaces(); err == nil {
		for _, i := range ifs {
			names = append(names, i.Name)
			byIndex[i.Index] = i.Name
		}
	}
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return plan.Unknown[[]Route](err), names
	}
	defer f.Close()
	rs, err := ParseRoutes(f)
	if err != nil {
		return plan.Unknown[[]Route](err), names
	}
	all, err := wall.Routes()
	for _, r := range all {
		// A VPN's table with a default route, or two halves of one, uses no subnet.
		if r.Table != wall.MainTable && r.Dst.Addr().Is4() && r.Dst.Bits() >= 8 {
			rs = append(rs, Route{Interface: byIndex[r.Link], Dst: r.Dst})
		}
	}
	return plan.Known[[]Route]{Value: rs, Err: err}, names
}

// ParseRoutes parses /proc/net/route: addresses in hexadecimal, least significant byte first
// (net/ipv4/fib_trie.c, fib_route_seq_show).
func ParseRoutes(r io.Reader) ([]Route, error) {
	var out []Route
	sc := bufio.NewScanner(r)
	sc.Scan() // header
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 8 {
			continue
		}
		dst, err1 := leAddr(f[1])
		mask, err2 := leAddr(f[7])
		if err1 != nil || err2 != nil {
			return out, fmt.Errorf("cannot parse route %q", sc.Text())
		}
		m := mask.As4()
		ones, _ := net.IPv4Mask(m[0], m[1], m[2], m[3]).Size()
		out = append(out, Route{Interface: f[0], Dst: netip.PrefixFrom(dst, ones)})
	}
	return out, sc.Err()
}

func leAddr(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 {
		return netip.Addr{}, fmt.Errorf("%q is not an address", s)
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.LittleEndian.Uint32(b))
	return netip.AddrFrom4(a), nil
}
