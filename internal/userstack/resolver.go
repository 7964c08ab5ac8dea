package userstack

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxResolvers  = 3 // as in libc
	resolverTries = 2
	resolverWait  = 2 * time.Second
	maxRecords    = 128 // read of one answer
	maxAliases    = 16
	resolverUDP   = 1232 // the answer size offered
)

// resolver asks the DNS servers of this machine.
type resolver struct {
	servers atomic.Pointer[[]netip.AddrPort]
}

// parseResolvConf returns the servers in the text of a resolv.conf, this machine's own
// when it names none, as libc does.
func parseResolvConf(text string) []netip.AddrPort {
	var servers []netip.AddrPort
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() && len(servers) < maxResolvers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, dnsPort))
		}
	}
	if len(servers) == 0 {
		servers = append(servers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort))
	}
	return servers
}

// lookup asks for the IPv4 addresses of a name, one server after the other.
func (r *resolver) lookup(ctx context.Context, name dnsmessage.Name) (found, error) {
	failed := errors.New("no DNS server")
	for range resolverTries {
		for _, server := range *r.servers.Load() {
			if err := ctx.Err(); err != nil {
				return found{}, err
			}
			got, err := ask(ctx, "udp", server, name)
			if err == errTruncated {
				got, err = ask(ctx, "tcp", server, name)
			}
			switch {
			case err != nil:
				failed = fmt.Errorf("asking %s: %w", server, err)
			case got.rcode == dnsmessage.RCodeSuccess || got.rcode == dnsmessage.RCodeNameError:
				return got, nil
			default:
				failed = fmt.Errorf("%s says %s", server, strings.TrimPrefix(got.rcode.String(), "RCode"))
			}
		}
	}
	return found{}, failed
}

var errTruncated = errors.New("the answer is cut off")

// ask asks one server one question.
func ask(ctx context.Context, network string, server netip.AddrPort, name dnsmessage.Name) (found, error) {
	ctx, cancel := context.WithTimeout(ctx, resolverWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return found{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	id := uint16(rand.Uint32()) // ChaCha8, seeded by the kernel
	query, err := packQuery(id, name)
	if err != nil {
		return found{}, err
	}
	if network == "tcp" {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return found{}, err
	}
	buf := make([]byte, 65535)
	for {
		n, err := readAnswer(network, conn, buf)
		if err != nil {
			return found{}, err
		}
		got, err := parseAnswer(buf[:n], id, name)
		if err == errOther && network == "udp" {
			continue // a late or forged datagram
		}
		return got, err
	}
}

func readAnswer(network string, conn net.Conn, buf []byte) (int, error) {
	if network == "udp" {
		return conn.Read(buf)
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, buf[:binary.BigEndian.Uint16(size[:])])
}

// packQuery returns the question for the IPv4 addresses of name.
func packQuery(id uint16, name dnsmessage.Name) ([]byte, error) {
	var opt dnsmessage.ResourceHeader
	if err := opt.SetEDNS0(resolverUDP, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions:   []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{{Header: opt, Body: &dnsmessage.OPTResource{}}},
	}
	return m.Pack()
}

var errOther = errors.New("an answer to another question")

// parseAnswer reads a server's answer: the addresses at the end of the name's aliases.
func parseAnswer(msg []byte, id uint16, name dnsmessage.Name) (found, error) {
	var p dnsmessage.Parser
	head, err := p.Start(msg)
	if err != nil || head.ID != id || !head.Response {
		return found{}, errOther
	}
	q, err := p.Question()
	if err != nil || q.Type != dnsmessage.TypeA || q.Class != dnsmessage.ClassINET || !strings.EqualFold(q.Name.String(), name.String()) {
		return found{}, errOther
	}
	if head.Truncated {
		return found{}, errTruncated
	}
	if err := p.SkipAllQuestions(); err != nil {
		return found{}, err
	}
	aliases := map[string]string{}
	addrs := map[string][]netip.Addr{}
	got := found{rcode: head.RCode, ttl: longestTTL}
	for range maxRecords {
		h, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			return found{}, err
		}
		owner := strings.ToLower(h.Name.String())
		switch {
		case h.Class == dnsmessage.ClassINET && h.Type == dnsmessage.TypeA:
			r, err := p.AResource()
			if err != nil {
				return found{}, err
			}
			addrs[owner] = append(addrs[owner], netip.AddrFrom4(r.A))
		case h.Class == dnsmessage.ClassINET && h.Type == dnsmessage.TypeCNAME:
			r, err := p.CNAMEResource()
			if err != nil {
				return found{}, err
			}
			aliases[owner] = strings.ToLower(r.CNAME.String())
		default:
			if err := p.SkipAnswer(); err != nil {
				return found{}, err
			}
			continue
		}
		got.ttl = min(got.ttl, h.TTL)
	}
	owner := strings.ToLower(name.String())
	for range maxAliases {
		got.addrs = append(got.addrs, addrs[owner]...)
		target, ok := aliases[owner]
		if !ok || len(got.addrs) > 0 {
			break
		}
		owner = target
	}
	return got, nil
}
