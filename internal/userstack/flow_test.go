package userstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// server listens on this machine and returns a dial function that leads there, whatever
// the guest connects to.
func server(t *testing.T, handle func(*net.TCPConn)) func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go handle(c.(*net.TCPConn))
		}
	}()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	return func(ctx context.Context, _ netip.AddrPort) (*net.TCPConn, error) { return dialHost(ctx, at) }
}

func TestCopiesBothWays(t *testing.T) {
	data := make([]byte, 20<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	want := sha256.Sum256(data)
	// The server reads everything first, and answers after the guest's half is closed.
	g, _ := inProcess(t, server(t, func(c *net.TCPConn) {
		defer c.Close()
		got, err := io.ReadAll(c)
		if err != nil || sha256.Sum256(got) != want {
			t.Errorf("the server got %d bytes, %v", len(got), err)
		}
		_, _ = c.Write(got)
	}))
	c := g.mustDial("203.0.113.10:80")
	defer c.Close()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || sha256.Sum256(got) != want {
		t.Errorf("the guest got %d bytes, %v", len(got), err)
	}
}

func TestResetsArePassedOn(t *testing.T) {
	broken := make(chan error, 1)
	g, _ := inProcess(t, server(t, func(c *net.TCPConn) {
		var one [1]byte
		_, _ = c.Read(one[:])
		if one[0] == 'r' {
			_ = c.SetLinger(0)
			c.Close()
			return
		}
		_, err := c.Read(one[:])
		broken <- err
		c.Close()
	}))
	c := g.mustDial("203.0.113.10:80")
	_, _ = c.Write([]byte("r"))
	if _, err := io.ReadAll(c); err == nil {
		t.Error("the server's reset arrived as an end")
	}
	c = g.mustDial("203.0.113.10:80")
	_, _ = c.Write([]byte("x"))
	time.Sleep(100 * time.Millisecond)
	c.Close() // both directions: the server sees the end
	select {
	case err := <-broken:
		if err == nil {
			t.Error("the server still reads")
		}
	case <-time.After(5 * time.Second):
		t.Error("the server was not told that the guest closed")
	}
}

func TestRefusalsAreQuick(t *testing.T) {
	g, _ := inProcess(t, func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
		return nil, errors.New("connection refused")
	})
	for _, to := range []string{
		"203.0.113.10:80", // dialed and refused
		"10.0.0.1:80", "169.254.169.254:80", "192.168.1.1:443", "100.64.0.1:80", "192.0.0.1:80", "0.0.0.1:80",
	} {
		start := time.Now()
		if c, err := g.dial(to, 5*time.Second); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v %v", to, c, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: refused after %v", to, took)
		}
	}
	for _, to := range []string{"203.0.113.10:443", "192.0.0.1:123", "10.0.0.1:53"} {
		c := g.udp(to)
		_, _ = c.Write([]byte("x"))
		time.Sleep(200 * time.Millisecond) // gonet waits for data, not for errors
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("UDP to %s: %v", to, err)
		}
		c.Close()
	}
}

// TestForbiddenIsNotDialed checks that the dial function is never called for an address
// that is not public.
func TestForbiddenIsNotDialed(t *testing.T) {
	var dialed atomic.Value
	g, e := inProcess(t, func(_ context.Context, to netip.AddrPort) (*net.TCPConn, error) {
		dialed.Store(to)
		return nil, errors.New("no")
	})
	e.names.rules.addrs = func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IP{203, 0, 113, 2}, Mask: net.CIDRMask(24, 32)}}, nil
	}
	for _, to := range []string{"127.0.0.1:22", "10.1.1.1:22", "172.16.0.1:1", "192.168.0.1:1", "169.254.169.254:80", "203.0.113.2:22", "203.0.113.77:22", "198.18.0.1:1", "100.100.100.200:80"} {
		if _, err := g.dial(to, 2*time.Second); err == nil {
			t.Errorf("connected to %s", to)
		}
	}
	if to := dialed.Load(); to != nil {
		t.Errorf("%v was dialed", to)
	}
}

// flood sends SYNs at 10,000 a second until stopped.
func (g *guest) flood(to func(i int) netip.AddrPort) (stop func() int) {
	quit, sent := make(chan struct{}), 0
	var done sync.WaitGroup
	done.Go(func() {
		start := time.Now()
		for i := 0; ; {
			select {
			case <-quit:
				return
			default:
			}
			due := int(time.Since(start).Seconds() * 10000)
			skipped := max(0, due-i-100) // held up: what was not sent then is not sent now
			start = start.Add(time.Duration(skipped) * 100 * time.Microsecond)
			for due -= skipped; i < due; i++ {
				_ = g.link.send(typeIPv4, syn(netip.AddrPortFrom(GuestAddress.Addr(), uint16(1024+i%30000)), to(i)))
				sent++
			}
			time.Sleep(time.Millisecond)
		}
	})
	return func() int { close(quit); done.Wait(); return sent }
}

// floods are the destinations of a flood of SYNs, by kind.
var floods = map[string]func(i int) netip.AddrPort{
	"forbidden": func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 80)
	},
	"silent": func(int) netip.AddrPort { return netip.MustParseAddrPort("198.51.100.7:80") },
	"many": func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), uint16(i))
	},
	"accepting": func(int) netip.AddrPort { return netip.MustParseAddrPort("203.0.113.10:80") },
	"dns":       func(int) netip.AddrPort { return netip.AddrPortFrom(GatewayAddress, dnsPort) },
}

func TestFloodHoldsUpNoRequest(t *testing.T) {
	for kind, to := range floods {
		t.Run(kind, func(t *testing.T) {
			echo := server(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c); c.Close() })
			var dials, most atomic.Int64
			g, e := inProcess(t, func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
				n := dials.Add(1)
				defer dials.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if to.Addr().As4()[0] == 198 { // silent
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return echo(ctx, to)
			})
			e.names.lookup = func(context.Context, dnsmessage.Name) (found, error) {
				return found{addrs: []netip.Addr{netip.MustParseAddr("203.0.113.20")}}, nil
			}
			if out := e.names.answer(t.Context(), mustQuery("other.example.net.")); len(out) == 0 {
				t.Fatal("no DNS answer")
			}
			sent := g.checkFlood(t, to)
			t.Logf("%d SYNs; at most %d dials at once; %d goroutines", sent, most.Load(), runtime.NumGoroutine())
			if most.Load() > 4*maxPending { // those given up need a moment to end
				t.Errorf("%d dials at once", most.Load())
			}
		})
	}
}

// requests connects, writes a byte and reads it back, and returns the sorted times. One
// that fails counts as never answered; so do those left when 15 seconds are over.
func (g *guest) requests(to string, n int) []time.Duration {
	const never = time.Hour
	took := slices.Repeat([]time.Duration{never}, n)
	begin := time.Now()
	for i := range n {
		if time.Since(begin) > 15*time.Second {
			break
		}
		start := time.Now()
		c, err := g.dial(to, 5*time.Second)
		if err != nil {
			continue
		}
		_, _ = c.Write([]byte("x"))
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
			took[i] = time.Since(start)
		}
		c.Close()
	}
	slices.Sort(took)
	return took
}

// checkFlood makes requests during a flood, and fails the test when more than one in ten
// took more than 250 ms in each of three floods. On a machine that has no CPU left for a
// sleeping goroutine the figures mean nothing, and the test is skipped. It returns how many
// SYNs were sent.
func (g *guest) checkFlood(t *testing.T, to func(i int) netip.AddrPort) (sent int) {
	t.Helper()
	const other, bar = "203.0.113.20:80", 250 * time.Millisecond
	calmest := time.Hour
	for range 3 {
		before := g.requests(other, 5)
		stop, latest := g.flood(to), lateness()
		time.Sleep(300 * time.Millisecond)
		during := g.requests(other, 20)
		sent += stop()
		late := latest()
		calmest = min(calmest, late)
		t.Logf("requests took %v, before %v; a sleep was late by %v", during, before, late)
		if during[len(during)*9/10-1] <= bar {
			return sent
		}
	}
	if calmest > 20*time.Millisecond {
		t.Skipf("requests took more than %v during the flood, and the machine is too busy to judge: sleeps were late by %v", bar, calmest)
	}
	t.Errorf("requests took more than %v during the flood", bar)
	return sent
}

// lateness measures by how much sleeps of a millisecond are late until the returned
// function is called, which returns the longest.
func lateness() func() time.Duration {
	quit, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		var longest time.Duration
		for {
			begin := time.Now()
			time.Sleep(time.Millisecond)
			longest = max(longest, time.Since(begin)-time.Millisecond)
			select {
			case <-quit:
				result <- longest
				return
			default:
			}
		}
	}()
	return func() time.Duration { close(quit); return <-result }
}

func mustQuery(name string) []byte {
	out, err := packQuery(7, dnsmessage.MustNewName(name))
	if err != nil {
		panic(err)
	}
	return out
}

func TestDNSAtTheGateway(t *testing.T) {
	g, e := inProcess(t, nil)
	e.names.lookup = func(_ context.Context, name dnsmessage.Name) (found, error) {
		return found{addrs: []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("10.0.0.1")}, ttl: 60}, nil
	}
	query := mustQuery("www.example.net.")
	c := g.udp("192.0.0.1:53")
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = c.Write(query)
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	stream := g.mustDial("192.0.0.1:53")
	defer stream.Close()
	_, _ = stream.Write(append([]byte{0, byte(len(query))}, query...))
	_ = stream.SetDeadline(time.Now().Add(5 * time.Second))
	var size [2]byte
	if _, err := io.ReadFull(stream, size[:]); err != nil {
		t.Fatal(err)
	}
	byTCP := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(stream, byTCP); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(byTCP, buf[:n]) {
		t.Error("another answer by TCP than by UDP")
	}
	got, err := parseAnswer(buf[:n], 7, dnsmessage.MustNewName("www.example.net."))
	if err != nil || len(got.addrs) != 1 || got.addrs[0] != netip.MustParseAddr("203.0.113.10") || got.ttl != 60 {
		t.Errorf("%+v, %v", got, err)
	}
}
