package wall

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// LocalNetworks returns the subnets this machine is directly connected to: the
// networks of its addresses, and what its routes reach without a gateway. It
// reads /proc and asks the kernel for its addresses; no privilege.
//
// The whole world behind a tunnel is not a subnet: networks as wide as a
// tunnel's halves of it (0.0.0.0/1) are left out.
func LocalNetworks() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("reading this machine's addresses: %w", err)
	}
	var out []netip.Prefix
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if ip = ip.Unmap(); ok && (!ip.Is4() || ones <= 32) {
			out = appendLocal(out, netip.PrefixFrom(ip, ones).Masked())
		}
	}
	for path, parse := range map[string]func(io.Reader) ([]netip.Prefix, error){
		"/proc/net/route": routes4, "/proc/net/ipv6_route": routes6,
	} {
		f, err := os.Open(path)
		if os.IsNotExist(err) && path == "/proc/net/ipv6_route" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("reading this machine's routes: %w", err)
		}
		rs, err := parse(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		for _, r := range rs {
			out = appendLocal(out, r)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	return slices.Compact(out), nil
}

// widest are the shortest prefixes that count as a subnet.
const widest4, widest6 = 8, 17

func appendLocal(out []netip.Prefix, p netip.Prefix) []netip.Prefix {
	a := p.Addr()
	switch {
	case !usable(p), a.IsLoopback(), a.Is4() && p.Bits() < widest4, a.Is6() && p.Bits() < widest6:
		return out
	// Always blocked, and one for every card that comes and goes.
	case a.IsLinkLocalUnicast(), a.IsMulticast():
		return out
	}
	return append(out, p)
}

// gatewayFlag is RTF_GATEWAY of both tables (linux/route.h), rejectFlag
// RTF_REJECT.
const gatewayFlag, rejectFlag = 0x2, 0x200

// routes4 reads /proc/net/route: addresses in hexadecimal, least significant
// byte first.
func routes4(r io.Reader) ([]netip.Prefix, error) {
	var out []netip.Prefix
	sc := bufio.NewScanner(r)
	sc.Scan() // header
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 8 {
			continue
		}
		dst, err1 := hex.DecodeString(f[1])
		flags, err2 := strconv.ParseUint(f[3], 16, 32)
		mask, err3 := hex.DecodeString(f[7])
		if err1 != nil || err2 != nil || err3 != nil || len(dst) != 4 || len(mask) != 4 {
			return nil, fmt.Errorf("the line %q is not understood", sc.Text())
		}
		if flags&(gatewayFlag|rejectFlag) != 0 {
			continue
		}
		var a, m [4]byte
		binary.BigEndian.PutUint32(a[:], binary.LittleEndian.Uint32(dst))
		binary.BigEndian.PutUint32(m[:], binary.LittleEndian.Uint32(mask))
		ones, _ := net.IPv4Mask(m[0], m[1], m[2], m[3]).Size()
		out = append(out, netip.PrefixFrom(netip.AddrFrom4(a), ones).Masked())
	}
	return out, sc.Err()
}

// routes6 reads /proc/net/ipv6_route: destination, its length, source, its
// length, next hop, metric, two counters, flags, device.
func routes6(r io.Reader) ([]netip.Prefix, error) {
	var out []netip.Prefix
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 {
			continue
		}
		dst, err1 := hex.DecodeString(f[0])
		ones, err2 := strconv.ParseUint(f[1], 16, 8)
		flags, err3 := strconv.ParseUint(f[8], 16, 32)
		if err1 != nil || err2 != nil || err3 != nil || len(dst) != 16 {
			return nil, fmt.Errorf("the line %q is not understood", sc.Text())
		}
		// A single address is a host's own, or a cached path, not a subnet.
		if flags&(gatewayFlag|rejectFlag) != 0 || ones == 128 {
			continue
		}
		out = append(out, netip.PrefixFrom(netip.AddrFrom16([16]byte(dst)), int(ones)).Masked())
	}
	return out, sc.Err()
}
