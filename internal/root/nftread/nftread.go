// Package nftread reads the content of nftables tables from the kernel by netlink,
// without the nft program: this saves root a process, and compares what the kernel has,
// not how a version of nft prints it.
//
// It owns the requests, and decides which parts of the replies count as content: flags,
// hooks, policies, expressions and set elements, but not handles, counters or the order
// of a hash (linux/netfilter/nf_tables.h). It changes nothing. It needs CAP_NET_ADMIN.
package nftread

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Content is the digest of some tables, and, of all tables, the flow tables and chains
// that can interfere with them.
type Content struct {
	Digest     string      `json:"digest"` // "" when one of the tables does not exist
	Flowtables []Flowtable `json:"flowtables,omitempty"`
	Chains     []Chain     `json:"chains,omitempty"` // of all tables, those with a hook
}

// A Flowtable forwards the packets of known connections past every filter.
type Flowtable struct {
	Table   string   `json:"table"`
	Name    string   `json:"name"`
	Devices []string `json:"devices,omitempty"`
}

// A Chain is a base chain: one with a hook, through which packets enter a table.
type Chain struct {
	Family   string `json:"family"`
	Table    string `json:"table"`
	Name     string `json:"name"`
	Type     string `json:"type"` // "filter", "nat", "route"
	Hook     int    `json:"hook"` // of the family: linux/netfilter.h
	Priority int    `json:"priority"`
	Drops    bool   `json:"drops,omitempty"`  // its policy
	Device   string `json:"device,omitempty"` // of family netdev
}

// families maps nft's names of families to their numbers.
var families = map[string]byte{"inet": unix.NFPROTO_INET, "bridge": unix.NFPROTO_BRIDGE, "arp": unix.NFPROTO_ARP}

// errChanged is returned when another program changed tables during the read.
var errChanged = errors.New("the tables were changed while they were read")

// Read digests the tables, each named "FAMILY NAME", and lists all flow tables and base
// chains.
func Read(tables []string) (Content, error) {
	var c Content
	var err error
	for range 20 {
		if c, err = read(tables); !errors.Is(err, errChanged) {
			return c, err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return c, err
}

func read(tables []string) (Content, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return Content{}, fmt.Errorf("opening a netlink socket to read firewall rules: %w", err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}) // the kernel replies at once
	var c Content
	if c.Flowtables, err = flowtables(fd); err != nil {
		return c, err
	}
	if c.Chains, err = chains(fd); err != nil {
		return c, err
	}
	h := sha256.New()
	for _, t := range tables {
		family, name, _ := strings.Cut(t, " ")
		content, err := table(fd, families[family], name)
		if errors.Is(err, unix.ENOENT) {
			return c, nil
		}
		if err != nil {
			return c, fmt.Errorf("reading table %s: %w", t, err)
		}
		_, _ = h.Write(content) // never fails
	}
	c.Digest = hex.EncodeToString(h.Sum(nil))
	return c, nil
}

// table returns all content of one table, in a fixed order.
func table(fd int, family byte, name string) ([]byte, error) {
	var out bytes.Buffer
	named := attr(1, cstring(name)) // NFTA_TABLE_NAME, and *_TABLE of the others
	t, err := request(fd, unix.NFT_MSG_GETTABLE, family, 0, named)
	if err != nil {
		return nil, err
	}
	for _, m := range t {
		appendAttrs(&out, m, unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_FLAGS)
	}
	for _, q := range []struct {
		msg   uint16
		kinds []uint16
	}{
		{unix.NFT_MSG_GETCHAIN, []uint16{unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE}},
		{unix.NFT_MSG_GETRULE, []uint16{unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_EXPRESSIONS}},
		{unix.NFT_MSG_GETSET, []uint16{unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN}},
	} {
		ms, err := request(fd, q.msg, family, unix.NLM_F_DUMP, named)
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			// Kernels that do not filter by table send the objects of all tables.
			if !bytes.Equal(m[1], cstring(name)) {
				continue
			}
			appendAttrs(&out, m, q.kinds...)
			if q.msg == unix.NFT_MSG_GETSET {
				if err := elements(fd, &out, family, named, m[unix.NFTA_SET_NAME]); err != nil {
					return nil, err
				}
			}
		}
	}
	return out.Bytes(), nil
}

func elements(fd int, out *bytes.Buffer, family byte, named, set []byte) error {
	ms, err := request(fd, unix.NFT_MSG_GETSETELEM, family, unix.NLM_F_DUMP, append(slices.Clone(named), attr(unix.NFTA_SET_ELEM_LIST_SET, set)...))
	if err != nil {
		return err
	}
	var all [][]byte
	for _, m := range ms {
		for _, e := range list(m[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			var b bytes.Buffer
			appendAttrs(&b, attrs(e), unix.NFTA_SET_ELEM_KEY, unix.NFTA_SET_ELEM_DATA, unix.NFTA_SET_ELEM_FLAGS, keyEnd)
			all = append(all, b.Bytes())
		}
	}
	slices.SortFunc(all, bytes.Compare)
	for _, e := range all {
		appendAttrs(out, map[uint16][]byte{1: e}, 1)
	}
	return nil
}

// keyEnd is NFTA_SET_ELEM_KEY_END, the end of a range of concatenations.
const keyEnd = 10

// familyNames maps the numbers of all families to nft's names.
var familyNames = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge",
}

// chains lists the base chains of all tables.
func chains(fd int) ([]Chain, error) {
	ms, err := request(fd, unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, unix.NLM_F_DUMP, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the firewall's chains: %w", err)
	}
	var out []Chain
	for _, m := range ms {
		if c := asChain(m); c != nil {
			out = append(out, *c)
		}
	}
	return out, nil
}

// asChain converts the attributes of a base chain; it returns nil for a chain without a
// hook.
func asChain(m map[uint16][]byte) *Chain {
	h := attrs(m[unix.NFTA_CHAIN_HOOK])
	num, prio, policy := h[unix.NFTA_HOOK_HOOKNUM], h[unix.NFTA_HOOK_PRIORITY], m[unix.NFTA_CHAIN_POLICY]
	if len(num) != 4 || len(prio) != 4 {
		return nil
	}
	return &Chain{
		Family: familyNames[m[familyKey][0]], Table: text(m[unix.NFTA_CHAIN_TABLE]), Name: text(m[unix.NFTA_CHAIN_NAME]), Type: text(m[unix.NFTA_CHAIN_TYPE]),
		Hook: int(binary.BigEndian.Uint32(num)), Priority: int(int32(binary.BigEndian.Uint32(prio))),
		Drops: len(policy) == 4 && binary.BigEndian.Uint32(policy) == 0, Device: text(h[unix.NFTA_HOOK_DEV]),
	}
}

// familyKey is the key under which request stores the family of a reply: no attribute
// has this kind.
const familyKey = 0xffff

// NFTA_FLOWTABLE_TABLE, _NAME and _HOOK, and NFTA_FLOWTABLE_HOOK_DEVS inside the last.
const (
	flowTable   = 1
	flowName    = 2
	flowHook    = 3
	hookDevices = 3
)

func flowtables(fd int) ([]Flowtable, error) {
	ms, err := request(fd, unix.NFT_MSG_GETFLOWTABLE, unix.NFPROTO_UNSPEC, unix.NLM_F_DUMP, nil)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without flow tables
	}
	if err != nil {
		return nil, fmt.Errorf("reading flow tables: %w", err)
	}
	var out []Flowtable
	for _, m := range ms {
		f := Flowtable{Table: text(m[flowTable]), Name: text(m[flowName])}
		for _, d := range list(attrs(m[flowHook])[hookDevices]) {
			f.Devices = append(f.Devices, text(d))
		}
		out = append(out, f)
	}
	return out, nil
}

// subsystem is NFNL_SUBSYS_NFTABLES, the upper byte of a message's type.
const subsystem = 10

// request sends one request and returns the attributes of every reply.
func request(fd int, msg uint16, family byte, flags uint16, payload []byte) ([]map[uint16][]byte, error) {
	req := make([]byte, 20, 20+len(payload))
	binary.NativeEndian.PutUint32(req, uint32(20+len(payload)))
	binary.NativeEndian.PutUint16(req[4:], subsystem<<8|msg)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|flags)
	req[16] = family
	if err := unix.Sendto(fd, append(req, payload...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var out []map[uint16][]byte
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		replies, done, err := parseReplies(buf[:n], flags&unix.NLM_F_DUMP != 0)
		if err != nil {
			return nil, err
		}
		if out = append(out, replies...); done {
			return out, nil
		}
	}
}

// parseReplies parses one packet from the kernel; done says that it is the last one for
// this request.
func parseReplies(packet []byte, dump bool) (out []map[uint16][]byte, done bool, err error) {
	ms, err := syscall.ParseNetlinkMessage(packet)
	if err != nil {
		return nil, false, err
	}
	for _, m := range ms {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return out, true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return nil, false, errors.New("a netlink error without a number")
			}
			if no := int32(binary.NativeEndian.Uint32(m.Data)); no != 0 {
				if syscall.Errno(-no) == unix.EINTR || syscall.Errno(-no) == unix.EAGAIN {
					return nil, false, errChanged
				}
				return nil, false, syscall.Errno(-no)
			}
			return out, true, nil
		}
		if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			// The rest of this dump would be read as the reply to the next request.
			return nil, false, errChanged
		}
		if len(m.Data) < 4 {
			return nil, false, errors.New("a netlink reply without a header")
		}
		as := attrs(slices.Clone(m.Data[4:]))
		as[familyKey] = []byte{m.Data[0]}
		out = append(out, as)
		if !dump {
			return out, true, nil
		}
	}
	return out, false, nil
}

// appendAttrs appends those attributes of m that are of these kinds, with kind and
// length.
func appendAttrs(b *bytes.Buffer, m map[uint16][]byte, kinds ...uint16) {
	for _, k := range kinds {
		if v, ok := m[k]; ok {
			_, _ = fmt.Fprintf(b, "%d:%d:", k, len(v))
			_, _ = b.Write(v)
		}
	}
	_ = b.WriteByte('\n')
}

// kindMask removes NLA_F_NESTED and NLA_F_NET_BYTEORDER from an attribute's type.
const kindMask = 0x3fff

// attrs parses attributes into a map by kind; of several of one kind the last counts.
func attrs(b []byte) map[uint16][]byte {
	out := map[uint16][]byte{}
	eachAttr(b, func(kind uint16, v []byte) { out[kind] = v })
	return out
}

// list parses a list of attributes of one kind.
func list(b []byte) [][]byte {
	var out [][]byte
	eachAttr(b, func(_ uint16, v []byte) { out = append(out, v) })
	return out
}

func eachAttr(b []byte, f func(kind uint16, v []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&kindMask, b[4:n])
		b = b[min(len(b), (n+3)&^3):]
	}
}

func attr(kind uint16, v []byte) []byte {
	b := make([]byte, (4+len(v)+3)&^3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(v)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	copy(b[4:], v)
	return b
}

func cstring(s string) []byte { return append([]byte(s), 0) }

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
