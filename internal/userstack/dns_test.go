package userstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func testNames(lookup func(context.Context, dnsmessage.Name) (found, error), log io.Writer) *nameServer {
	rules := newRules(nil, func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IP{127, 0, 0, 1}, Mask: net.CIDRMask(8, 32)}}, nil
	})
	return &nameServer{rules: rules, admission: newAdmission(nil), lookup: lookup, log: newJournal(log), busy: make(chan struct{}, 1)}
}

func TestAnswer(t *testing.T) {
	public, private := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("192.168.1.1")
	many := make([]netip.Addr, 100)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
	}
	long := strings.Repeat(strings.Repeat("a", 62)+".", 4)
	for _, c := range []struct {
		name    string
		kind    dnsmessage.Type
		result  found
		err     error
		asked   bool
		rcode   dnsmessage.RCode
		answers int
	}{
		{"www.example.net.", dnsmessage.TypeA, found{addrs: []netip.Addr{public}}, nil, true, dnsmessage.RCodeSuccess, 1},
		{"WWW.Example.NET.", dnsmessage.TypeA, found{addrs: []netip.Addr{public}}, nil, true, dnsmessage.RCodeSuccess, 1},
		{"_tcp.x-1.example.net.", dnsmessage.TypeA, found{addrs: []netip.Addr{public}}, nil, true, dnsmessage.RCodeSuccess, 1},
		{long, dnsmessage.TypeA, found{addrs: many}, nil, true, dnsmessage.RCodeSuccess, maxAnswers},
		{"lan.example.net.", dnsmessage.TypeA, found{addrs: []netip.Addr{private, public}}, nil, true, dnsmessage.RCodeSuccess, 1},
		{"lan.example.net.", dnsmessage.TypeA, found{addrs: []netip.Addr{private}}, nil, true, dnsmessage.RCodeSuccess, 0},
		{"none.example.net.", dnsmessage.TypeA, found{rcode: dnsmessage.RCodeNameError}, nil, true, dnsmessage.RCodeNameError, 0},
		{"bad.example.net.", dnsmessage.TypeA, found{}, errors.New("timeout"), true, dnsmessage.RCodeServerFailure, 0},
		{"www.example.net.", dnsmessage.TypeAAAA, found{}, nil, false, dnsmessage.RCodeSuccess, 0},
		{"www.example.net.", dnsmessage.Type(65), found{}, nil, false, dnsmessage.RCodeSuccess, 0},
		{"1.1.168.192.in-addr.arpa.", dnsmessage.TypePTR, found{}, nil, false, dnsmessage.RCodeSuccess, 0},
		{"thishost.", dnsmessage.TypeA, found{}, nil, false, dnsmessage.RCodeNameError, 0},
		{"localhost.", dnsmessage.TypeA, found{}, nil, false, dnsmessage.RCodeNameError, 0},
		{"a.localhost.", dnsmessage.TypeA, found{}, nil, false, dnsmessage.RCodeNameError, 0},
		{"printer.LOCAL.", dnsmessage.TypeA, found{}, nil, false, dnsmessage.RCodeNameError, 0},
		{"a\x1b[2J.example.net.", dnsmessage.TypeA, found{}, nil, false, dnsmessage.RCodeNameError, 0},
		{"a\n.example.net.", dnsmessage.TypeA, found{}, nil, false, dnsmessage.RCodeNameError, 0},
		{".", dnsmessage.TypeA, found{}, nil, false, dnsmessage.RCodeNameError, 0},
	} {
		t.Run(fmt.Sprintf("%q %v", c.name, c.kind), func(t *testing.T) {
			asked := false
			s := testNames(func(context.Context, dnsmessage.Name) (found, error) { asked = true; return c.result, c.err }, t.Output())
			m := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: 77, RecursionDesired: true},
				Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(c.name), Type: c.kind, Class: dnsmessage.ClassINET}},
			}
			query, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			out := s.answer(t.Context(), query)
			var got dnsmessage.Message
			if err := got.Unpack(out); err != nil {
				t.Fatal(err)
			}
			if got.ID != 77 || !got.Response || got.RCode != c.rcode || len(got.Answers) != c.answers || asked != c.asked || len(out) > 512 {
				t.Errorf("asked %v, %d bytes: %v", asked, len(out), got.GoString())
			}
			for _, a := range got.Answers {
				if s.admission.known[netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A)] == nil {
					t.Error("an answered address has no rate of its own")
				}
			}
		})
	}
	s := testNames(nil, t.Output())
	for name, edit := range map[string]func([]byte) []byte{
		"a response":    func(q []byte) []byte { q[2] |= 0x80; return q },
		"half a header": func(q []byte) []byte { return q[:7] },
	} {
		if out := s.answer(t.Context(), edit(mustQuery("www.example.net."))); out != nil {
			t.Errorf("%s was answered", name)
		}
	}
	for name, c := range map[string]struct {
		at    int
		value byte
		rcode dnsmessage.RCode
	}{
		"two questions": {5, 2, dnsmessage.RCodeFormatError},
		"no question":   {5, 0, dnsmessage.RCodeFormatError},
		"an update":     {2, 5 << 3, dnsmessage.RCodeNotImplemented},
	} {
		q := mustQuery("www.example.net.")
		q[c.at] = c.value
		var got dnsmessage.Message
		if err := got.Unpack(s.answer(t.Context(), q)); err != nil || got.RCode != c.rcode {
			t.Errorf("%s: %v, %v", name, got.RCode, err)
		}
	}
}

// zone answers as a DNS server: "A 1.2.3.4" or "CNAME x.", by name; names that are
// missing do not exist. Answers by UDP to names in cut are cut off.
type zone struct {
	records map[string][]string
	cut     map[string]bool
}

func (z zone) answer(query []byte, network string) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Additionals = true, nil
	name := m.Questions[0].Name.String()
	if z.records[name] == nil {
		m.RCode = dnsmessage.RCodeNameError
	}
	for range 8 {
		next := ""
		for _, r := range z.records[name] {
			kind, value, _ := strings.Cut(r, " ")
			h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: 30}
			switch kind {
			case "A":
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: netip.MustParseAddr(value).As4()}})
			case "CNAME":
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(value)}})
				next = value
			}
		}
		name = next
	}
	if network == "udp" && z.cut[m.Questions[0].Name.String()] {
		m.Truncated, m.Answers = true, nil
	}
	out, _ := m.Pack()
	return out
}

// serve answers on UDP and TCP at the address until the test ends, and returns it.
func (z zone) serve(t *testing.T, at string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte("not an answer"), from)
			_, _ = p.WriteTo(z.answer(buf[:n], "udp"), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			_, _ = io.ReadFull(c, size[:])
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			_, _ = io.ReadFull(c, query)
			out := z.answer(query, "tcp")
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestLookup(t *testing.T) {
	z := zone{
		records: map[string][]string{
			"www.example.net.":  {"A 203.0.113.1", "A 203.0.113.2"},
			"big.example.net.":  {"A 203.0.113.3"},
			"cdn.example.net.":  {"CNAME a.example.org."},
			"a.example.org.":    {"CNAME www.example.net."},
			"loop.example.net.": {"CNAME loop.example.net."},
		},
		cut: map[string]bool{"big.example.net.": true},
	}
	good := z.serve(t, "127.0.0.1:0")
	closed := netip.MustParseAddrPort("127.0.0.1:9")
	var r resolver
	r.servers.Store(&[]netip.AddrPort{closed, good})
	for name, want := range map[string]string{
		"www.example.net.": "[203.0.113.1 203.0.113.2] RCodeSuccess", "WWW.example.net.": "[] RCodeNameError",
		"big.example.net.": "[203.0.113.3] RCodeSuccess", "cdn.example.net.": "[203.0.113.1 203.0.113.2] RCodeSuccess",
		"loop.example.net.": "[] RCodeSuccess", "none.example.net.": "[] RCodeNameError",
	} {
		got, err := r.lookup(t.Context(), dnsmessage.MustNewName(name))
		if s := fmt.Sprint(got.addrs, " ", got.rcode); err != nil || s != want {
			t.Errorf("%s: %s, %v; want %s", name, s, err, want)
		}
	}
	r.servers.Store(&[]netip.AddrPort{closed})
	if _, err := r.lookup(t.Context(), dnsmessage.MustNewName("www.example.net.")); err == nil {
		t.Error("no error without a server")
	}
}

func TestParseResolvConf(t *testing.T) {
	for text, want := range map[string]string{
		"": "[127.0.0.1:53]",
		"# x\nsearch lan\nnameserver 127.0.0.53\noptions edns0\n":                           "[127.0.0.53:53]",
		"nameserver\t10.0.0.1 # y\nnameserver fe80::1%eth0\nnameserver bad\nnameserver ::1": "[10.0.0.1:53 [fe80::1%eth0]:53 [::1]:53]",
		"nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4":    "[1.1.1.1:53 1.1.1.2:53 1.1.1.3:53]",
	} {
		if got := fmt.Sprint(parseResolvConf(text)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// FuzzQuestion gives the name server any datagram: it answers one that parses, with the
// same ID and at most 512 bytes, and no private address.
func FuzzQuestion(f *testing.F) {
	f.Add(mustQuery("www.example.net."), []byte{1, 2, 3, 4, 10, 0, 0, 1})
	s := testNames(nil, io.Discard)
	f.Fuzz(func(t *testing.T, query, addrs []byte) {
		s.lookup = func(context.Context, dnsmessage.Name) (found, error) {
			var got found
			for a := range slices.Chunk(addrs, 4) {
				if len(a) == 4 {
					got.addrs = append(got.addrs, netip.AddrFrom4([4]byte(a)))
				}
			}
			return got, nil
		}
		s.admission = newAdmission(nil)
		out := s.answer(t.Context(), query)
		if out == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || len(out) > 512 || !m.Response || m.ID != binary.BigEndian.Uint16(query) {
			t.Fatalf("%d bytes, %v: %v", len(out), err, m.GoString())
		}
		for _, r := range m.Answers {
			if a := netip.AddrFrom4(r.Body.(*dnsmessage.AResource).A); !s.rules.answer(a) {
				t.Fatalf("told %v", a)
			}
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	z := zone{records: map[string][]string{"www.example.net.": {"CNAME a.example.net."}, "a.example.net.": {"A 203.0.113.1"}}}
	f.Add(z.answer(mustQuery("www.example.net."), "tcp"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := parseAnswer(msg, 7, dnsmessage.MustNewName("www.example.net."))
		if err == nil && (len(got.addrs) > maxRecords || got.ttl > longestTTL) {
			t.Fatalf("%+v", got)
		}
	})
}
