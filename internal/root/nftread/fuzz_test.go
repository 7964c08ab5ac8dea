package nftread

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func message(kind, flags uint16, data []byte) []byte {
	b := make([]byte, 16, 16+len(data)+3)
	binary.NativeEndian.PutUint32(b, uint32(16+len(data)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Parsing a netlink packet ends whatever it contains, and attributes that are encoded
// again decode to the same value.
func FuzzParseReplies(f *testing.F) {
	chain := append([]byte{unix.NFPROTO_INET, 0, 0, 0}, bytes.Join([][]byte{
		attr(unix.NFTA_CHAIN_TABLE, cstring("aivm_x")), attr(unix.NFTA_CHAIN_NAME, cstring("input")),
		attr(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, slices.Concat(attr(unix.NFTA_HOOK_HOOKNUM, []byte{0, 0, 0, 1}), attr(unix.NFTA_HOOK_PRIORITY, []byte{0xff, 0xff, 0xff, 0xf6}))),
		attr(unix.NFTA_CHAIN_POLICY, []byte{0, 0, 0, 0}), attr(unix.NFTA_CHAIN_TYPE, cstring("filter")),
	}, nil)...)
	f.Add(slices.Concat(message(subsystem<<8|unix.NFT_MSG_NEWCHAIN, unix.NLM_F_MULTI, chain), message(unix.NLMSG_DONE, unix.NLM_F_MULTI, []byte{0, 0, 0, 0})), true)
	f.Add(message(unix.NLMSG_ERROR, 0, []byte{0xfe, 0xff, 0xff, 0xff}), false)
	f.Add(message(subsystem<<8|unix.NFT_MSG_NEWRULE, unix.NLM_F_DUMP_INTR, chain), true)
	f.Fuzz(func(t *testing.T, packet []byte, dump bool) {
		out, done, err := parseReplies(packet, dump)
		if err != nil && (out != nil || done) {
			t.Error("an error and a reply")
		}
		if !dump && len(out) > 1 {
			t.Errorf("%d replies to one request", len(out))
		}
		total := 0
		for _, m := range out {
			if len(m[familyKey]) != 1 {
				t.Error("a reply without its family")
			}
			_ = asChain(m)
			var content bytes.Buffer
			appendAttrs(&content, m, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_TYPE)
			for kind, v := range m {
				total += len(v)
				_ = list(v)
				if kind == familyKey || kind > kindMask || len(v) > 1<<15 {
					continue
				}
				if back := attrs(attr(kind, v)); !bytes.Equal(back[kind], v) {
					t.Errorf("attribute %d %q became %q", kind, v, back[kind])
				}
			}
		}
		if total > len(packet) {
			t.Errorf("%d bytes out of %d", total, len(packet))
		}
	})
}

// The digest ignores attributes that are not content, and differs for different content:
// kinds and lengths of attributes are part of it.
func TestAppendAttrsIsUnambiguous(t *testing.T) {
	dig := func(m map[uint16][]byte) string {
		var b bytes.Buffer
		appendAttrs(&b, m, 1, 2)
		return b.String()
	}
	if dig(map[uint16][]byte{1: []byte("ab"), 2: []byte("c")}) == dig(map[uint16][]byte{1: []byte("a"), 2: []byte("bc")}) {
		t.Error("the boundary between two attributes is lost")
	}
	if dig(map[uint16][]byte{1: {}}) == dig(map[uint16][]byte{2: {}}) || dig(map[uint16][]byte{}) == dig(map[uint16][]byte{1: {}}) {
		t.Error("an empty attribute equals a missing one")
	}
	if dig(map[uint16][]byte{1: {7}, 9: {1}}) != dig(map[uint16][]byte{1: {7}, 9: {2}}) {
		t.Error("a counter changes the digest")
	}
}
