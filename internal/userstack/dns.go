package userstack

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of DNS. With maxAnswers addresses a message stays below the 512 bytes that fit
// in any UDP answer, whatever the name's length.
const (
	maxQuestions   = 64 // answered at once; more are dropped
	maxAnswers     = 12
	maxStreams     = 16 // connections for DNS over TCP
	maxOnStream    = 100
	largestQuery   = 4096
	streamIdle     = 10 * time.Second
	questionWithin = 10 * time.Second
	longestTTL     = 3600
)

// found is what a resolver says about the IPv4 addresses of a name.
type found struct {
	addrs []netip.Addr
	ttl   uint32
	rcode dnsmessage.RCode
}

// nameServer answers the guest's questions at the gateway.
type nameServer struct {
	rules     *rules
	admission *admission
	lookup    func(ctx context.Context, name dnsmessage.Name) (found, error)
	log       *journal
	busy      chan struct{} // one element for each question being answered
	streams   atomic.Int32
}

// answer returns the answer to a query, nil where there is none to give.
func (s *nameServer) answer(ctx context.Context, query []byte) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{
		ID: head.ID, Response: true, OpCode: head.OpCode, RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
	}}
	question, err := p.Question()
	if err == nil {
		if _, more := p.Question(); more != dnsmessage.ErrSectionDone {
			err = io.ErrUnexpectedEOF
		}
	}
	switch {
	case head.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
	case err != nil:
		reply.RCode = dnsmessage.RCodeFormatError
	default:
		reply.Questions = []dnsmessage.Question{question}
		s.resolve(ctx, &reply, question)
	}
	out, err := reply.Pack()
	if err != nil {
		return nil
	}
	return out
}

// resolve fills in the answer to one question. IPv4 addresses are looked up; other types
// (IPv6 addresses, HTTPS) have no records.
func (s *nameServer) resolve(ctx context.Context, reply *dnsmessage.Message, q dnsmessage.Question) {
	switch {
	case q.Class != dnsmessage.ClassINET:
		reply.RCode = dnsmessage.RCodeRefused
		return
	case !askable(q.Name.String()):
		reply.RCode = dnsmessage.RCodeNameError
		return
	case q.Type != dnsmessage.TypeA:
		return
	}
	got, err := s.lookup(ctx, q.Name)
	if err != nil {
		s.log.printf("no answer for %q: %v", q.Name.String(), err)
		reply.RCode = dnsmessage.RCodeServerFailure
		return
	}
	reply.RCode = got.rcode
	for _, a := range got.addrs {
		if !s.rules.answer(a) {
			s.log.printf("%q has the address %s, which is not public: not given to the guest", q.Name.String(), a)
			continue
		}
		if len(reply.Answers) == maxAnswers {
			break
		}
		s.admission.learn(a)
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: min(got.ttl, longestTTL)},
			Body:   &dnsmessage.AResource{A: a.As4()},
		})
	}
}

// askable reports whether the resolvers of this machine may be asked for a name (which
// ends in a dot): two labels or more of letters, digits, hyphens and underscores, and
// not in a domain that means this machine or its LAN.
func askable(name string) bool {
	name, rooted := strings.CutSuffix(strings.ToLower(name), ".")
	labels := strings.Split(name, ".")
	if !rooted || len(labels) < 2 {
		return false
	}
	for _, label := range labels {
		if label == "" {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	return last != "localhost" && last != "local"
}

// packets answers the questions that come in by UDP, until conn is closed.
func (s *nameServer) packets(conn net.PacketConn) {
	buf := make([]byte, largestQuery)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		query := append([]byte(nil), buf[:n]...)
		select {
		case s.busy <- struct{}{}:
		default:
			continue
		}
		go func() {
			defer func() { <-s.busy }()
			ctx, cancel := context.WithTimeout(context.Background(), questionWithin)
			defer cancel()
			if out := s.answer(ctx, query); out != nil {
				_, _ = conn.WriteTo(out, from)
			}
		}()
	}
}

// stream answers the questions of one TCP connection and closes it.
func (s *nameServer) stream(conn net.Conn) {
	defer conn.Close()
	if s.streams.Add(1) > maxStreams {
		s.streams.Add(-1)
		return
	}
	defer s.streams.Add(-1)
	for range maxOnStream {
		_ = conn.SetDeadline(time.Now().Add(streamIdle))
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint16(size[:])
		if n > largestQuery {
			return
		}
		query := make([]byte, n)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), questionWithin)
		out := s.answer(ctx, query)
		cancel()
		if out == nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(streamIdle))
		if _, err := conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(out)))); err != nil {
			return
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}
