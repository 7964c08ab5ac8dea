package record

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/internal/guest"
)

// guestVM simulates a guest: its mounts, its first boot, and its user's home, a directory on the real
// host in which the user's commands are executed. Commands of its root are only noted and count as
// successful.
type guestVM struct {
	w          *world
	name, mac  string
	mu         sync.Mutex
	mounts     []gmount
	device     bool   // the virtiofs device of the export directory is mounted
	list       string // the list of folders in the guest
	boot       string // the answer to the probe "boot", about cloud-init
	clock      string // the answer to the probe "clock"
	noAnswer   bool   // logins fail: no route to host
	badKey     bool   // the guest has another host key
	rootFails  string // a root script that contains this text exits 9
	rootPrints string // and prints this
}

type gmount struct {
	token, dir string
	own        bool
}

const bootDone = "installed\nfinished\nstatus {\"v1\": {\"datasource\": \"DataSourceNoCloud [seed=/dev/vdb]\", \"stage\": null, \"init\": {\"errors\": [], \"start\": 1.0, \"finished\": 2.0}, \"modules-final\": {\"errors\": [], \"start\": 3.0, \"finished\": 4.0}}}\nresult {\"v1\": {\"datasource\": \"DataSourceNoCloud\", \"errors\": []}}\nend\n"

func (w *world) guest(name string) *guestVM {
	g := w.guests[name]
	if g == nil {
		g = &guestVM{w: w, name: name, boot: bootDone}
		w.guests[name] = g
	}
	return g
}

// dialGuest simulates the SSH login to the running VM that has the address.
func (w *world) dialGuest(ctx context.Context, t guest.Target) (guest.Conn, error) {
	ap, err := netip.ParseAddrPort(t.Addr)
	if err != nil || t.HostKey == nil || t.User == "" {
		return nil, fmt.Errorf("login to %q as %q: %w", t.Addr, t.User, err)
	}
	w.virt.mu.Lock()
	name, mac := w.reservedFor(ap.Addr().String())
	up := w.virt.runningWith(mac) != nil
	w.virt.mu.Unlock()
	g := w.guest(name)
	g.mac = mac
	switch {
	case !up || g.noAnswer:
		return nil, &guest.UnreachableError{Addr: t.Addr, Phase: guest.PhaseNoAnswer, Err: errors.New("connect: no route to host")}
	case g.badKey:
		return nil, &guest.HostKeyError{Addr: t.Addr, Want: t.HostKey}
	}
	w.note(sectionGuest, fmt.Sprintf("login to %s as %s", t.Addr, t.User))
	return &conn{g: g}, nil
}

// reservedFor returns the VM with a reservation or lease of an address.
func (w *world) reservedFor(ip string) (name, mac string) {
	for _, n := range w.virt.networks {
		for _, i := range n.x.IPs {
			if i.DHCP == nil {
				continue
			}
			for _, h := range i.DHCP.Hosts {
				if h.IP == ip {
					return h.Name, h.MAC
				}
			}
		}
		for _, l := range n.leases {
			if l.Ipaddr == ip {
				return l.Hostname[0], l.Mac[0]
			}
		}
	}
	return "", ""
}

// runningWith returns the running domain with this MAC address, or nil.
func (l *libvirtd) runningWith(mac string) *domain {
	for _, d := range l.domains {
		if d.state == libvirt.DomainRunning && d.live.Devices.Interfaces[0].MAC.Address == mac {
			return d
		}
	}
	return nil
}

type conn struct{ g *guestVM }

func (c *conn) Close() error { return nil }

func (c *conn) Dial(_ context.Context, addr string) (net.Conn, error) {
	c.g.w.note(sectionGuest, "dial "+addr)
	return nil, errors.New("connection refused")
}

func (c *conn) Probe(ctx context.Context, ps []guest.Probe) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, p := range ps {
		var answer []byte
		switch p.Name {
		case "clock":
			answer = []byte(c.g.clock)
		case "boot":
			answer = []byte(c.g.boot)
		case "share":
			answer = []byte(c.g.folders(p.Script))
		default:
			var b bytes.Buffer
			code, err := c.g.runAsUser(ctx, []string{"sh", "-c", p.Script}, bytes.NewReader(p.Stdin), &b, io.Discard)
			if err != nil || code != 0 {
				return nil, fmt.Errorf("probe %q: status %d, %w", p.Name, code, err)
			}
			answer = []byte(strings.ReplaceAll(b.String(), guestHome, "/home/agent"))
		}
		out[p.Name] = answer
		text := ""
		if p.Name != "clock" && p.Name != "boot" {
			text = "answer:\n" + indent(visible(answer))
		}
		script := "\n" + indent(p.Script)
		if c.g.w.alreadyShown(p.Name + script) {
			script = " (as before)\n"
		}
		c.g.w.note(sectionGuest, "probe "+p.Name+script+text)
	}
	return out, nil
}

var setLine = regexp.MustCompile(`(?m)^set -- (.*)$`)

// folders returns the answer to the probe "share", about mounts and directories.
func (g *guestVM) folders(script string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var mounts, dirs, pass strings.Builder
	asked := []string{}
	if m := setLine.FindStringSubmatch(script); m != nil {
		asked = strings.Fields(m[1])
	}
	if g.device {
		mounts.WriteString("40 27 0:31 / /run/aivm/share rw - virtiofs aivm-root rw\n")
	}
	inodes := map[string]uint64{}
	there := map[string]bool{"/home": true, "/home/agent": true, "/tmp": true}
	for _, m := range g.mounts {
		if m.own {
			fmt.Fprintf(&mounts, "42 27 0:32 / %s rw - virtiofs %s rw\n", m.dir, m.token)
		} else {
			fmt.Fprintf(&mounts, "41 27 0:31 /%s %s rw - virtiofs aivm-root rw\n", m.token, m.dir)
		}
		for _, b := range g.w.binds {
			if b.Token == m.token {
				inodes[m.dir] = b.Ino
			}
		}
		for d := m.dir; d != "/"; d = path.Dir(d) {
			there[d] = true
		}
	}
	for _, d := range asked {
		if !there[d] {
			continue
		}
		owner, ino := 0, uint64(1)
		if n, ok := inodes[d]; ok {
			owner, ino = 1000, n
		}
		fmt.Fprintf(&dirs, "41ed %d %d %d %s\n", ino, owner, owner, d)
		pass.WriteString(d + "\n")
	}
	list := g.list
	if list != "" {
		list += "\n"
	}
	return "aivm-share 2\n" + mounts.String() + "aivm-share dirs\n" + dirs.String() + "aivm-share pass\n" + pass.String() + "aivm-share same\naivm-share list\n" + list + "aivm-share end\n"
}

func (c *conn) Run(ctx context.Context, cmd guest.Cmd) (int, error) {
	w := c.g.w
	if cmd.Argv[0] == "sudo" {
		script := ""
		if cmd.Stdin != nil {
			b, err := io.ReadAll(cmd.Stdin)
			if err != nil {
				return 0, err
			}
			script = string(b)
		}
		w.note(sectionGuest, "run "+quoteAll(cmd.Argv)+stdinText([]byte(script)))
		return c.g.runAsRoot(script, cmd)
	}
	if cmd.Argv[0] == "sync" {
		w.note(sectionGuest, "run sync")
		return 0, nil
	}
	var in bytes.Buffer
	stdin, input := cmd.Stdin, "\n"
	if _, stream := stdin.(*io.PipeReader); stream {
		of := "git"
		if cmd.Argv[0] == "perl" {
			of = "settings"
		}
		input = "\nstdin: a stream of " + of + "\n"
	} else if stdin != nil {
		stdin = io.TeeReader(stdin, &in)
	}
	stdout, stderr := cmd.Stdout, cmd.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	section := sectionGuest
	if cmd.Argv[0] == "perl" {
		// The receiver of settings starts while the guest is probed, so its position among the probes
		// differs from run to run.
		section = sectionConcurrent
	}
	at := w.reserveNote(section)
	code, err := c.g.runAsUser(ctx, cmd.Argv, stdin, stdout, stderr)
	end := ""
	if _, stream := cmd.Stdin.(*io.PipeReader); !stream && (code != 0 || err != nil) {
		end = fmt.Sprintf("status %d", code)
	}
	if in.Len() > 0 {
		input = stdinText(in.Bytes())
	}
	w.fillNote(section, at, "run "+quoteAll(cmd.Argv)+input+end)
	return code, err
}

// runAsRoot executes nothing. It changes the simulated guest as the known commands in the script would.
func (g *guestVM) runAsRoot(script string, cmd guest.Cmd) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rootFails != "" && strings.Contains(script, g.rootFails) {
		if cmd.Stdout != nil {
			fmt.Fprint(cmd.Stdout, g.rootPrints)
		}
		return 9, nil
	}
	if strings.Contains(script, cloudinit.CleanedLine) {
		fmt.Fprintln(cmd.Stdout, cloudinit.CleanedLine)
		g.w.virt.mu.Lock()
		g.w.virt.stop(g.w.virt.runningWith(g.mac))
		g.w.virt.mu.Unlock()
	}
	for line := range strings.Lines(script) {
		f := strings.Fields(strings.TrimSpace(line))
		if i := slices.Index(f, "folder"); i >= 0 && len(f) == i+6 && strings.HasPrefix(f[i+2], "/") {
			g.mount(gmount{f[i+1], f[i+2], !strings.Contains(f[i+5], "/run/aivm/share")})
		}
		switch {
		case len(f) == 5 && f[0] == "release" && strings.HasPrefix(f[2], "/"):
			g.mounts = slices.DeleteFunc(g.mounts, func(m gmount) bool { return m.token == f[1] })
		case len(f) == 1 && f[0] == "device":
			g.device = true
		case len(f) == 7 && strings.HasPrefix(line, "\tumount -l -- "):
			g.mounts = slices.DeleteFunc(g.mounts, func(m gmount) bool { return m.dir == f[3] })
		}
		if rest, ok := strings.CutPrefix(line, "l_new='# aivm "); ok {
			g.list = "# aivm " + strings.Trim(strings.TrimSpace(rest), "'")
		}
		if strings.HasPrefix(line, "off=/etc/cloud/cloud-init.disabled") {
			g.boot = "installed\ndisabled\nfinished\nend\n"
		}
	}
	return 0, nil
}

func (g *guestVM) mount(m gmount) {
	g.mounts = slices.DeleteFunc(g.mounts, func(o gmount) bool { return o.token == m.token })
	g.mounts = append(g.mounts, m)
}

// reboot clears the guest's mounts, as a reboot does.
func (g *guestVM) reboot() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mounts, g.device = nil, false
}

// runAsUser executes a command of the guest's user in guestHome.
func (g *guestVM) runAsUser(ctx context.Context, argv []string, in io.Reader, out, errw io.Writer) (int, error) {
	argv = slices.Clone(argv)
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], "/home/agent", guestHome)
	}
	program, err := lookReal(argv[0])
	if err != nil {
		_, _ = fmt.Fprintf(errw, "%s: not found\n", argv[0])
		return 127, nil
	}
	c := exec.CommandContext(ctx, program, argv[1:]...)
	c.Dir = guestHome
	c.Env = []string{
		"HOME=" + guestHome, "PATH=" + realPath, "LC_ALL=C.UTF-8", "TZ=UTC", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Guest", "GIT_AUTHOR_EMAIL=guest@example.org", "GIT_AUTHOR_DATE=2027-03-01T12:00:00Z",
		"GIT_COMMITTER_NAME=Guest", "GIT_COMMITTER_EMAIL=guest@example.org", "GIT_COMMITTER_DATE=2027-03-01T12:00:00Z",
	}
	c.Stdout, c.Stderr = out, errw
	var to io.WriteCloser
	fed := make(chan struct{})
	if in != nil {
		if to, err = c.StdinPipe(); err != nil {
			return 0, err
		}
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	if in != nil {
		go func() {
			defer close(fed)
			_, _ = io.Copy(to, in)
			_ = to.Close()
		}()
	}
	err = c.Wait()
	if _, stream := in.(*io.PipeReader); in != nil && !stream {
		<-fed // not for a stream, which may stay open after the program has ended
	}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		return ee.ExitCode(), nil
	}
	return 0, err
}

func (c *conn) PutTar(_ context.Context, dir string, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	text := "put an archive below " + dir + "\n" + indent(tarText(b))
	c.g.w.note(sectionGuest, text)
	at := dir
	if !filepath.IsAbs(at) {
		at = filepath.Join(guestHome, at)
	}
	at = strings.ReplaceAll(at, "/home/agent", guestHome)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	program, err := lookReal("tar")
	if err != nil {
		return err
	}
	x := exec.Command(program, "-x", "-C", at)
	x.Env, x.Stdin = []string{"PATH=" + realPath}, bytes.NewReader(b)
	return x.Run()
}

// tarText lists an archive: names, modes and contents.
func tarText(b []byte) string {
	var out strings.Builder
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintf(&out, "(%v)\n", err)
			}
			return out.String()
		}
		fmt.Fprintf(&out, "%s %04o %c", h.Name, h.Mode, h.Typeflag)
		if h.Linkname != "" {
			out.WriteString(" -> " + h.Linkname)
		}
		out.WriteString("\n")
		data, _ := io.ReadAll(tr)
		if len(data) > 0 {
			out.WriteString(indent(blob(data)))
		}
	}
}
