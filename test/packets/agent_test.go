package packets

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/wall"
)

// agentEnv is set for an agent: this test binary in its own network namespace, where it performs the
// requests of the test process.
const agentEnv = "AIVM_PACKETS_AGENT"

type request struct {
	ID     int      `json:"id"`
	Op     string   `json:"op"`
	Proto  string   `json:"proto,omitempty"`
	Addr   string   `json:"addr,omitempty"`
	Dev    string   `json:"dev,omitempty"`
	Data   string   `json:"data,omitempty"`
	Tables []string `json:"tables,omitempty"`
	MS     int      `json:"ms,omitempty"`
}

type reply struct {
	ID     int             `json:"id"`
	OK     bool            `json:"ok"`
	Err    string          `json:"err,omitempty"`
	Local  []netip.Prefix  `json:"local,omitempty"`
	Kernel nftread.Content `json:"kernel"`
}

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		serve()
		return
	}
	if os.Geteuid() != 0 {
		os.Exit(asRoot())
	}
	os.Exit(m.Run())
}

// asRoot runs the tests with sudo, since only root can create network namespaces, and returns the
// exit status.
func asRoot() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("sudo", append([]string{"-n", "--", self}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "these tests create network namespaces and need root; run by another user, they use sudo -n: %v\n", err)
		return 1
	}
	return 0
}

// sink records the UDP datagrams that arrived.
var sink = struct {
	sync.Mutex
	got map[string]bool
}{got: map[string]bool{}}

var kept = struct {
	sync.Mutex
	conns map[string]net.Conn
}{conns: map[string]net.Conn{}}

func serve() {
	var out sync.Mutex
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r request
		if json.Unmarshal(in.Bytes(), &r) != nil {
			return
		}
		go func() {
			a := reply{ID: r.ID}
			if err := perform(r, &a); err != nil {
				a.Err = err.Error()
			} else {
				a.OK = true
			}
			b, _ := json.Marshal(a)
			out.Lock()
			defer out.Unlock()
			_, _ = os.Stdout.Write(append(b, '\n'))
		}()
	}
}

func perform(r request, a *reply) (err error) {
	limit := time.Duration(r.MS) * time.Millisecond
	switch r.Op {
	case "listen":
		return listen(r.Proto, r.Addr)
	case "dial":
		return dial(r.Proto, r.Addr, limit)
	case "keep": // open a connection and keep it for "reuse"
		c, err := net.DialTimeout("tcp", r.Addr, limit)
		if err != nil {
			return err
		}
		kept.Lock()
		defer kept.Unlock()
		kept.conns[r.Addr] = c
		return talk(c, limit)
	case "reuse":
		kept.Lock()
		defer kept.Unlock()
		return talk(kept.conns[r.Addr], limit)
	case "echo":
		return echo(r.Proto, r.Addr, limit)
	case "frame":
		b, err := hex.DecodeString(r.Data)
		if err != nil {
			return err
		}
		return send(r.Dev, b)
	case "got":
		for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
			sink.Lock()
			ok := sink.got[r.Data]
			sink.Unlock()
			if ok {
				return nil
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s did not arrive", r.Data)
			}
		}
	case "resolve":
		return resolve(r.Dev, r.Data, r.Addr, limit)
	case "capture":
		return capture(r.Dev)
	case "local":
		a.Local, err = wall.LocalNetworks()
		return err
	case "kernel":
		a.Kernel, err = nftread.Read(r.Tables)
		return err
	}
	return fmt.Errorf("unknown op %q", r.Op)
}

// listen starts a server that echoes all data on TCP, or every datagram on UDP.
func listen(proto, addr string) error {
	if proto == "udp" {
		for _, family := range []string{"udp4", "udp6"} {
			c, err := net.ListenPacket(family, addr)
			if err != nil {
				return err
			}
			if err := answer(c.(*net.UDPConn), family == "udp6"); err != nil {
				return err
			}
		}
		return nil
	}
	l, err := net.Listen(proto, addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	return nil
}

// answer echoes every datagram from the address it was sent to, which a machine with several
// addresses does not do by default (ip(7), IP_PKTINFO).
func answer(c *net.UDPConn, six bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	level, option, index := unix.IPPROTO_IP, unix.IP_PKTINFO, 0
	if six {
		level, option, index = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 16
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), level, option, 1) }); err != nil {
		return err
	}
	if serr != nil {
		return serr
	}
	go func() {
		b, oob := make([]byte, 65536), make([]byte, 256)
		for {
			n, oobn, _, from, err := c.ReadMsgUDP(b, oob)
			if err != nil {
				return
			}
			sink.Lock()
			sink.got[strings.TrimRight(string(b[:n]), "\x00")] = true
			sink.Unlock()
			// Clear the interface index, so that the route decides on the interface.
			if at := unix.SizeofCmsghdr + index; oobn >= at+4 {
				copy(oob[at:], []byte{0, 0, 0, 0})
			}
			_, _, _ = c.WriteMsgUDP(b[:n], oob[:oobn], from)
		}
	}()
	return nil
}

func dial(proto, addr string, limit time.Duration) error {
	c, err := net.DialTimeout(proto, addr, limit)
	if err != nil {
		return err
	}
	defer c.Close()
	return talk(c, limit)
}

// talk sends a line and waits for its echo.
func talk(c net.Conn, limit time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 6))
	return err
}

// echo sends an ICMP request and waits for its reply: a timestamp request if proto is "timestamp",
// else an echo request.
func echo(proto, addr string, limit time.Duration) error {
	ip, err := netip.ParseAddr(strings.Split(addr, "%")[0])
	if err != nil {
		return err
	}
	network, ask, want := "ip4:icmp", byte(8), byte(0)
	if proto == "timestamp" {
		ask, want = 13, 14
	}
	if ip.Is6() {
		network, ask, want = "ip6:ipv6-icmp", 128, 129
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	msg := make([]byte, 20)
	msg[0], msg[4], msg[5] = ask, byte(os.Getpid()>>8), byte(os.Getpid())
	if ip.Is4() {
		s := checksum(msg)
		msg[2], msg[3] = byte(s>>8), byte(s)
	}
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write(msg); err != nil {
		return err
	}
	b := make([]byte, 1500)
	for {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		msg := b[:n]
		if ip.Is4() && n > 20 {
			msg = msg[int(msg[0]&15)*4:] // skip the IP header
		}
		if len(msg) > 0 && msg[0] == want {
			return nil
		}
	}
}

// send sends a raw frame on an interface.
func send(dev string, frame []byte) error {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6})
}

// capture records the marks in all frames that an interface receives.
func capture(dev string) error {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	const all = 0x0300 // ETH_P_ALL in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, all)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		return err
	}
	go func() {
		b := make([]byte, 65536)
		for {
			n, err := unix.Read(fd, b)
			if err != nil {
				return
			}
			if _, after, ok := strings.Cut(string(b[:n]), "seen-"); ok {
				sink.Lock()
				sink.got["seen-"+after[:min(len(after), len("mark-000000"))]] = true
				sink.Unlock()
			}
		}
	}()
	return nil
}

// namespace is a network namespace with an agent in it, as the test process uses it.
type namespace struct {
	t    testing.TB
	name string
	pid  int
	in   io.Writer
	mu   sync.Mutex
	next int
	wait map[int]chan reply
}

func newNamespace(t testing.TB, name string) *namespace {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), agentEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("creating a network namespace: %v", err)
	}
	p := &namespace{t: t, name: name, pid: cmd.Process.Pid, in: in, wait: map[int]chan reply{}}
	t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	go func() {
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			var a reply
			if json.Unmarshal(sc.Bytes(), &a) != nil {
				continue
			}
			p.mu.Lock()
			c := p.wait[a.ID]
			delete(p.wait, a.ID)
			p.mu.Unlock()
			if c != nil {
				c <- a
			}
		}
	}()
	p.run("ip link set lo up")
	p.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
	return p
}

// ask sends a request to the agent and waits for the reply.
func (p *namespace) ask(r request) reply {
	c := make(chan reply, 1)
	p.mu.Lock()
	p.next++
	r.ID = p.next
	p.wait[r.ID] = c
	b, _ := json.Marshal(r)
	_, _ = p.in.Write(append(b, '\n'))
	p.mu.Unlock()
	select {
	case a := <-c:
		return a
	case <-time.After(20 * time.Second):
		return reply{Err: "the agent in " + p.name + " does not answer"}
	}
}

// must is ask for requests that must succeed.
func (p *namespace) must(r request) reply {
	p.t.Helper()
	a := p.ask(r)
	if !a.OK {
		p.t.Fatalf("in %s: %+v: %s", p.name, r, a.Err)
	}
	return a
}

// run runs a shell script in the namespace.
func (p *namespace) run(script string) string {
	p.t.Helper()
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(p.pid), "-n", "sh", "-ec", script).CombinedOutput()
	if err != nil {
		p.t.Fatalf("in %s: %s: %v\n%s", p.name, script, err, out)
	}
	return string(out)
}

// load loads an nft ruleset in the namespace.
func (p *namespace) load(script string) {
	p.t.Helper()
	cmd := exec.Command("nsenter", "-t", fmt.Sprint(p.pid), "-n", "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("in %s: %v\n%s\n%s", p.name, err, out, script)
	}
}

// cable connects two namespaces with a veth pair, whose ends are named an and bn.
func cable(a *namespace, an string, b *namespace, bn string) {
	a.t.Helper()
	a.run(fmt.Sprintf("ip link add %s type veth peer name %s netns %d; ip link set dev %s up", an, bn, b.pid, an))
	b.run("ip link set dev " + bn + " up")
}
