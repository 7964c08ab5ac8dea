package templates

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/qemu"
	"aivm.dev/aivm/internal/template"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/userstack"
)

// The times that setup waits for a VM.
const (
	bootLimit  = 4 * time.Minute // without hardware acceleration, on a busy machine
	offLimit   = time.Minute
	trialLimit = time.Minute
)

// machine is a VM of the real backend.
type machine struct {
	running *template.Running
	session *guestd.Session
	console *capture.Tail
	link    *os.File // this process's end of the network card, until Connect
	stack   *userstack.Stack
	debug   io.Writer
}

// Start boots the draft.
func (d *draft) Start(ctx context.Context, network bool, console io.Writer) (Machine, error) {
	m := &machine{console: &capture.Tail{Limit: 16 << 10}, debug: console}
	o := template.Options{}
	log, err := m.readConsole()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	o.Log = log
	setup := guestd.Setup{Hostname: "aivm"}
	if network {
		far, link, err := qemu.FilePair("net")
		if err != nil {
			return nil, err
		}
		m.link = link
		o.NIC = &qemu.NIC{Socket: far, MAC: userstack.GuestMAC, MTU: userstack.MTU}
		setup.Network = &guestd.Network{Address: userstack.GuestAddress, Gateway: userstack.GatewayAddress, DNS: []netip.Addr{userstack.GatewayAddress}, MTU: userstack.MTU}
	}
	if m.running, err = d.Draft.Start(ctx, o); err != nil {
		m.Close()
		return nil, ui.Failed("%w", err)
	}
	if m.session, err = m.await(ctx); err == nil {
		err = m.session.Setup(ctx, setup)
	}
	if err != nil {
		m.Close()
		return nil, m.failed(err)
	}
	return m, nil
}

// await waits until the guest answers.
func (m *machine) await(ctx context.Context) (*guestd.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	return m.running.Connect(ctx)
}

// readConsole returns the file that the VM's console is written to; what arrives is kept, and printed
// with --debug.
func (m *machine) readConsole() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	var to io.Writer = m.console
	if m.debug != nil {
		to = io.MultiWriter(m.console, m.debug)
	}
	go func() {
		defer r.Close()
		_, _ = io.Copy(to, r)
	}()
	return w, nil
}

// failed adds the last lines of the console to an error.
func (m *machine) failed(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := ui.Failed("the VM of setup: %w", err)
	if last := capture.LastLines(m.console.String(), 4, " | "); last != "" {
		e = ui.Failed("the VM of setup: %w; its console: %s", err, ui.CleanTo(last, 600))
	}
	return e
}

// Connect starts the network's process.
func (m *machine) Connect(ctx context.Context, addresses []string) error {
	if m.link == nil {
		return errors.New("the VM has no network card")
	}
	link := m.link
	m.link = nil // it is Start's now
	s, err := userstack.Start(ctx, userstack.Config{Link: link, Allow: resolve(ctx, addresses, net.DefaultResolver.LookupNetIP), Log: m.debug})
	if err != nil {
		return ui.Failed("the network of setup: %w", err)
	}
	m.stack = s
	return nil
}

// resolve returns the addresses of HOST:PORT, at most 64: a VM of setup may reach them although they
// may be private. Loopback and link-local addresses are left out.
func resolve(ctx context.Context, hosts []string, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out []netip.AddrPort
	for _, h := range hosts {
		host, portText, err := net.SplitHostPort(h)
		if err != nil {
			continue
		}
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil {
			continue
		}
		addrs, err := lookup(ctx, "ip4", host)
		if err != nil {
			continue // the guest gets the error, and apt reports it
		}
		for _, a := range addrs {
			a = a.Unmap()
			to := netip.AddrPortFrom(a, uint16(port))
			if !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsUnspecified() && !slices.Contains(out, to) && len(out) < 64 {
				out = append(out, to)
			}
		}
	}
	return out
}

// Run runs a script as root.
func (m *machine) Run(ctx context.Context, s GuestScript, out io.Writer) error {
	for path, content := range s.Files {
		if err := m.write(ctx, path, content); err != nil {
			return err
		}
	}
	argv := []string{"/bin/sh", "-c", s.Text}
	if s.Program {
		// Its own name, since what is installed may replace anything that setup would rely on.
		path := "/root/.aivm-setup/" + s.Name + "-" + strings.ToLower(rand.Text()[:8])
		if err := m.write(ctx, path, []byte(s.Text)); err != nil {
			return err
		}
		argv = []string{path}
		if !strings.HasPrefix(s.Text, "#!") {
			argv = []string{"/bin/bash", path}
		}
	}
	return m.start(ctx, guestd.Command{Argv: argv, Env: s.Env, Stdout: out, Stderr: out})
}

// write writes a file that only root can read, and everybody else cannot, with execute permission.
func (m *machine) write(ctx context.Context, path string, content []byte) error {
	return m.start(ctx, guestd.Command{
		Argv: []string{"/bin/sh", "-c", `umask 077; mkdir -p "${1%/*}"; cat > "$1"; chmod 700 "$1"`, "sh", path}, Stdin: bytes.NewReader(content),
	})
}

func (m *machine) start(ctx context.Context, c guestd.Command) error {
	var mu sync.Mutex
	locked := func(w io.Writer) io.Writer {
		if w == nil {
			return nil
		}
		return writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return w.Write(p)
		})
	}
	c.Stdout, c.Stderr = locked(c.Stdout), locked(c.Stderr)
	c.Root, c.Dir = true, "/"
	c.Env = append([]string{"HOME=/root", "USER=root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, c.Env...)
	p, err := m.session.Start(ctx, c)
	if err != nil {
		return m.failed(err)
	}
	stop := context.AfterFunc(ctx, func() { m.running.VM.Kill() })
	defer stop()
	exit, err := p.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return m.failed(err)
	case exit.Signal != 0:
		return &ExitError{fmt.Sprintf("ended by signal %d", int(exit.Signal))}
	case exit.Code != 0:
		return &ExitError{fmt.Sprintf("exit status %d", exit.Code)}
	}
	return nil
}

type writerFunc func([]byte) (int, error)

// Write calls f.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// PowerOff shuts the VM down and waits for its end.
func (m *machine) PowerOff(ctx context.Context) error {
	if err := m.session.PowerOff(ctx); err != nil {
		return m.failed(err)
	}
	select {
	case <-m.running.VM.Done():
		m.Close()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(offLimit):
		return ui.Failed("the VM of setup did not shut down within %v", offLimit)
	}
}

// Close ends the VM and its network.
func (m *machine) Close() {
	if m.session != nil {
		_ = m.session.Close()
	}
	if m.running != nil {
		m.running.Close()
	}
	if m.stack != nil {
		_ = m.stack.Close()
	}
	if m.link != nil {
		_ = m.link.Close()
		m.link = nil
	}
}

// tryVM is the trial of a saved VM: it sets itself up and runs a program.
func tryVM(ctx context.Context, s *guestd.Session) error {
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	if err := s.Setup(ctx, guestd.Setup{Hostname: "aivm"}); err != nil {
		return err
	}
	p, err := s.Start(ctx, guestd.Command{Argv: []string{"/bin/true"}, Root: true, Dir: "/"})
	if err != nil {
		return err
	}
	exit, err := p.Wait()
	if err == nil && (exit.Code != 0 || exit.Signal != 0) {
		err = fmt.Errorf("/bin/true: exit status %d", exit.Status())
	}
	return err
}
