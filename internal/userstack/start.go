package userstack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/userstack/confine"
)

const (
	// Name is argv[0] of the network process: a program that finds it there calls Main.
	Name = "aivm-network"

	resolvConf      = "/etc/resolv.conf"
	resolvConfEvery = 5 * time.Second
	startWithin     = 10 * time.Second
	stopWithin      = 3 * time.Second
	memoryLimit     = "80MiB" // Go's soft limit: 200 connections fit
)

// Config says what the network of one VM is.
type Config struct {
	// Link is this end of the stream socket whose other end QEMU has (-netdev stream).
	// Start takes it over.
	Link *os.File
	// Allow are addresses the guest may connect to although they are not public: the
	// package mirrors of this machine, during setup.
	Allow []netip.AddrPort
	// Log gets a line for each kind of thing refused, and the reason when the process
	// fails; nil: discarded.
	Log io.Writer
	// Resolvers are the DNS servers to ask; nil: those in /etc/resolv.conf, followed when
	// it changes.
	Resolvers []netip.AddrPort
	// Program starts the network process; nil: this program again. Its main function
	// calls Main when argv[0] is Name.
	Program []string
}

// Stack is a running network process.
type Stack struct {
	control  io.WriteCloser
	done     chan struct{}
	err      error
	process  *os.Process
	landlock int
}

// Start starts the network process of a VM, and returns once it is confined and
// listens. It ends when QEMU closes its end of the link, when the calling process ends,
// or by Close.
func Start(ctx context.Context, c Config) (*Stack, error) {
	defer c.Link.Close()
	program := c.Program
	if program == nil {
		program = []string{"/proc/self/exe"}
	}
	log := c.Log
	if log == nil {
		log = io.Discard
	}
	resolvers := c.Resolvers
	if resolvers == nil {
		text, err := os.ReadFile(resolvConf)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reading the DNS servers of this machine: %w", err)
		}
		resolvers = parseResolvConf(string(text))
	}
	first, err := json.Marshal(settings{Allow: c.Allow, Resolvers: resolvers})
	if err != nil {
		return nil, err
	}

	cmd := exec.Command(program[0], program[1:]...)
	cmd.Args = append([]string{Name}, program[1:]...)
	cmd.Env = []string{"GOMEMLIMIT=" + memoryLimit}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{c.Link}
	words := &tail{to: log}
	cmd.Stderr = words
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s := &Stack{control: stdin, done: make(chan struct{})}
	started := make(chan error)
	go s.hold(cmd, program[0], started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting the network process: %w", err)
	}

	ready := make(chan error, 1)
	go func() {
		_, err := stdin.Write(append(first, '\n'))
		if err == nil {
			_, err = bufio.NewReader(stdout).ReadString('\n')
		}
		ready <- err
		_, _ = io.Copy(io.Discard, stdout)
	}()
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = s.Close()
		if output := words.String(); output != "" {
			return nil, fmt.Errorf("the network process ended: %s", output)
		}
		return nil, fmt.Errorf("the network process did not start: %w", err)
	}
	if c.Resolvers == nil {
		go s.follow(c.Allow, resolvers)
	}
	return s, nil
}

// hold starts the process from a thread that has no file access left, which the process
// inherits, and waits for it. The thread lives as long: its end would end the process
// (Pdeathsig), and it is never used for anything else.
func (s *Stack) hold(cmd *exec.Cmd, program string, started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	var err error
	if s.landlock, err = confine.FilesThread(program); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		started <- err
		return
	}
	s.process = cmd.Process
	started <- nil
	s.err = cmd.Wait()
	close(s.done)
}

// follow tells the process when the DNS servers of this machine change.
func (s *Stack) follow(allow []netip.AddrPort, last []netip.AddrPort) {
	tick := time.NewTicker(resolvConfEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		text, err := os.ReadFile(resolvConf)
		if err != nil {
			continue
		}
		servers := parseResolvConf(string(text))
		if fmt.Sprint(servers) == fmt.Sprint(last) {
			continue
		}
		line, err := json.Marshal(settings{Allow: allow, Resolvers: servers})
		if err != nil {
			continue
		}
		if _, err := s.control.Write(append(line, '\n')); err != nil {
			return
		}
		last = servers
	}
}

// Done is closed when the process has ended.
func (s *Stack) Done() <-chan struct{} { return s.done }

// Landlock returns the version of Landlock that keeps the process from files, 0 where
// the kernel has none and seccomp alone does it.
func (s *Stack) Landlock() int { return s.landlock }

// Close ends the process and waits for its end. It returns the reason if the process had
// failed before.
func (s *Stack) Close() error {
	_ = s.control.Close()
	select {
	case <-s.done:
	case <-time.After(stopWithin):
		_ = s.process.Kill()
		<-s.done
	}
	return s.err
}

// tail passes on what the process says and remembers its last line.
type tail struct {
	mu   sync.Mutex
	to   io.Writer
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if line := bytes.TrimSpace(p); len(line) > 0 {
		t.last = append(t.last[:0], line[bytes.LastIndexByte(line, '\n')+1:]...)
	}
	return t.to.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimPrefix(string(t.last), "network: ")
}
