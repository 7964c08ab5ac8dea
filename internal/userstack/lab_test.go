package userstack

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// labVariable is set in the environment of a test process that has a network namespace
// of its own: as root, the tests run again in one, so that nothing they do leaves it.
const labVariable = "AIVM_TEST_NETWORK_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Args[0] == Name {
		os.Exit(Main(os.Args[1:]))
	}
	if os.Getuid() != 0 || os.Getenv(labVariable) != "" {
		runtime.LockOSThread() // the main thread's namespace is what /proc and "ip" read
		if os.Getenv(labVariable) != "" {
			_ = exec.Command("ip", "link", "set", "lo", "up").Run()
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), labVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

// namespace is a network namespace.
type namespace struct{ fd int }

// newNamespace makes a network namespace that lives as long as the test.
func newNamespace(t *testing.T) namespace {
	t.Helper()
	made := make(chan namespace)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, the namespace stays
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- namespace{-1}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			fd = -1
		}
		made <- namespace{fd}
	}()
	ns := <-made
	if ns.fd < 0 {
		t.Fatal("no network namespace")
	}
	t.Cleanup(func() { unix.Close(ns.fd) })
	return ns
}

// do runs f in the namespace; sockets it opens stay there.
func (ns namespace) do(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		f()
	}()
	<-done
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", args, err, out)
	}
}

// Addresses of the lab: this machine, with a LAN and a metadata service, and behind its
// router an origin with public and private addresses. 198.51.100.0/24 answers nothing.
var (
	labPublic    = "203.0.113.10"
	labForbidden = []string{"127.0.0.1", "127.8.8.8", "192.168.77.2", "169.254.169.254", "192.168.77.1", "10.1.2.3", "172.16.5.5", "198.18.0.5", "100.64.0.9"}
)

// newLab builds the namespaces and returns the origin's.
func newLab(t *testing.T) namespace {
	t.Helper()
	if os.Getenv(labVariable) == "" {
		t.Skip("needs root, for network namespaces")
	}
	origin := newNamespace(t)
	origin.do(func() {
		ip(t, fmt.Sprintf("link add o0 type veth peer name h0 netns %d", os.Getpid()))
		ip(t, "link set lo up")
		ip(t, "addr add 192.168.77.1/24 dev o0")
		ip(t, "link set o0 up")
		for _, a := range []string{labPublic, "203.0.113.20", "10.1.2.3", "172.16.5.5", "198.18.0.5", "100.64.0.9"} {
			ip(t, "addr add "+a+"/32 dev lo")
		}
		ip(t, "route add blackhole 198.51.100.0/24")
	})
	ip(t, "addr add 192.168.77.2/24 dev h0")
	ip(t, "link set h0 up")
	ip(t, "route add default via 192.168.77.1")
	ip(t, "addr add 169.254.169.254/32 dev lo")
	t.Cleanup(func() {
		ip(t, "link del h0")
		ip(t, "addr del 169.254.169.254/32 dev lo")
	})
	if t.Failed() {
		t.FailNow()
	}
	return origin
}

// listen accepts in the namespace and hands the connections to handle.
func (ns namespace) listen(t *testing.T, at string, handle func(net.Conn)) {
	t.Helper()
	var l net.Listener
	var err error
	ns.do(func() { l, err = net.Listen("tcp4", at) })
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
			go handle(c)
		}
	}()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c); c.Close() }

// start starts the network process and returns its guest.
func start(t *testing.T, resolvers ...netip.AddrPort) (*guest, *Stack) {
	t.Helper()
	link, conn := socketPair(t)
	s, err := Start(t.Context(), Config{Link: link, Log: t.Output(), Resolvers: append([]netip.AddrPort{}, resolvers...)})
	if err != nil {
		conn.Close()
		t.Fatal(err)
	}
	g := newGuest(t, conn)
	t.Cleanup(func() { s.Close() })
	return g, s
}

// here is the namespace of the test process.
func here(t *testing.T) namespace {
	t.Helper()
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return namespace{fd}
}

// TestNothingPrivateIsReached listens on this machine's loopback, LAN and metadata
// addresses, and on private ones beyond: nothing arrives, and the guest is refused at
// once. A public address answers, by name too.
func TestNothingPrivateIsReached(t *testing.T) {
	origin := newLab(t)
	machine := here(t)
	var arrived atomic.Value
	for _, a := range labForbidden {
		ns := machine
		if strings.HasPrefix(a, "10.") || strings.HasPrefix(a, "172.") || strings.HasPrefix(a, "198.18.") || strings.HasPrefix(a, "100.") || a == "192.168.77.1" {
			ns = origin
		}
		ns.listen(t, a+":80", func(c net.Conn) { arrived.Store("TCP at " + a); c.Close() })
		var p net.PacketConn
		var err error
		ns.do(func() { p, err = net.ListenPacket("udp4", a+":53") })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			if n, _, err := p.ReadFrom(make([]byte, 100)); err == nil {
				arrived.Store(fmt.Sprintf("%d bytes of UDP at %s", n, a))
			}
		}()
	}
	origin.listen(t, labPublic+":80", echo)
	dns := zone{records: map[string][]string{
		"www.example.net.": {"A " + labPublic}, "lan.example.net.": {"A 192.168.77.2"}, "metadata.example.net.": {"A 169.254.169.254"},
		"rebind.example.net.": {"A 127.0.0.1", "A " + labPublic},
	}}.serve(t, "127.0.0.53:53")

	g, s := start(t, dns)
	t.Logf("Landlock version %d", s.Landlock())
	for _, a := range append(labForbidden, "0.0.0.0", "0.0.0.1", "255.255.255.255", "224.0.0.1", "192.0.0.1") {
		begin := time.Now()
		// What is not unicast gets no answer at all; loopback addresses never leave a guest
		// that is not hostile.
		silent := strings.HasPrefix(a, "127.") || a == "0.0.0.0" || a == "255.255.255.255" || a == "224.0.0.1"
		wait := 5 * time.Second
		if silent {
			wait = 200 * time.Millisecond
		}
		if _, err := g.dial(a+":80", wait); err == nil || !silent && !strings.Contains(err.Error(), "refused") {
			t.Errorf("TCP to %s: %v", a, err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("TCP to %s: refused after %v", a, took)
		}
		if !silent && a != "192.0.0.1" {
			c := g.udp(a + ":53")
			_, _ = c.Write(mustQuery("www.example.net."))
			_ = c.SetDeadline(time.Now().Add(time.Second))
			if n, err := c.Read(make([]byte, 512)); err == nil {
				t.Errorf("%d bytes of UDP from %s", n, a)
			}
			c.Close()
		}
	}
	for name, want := range map[string]string{
		"www.example.net": labPublic, "lan.example.net": "", "metadata.example.net": "", "rebind.example.net": labPublic,
	} {
		resolver := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return g.udp("192.0.0.1:53"), nil }}
		addrs, _ := resolver.LookupHost(t.Context(), name+".")
		if got := strings.Join(addrs, " "); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	c := g.mustDial(labPublic + ":80")
	defer c.Close()
	_, _ = c.Write([]byte("hello"))
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	if what := arrived.Load(); what != nil {
		t.Error(what)
	}
}

// TestAddressesOfLater checks that an address this machine gets while the network runs
// is refused a second later.
func TestAddressesOfLater(t *testing.T) {
	origin := newLab(t)
	origin.listen(t, labPublic+":80", echo)
	g, _ := start(t)
	g.mustDial(labPublic + ":80").Close()
	ip(t, "addr add 203.0.113.77/24 dev h0")
	time.Sleep(machineTTL + 100*time.Millisecond)
	for _, a := range []string{"203.0.113.77:80", labPublic + ":80"} {
		if _, err := g.dial(a, 2*time.Second); err == nil {
			t.Errorf("connected to %s", a)
		}
	}
}

// TestFloodsThroughTheProcess floods the real process, with sockets of this machine.
func TestFloodsThroughTheProcess(t *testing.T) {
	for kind, to := range floods {
		t.Run(kind, func(t *testing.T) {
			origin := newLab(t)
			origin.listen(t, labPublic+":80", echo)
			origin.listen(t, "203.0.113.20:80", echo)
			g, s := start(t)
			g.mustDial("203.0.113.20:80").Close()
			cpu, _ := s.usage(t)
			began := time.Now()
			sent := g.checkFlood(t, to)
			after, rss := s.usage(t)
			t.Logf("%d SYNs in %v; CPU %.2f s, peak RSS %.0f MB", sent, time.Since(began), after-cpu, rss)
			if rss > 64 {
				t.Errorf("peak RSS %.0f MB", rss)
			}
		})
	}
}

// TestProcessEnds checks that the process ends with QEMU's end of the link, with the
// parent's control, and that it says why it could not start.
func TestProcessEnds(t *testing.T) {
	link, conn := socketPair(t)
	s, err := Start(t.Context(), Config{Link: link, Resolvers: []netip.AddrPort{}})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it runs on without QEMU")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	link, conn = socketPair(t)
	defer conn.Close()
	if s, err = Start(t.Context(), Config{Link: link, Resolvers: []netip.AddrPort{}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	link, conn = socketPair(t)
	defer conn.Close()
	if s, err = Start(t.Context(), Config{Link: link, Resolvers: []netip.AddrPort{}}); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte{0xff, 0xff, 0xff, 0xff})
	<-s.Done()
	if err := s.Close(); err == nil {
		t.Error("a frame of 4 GiB is no failure")
	}

	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Link: file}); err == nil || !strings.Contains(err.Error(), "socket to QEMU") {
		t.Errorf("with a link that is no socket: %v", err)
	}
}
