package public

import (
	"net"
	"net/netip"
	"testing"
)

func TestAllowed(t *testing.T) {
	for addr, want := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "151.101.2.132": true, "9.255.255.255": true, "11.0.0.0": true,
		"100.63.255.255": true, "100.128.0.0": true, "172.15.255.255": true, "172.32.0.0": true,
		"192.167.255.255": true, "192.169.0.0": true, "198.17.255.255": true, "198.20.0.0": true, "223.255.255.255": true,
		"203.0.113.7": true, "198.51.100.7": true, "192.0.2.7": true, // documentation: mirrors of test machines
		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "100.64.0.1": false, "100.100.100.200": false,
		"127.0.0.1": false, "127.255.255.255": false, "168.63.129.16": false, "169.254.169.254": false, "169.254.0.1": false,
		"172.16.0.1": false, "172.31.255.255": false, "192.0.0.192": false, "192.88.99.1": false, "192.168.1.1": false,
		"198.18.0.1": false, "198.19.255.255": false, "224.0.0.251": false, "239.255.255.250": false,
		"240.0.0.1": false, "255.255.255.255": false,
		"2606:4700::1": true, "2a00:1450::1": true,
		"::": false, "::1": false, "::ffff:8.8.8.8": false, "::8.8.8.8": false, "64:ff9b::808:808": false, "64:ff9b:1::1": false,
		"2002:808:808::1": false, "2001::1": false, "2001:db8::1": false, "3fff::1": false,
		"fc00::1": false, "fd00:ec2::254": false, "fe80::1": false, "fe80::1%eth0": false, "fec0::1": false, "ff02::1": false,
		"2606:4700::1%eth0": false, "100::1": false, "4000::1": false,
	} {
		if got := Allowed(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Allowed(%s) = %v, want %v", addr, got, want)
		}
	}
	if Allowed(netip.Addr{}) {
		t.Error("the zero address is allowed")
	}
}

func TestConnected(t *testing.T) {
	ipnet := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	m := Connected([]net.Addr{
		ipnet("203.0.113.2/24"), ipnet("8.8.4.4/32"), ipnet("9.9.9.9/0"), ipnet("2606:4700::5/64"),
		&net.IPNet{IP: net.ParseIP("198.51.100.1"), Mask: net.CIDRMask(126, 128)},
		&net.IPNet{IP: net.IP{1}, Mask: nil}, &net.UnixAddr{},
	})
	for addr, want := range map[string]bool{
		"203.0.113.2": true, "203.0.113.200": true, "::ffff:203.0.113.9": true, "203.0.112.255": false,
		"8.8.4.4": true, "8.8.4.5": false, "9.9.9.9": true, "9.9.9.8": false, "1.1.1.1": false,
		"2606:4700::9": true, "2606:4700:0:1::9": false, "198.51.100.3": true, "198.51.100.4": false,
	} {
		if got := m.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Contains(%s) = %v, want %v", addr, got, want)
		}
	}
}

// FuzzAllowed checks that no form of an IPv4 address inside an IPv6 address is allowed.
func FuzzAllowed(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{8, 8, 8, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 4 {
			return
		}
		v4 := [4]byte(b[:4])
		for _, prefix := range [][]byte{
			{10: 0xff, 11: 0xff}, make([]byte, 12), {1: 0x64, 2: 0xff, 3: 0x9b, 11: 0},
		} {
			var a [16]byte
			copy(a[:], prefix)
			copy(a[12:], v4[:])
			if Allowed(netip.AddrFrom16(a)) {
				t.Errorf("%v is allowed", netip.AddrFrom16(a))
			}
		}
		a := [16]byte{0x20, 0x02, v4[0], v4[1], v4[2], v4[3], 15: 1}
		if Allowed(netip.AddrFrom16(a)) {
			t.Errorf("%v is allowed", netip.AddrFrom16(a))
		}
		a4 := netip.AddrFrom4(v4)
		if Allowed(a4) && (a4.IsPrivate() || a4.IsLoopback() || a4.IsLinkLocalUnicast() || a4.IsMulticast() || a4.IsUnspecified()) {
			t.Errorf("%v is allowed", a4)
		}
	})
}
