package terminal

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd"
)

// pty opens a pseudo-terminal and returns both of its ends.
func pty(t *testing.T) (outer, inner *os.File) {
	t.Helper()
	outer, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals here:", err)
	}
	t.Cleanup(func() { outer.Close() })
	if err := unix.IoctlSetPointerInt(int(outer.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(outer.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	inner, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inner.Close() })
	return outer, inner
}

func settings(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

func TestRawAndRestore(t *testing.T) {
	_, inner := pty(t)
	before := settings(t, inner)
	term := Of(inner)
	if err := term.Raw(); err != nil {
		t.Fatal(err)
	}
	if s := settings(t, inner); s.Lflag&(unix.ISIG|unix.ICANON|unix.ECHO) != 0 || s.Oflag&unix.OPOST != 0 {
		t.Errorf("raw mode: %+v", s)
	}
	if err := term.Raw(); err != nil { // the second one must not save the raw settings
		t.Fatal(err)
	}
	term.Restore()
	if s := settings(t, inner); s != before {
		t.Errorf("restored %+v, want %+v", s, before)
	}
	term.Restore()
	if s := term.Size(); s != (guestd.Size{Rows: 24, Cols: 80}) {
		t.Errorf("a terminal without a size: %+v", s)
	}
	if err := unix.IoctlSetWinsize(int(inner.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 132}); err != nil {
		t.Fatal(err)
	}
	if s := term.Size(); s != (guestd.Size{Rows: 50, Cols: 132}) {
		t.Errorf("size %+v", s)
	}
	if f, err := os.Open(os.DevNull); err != nil || Of(f) != nil || Of(nil) != nil {
		t.Errorf("/dev/null is a terminal, or: %v", err)
	}
}

// process is a command in a guest that does what a test says.
type process struct {
	mu        sync.Mutex
	signals   []syscall.Signal
	sizes     []guestd.Size
	continued int
	dies      map[syscall.Signal]guestd.Exit // on these signals
	stops     chan struct{}
	ended     chan guestd.Exit
	changed   chan struct{}
}

func newProcess(dies map[syscall.Signal]guestd.Exit) *process {
	return &process{dies: dies, stops: make(chan struct{}, 1), ended: make(chan guestd.Exit, 9), changed: make(chan struct{}, 99)}
}

func (p *process) Resize(s guestd.Size) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sizes = append(p.sizes, s)
	p.changed <- struct{}{}
	return nil
}

func (p *process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signals = append(p.signals, s)
	if x, ok := p.dies[s]; ok {
		p.ended <- x
	}
	return nil
}

func (p *process) Wait() (guestd.Exit, error) { return <-p.ended, nil }
func (p *process) Stops() <-chan struct{}     { return p.stops }
func (p *process) Continue() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.continued++
	p.changed <- struct{}{}
	return nil
}

func TestEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		dies    map[syscall.Signal]guestd.Exit
		send    []os.Signal
		options Options
		code    int
		err     error
		told    []syscall.Signal
	}{
		"by itself":        {send: []os.Signal{syscall.SIGPIPE, syscall.SIGWINCH, syscall.SIGUSR2}, dies: map[syscall.Signal]guestd.Exit{syscall.SIGUSR2: {Code: 7}}, code: 7, told: []syscall.Signal{syscall.SIGUSR2}},
		"on SIGINT":        {dies: map[syscall.Signal]guestd.Exit{syscall.SIGINT: {Signal: syscall.SIGINT}}, send: []os.Signal{os.Interrupt}, code: 130, told: []syscall.Signal{syscall.SIGINT}},
		"with its status":  {dies: map[syscall.Signal]guestd.Exit{syscall.SIGTERM: {Code: 3}}, send: []os.Signal{syscall.SIGTERM}, code: 3, told: []syscall.Signal{syscall.SIGTERM}},
		"only on SIGKILL":  {dies: map[syscall.Signal]guestd.Exit{syscall.SIGKILL: {Signal: syscall.SIGKILL}}, send: []os.Signal{syscall.SIGHUP}, code: 129, told: []syscall.Signal{syscall.SIGHUP, syscall.SIGKILL}},
		"on two signals":   {dies: map[syscall.Signal]guestd.Exit{syscall.SIGKILL: {Signal: syscall.SIGKILL}}, send: []os.Signal{os.Interrupt, os.Interrupt}, code: 130, told: []syscall.Signal{syscall.SIGINT, syscall.SIGKILL}},
		"never":            {send: []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, code: 143, err: ErrNoEnd, told: []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}},
		"after a timeout":  {dies: map[syscall.Signal]guestd.Exit{syscall.SIGTERM: {Signal: syscall.SIGTERM}}, options: Options{Timeout: time.Millisecond}, code: 124, told: []syscall.Signal{syscall.SIGTERM}},
		"because of aivm":  {dies: map[syscall.Signal]guestd.Exit{syscall.SIGTERM: {Signal: syscall.SIGTERM}}, options: Options{Ask: closed()}, code: 143, told: []syscall.Signal{syscall.SIGTERM}},
		"killed by itself": {send: []os.Signal{syscall.SIGUSR2}, dies: map[syscall.Signal]guestd.Exit{syscall.SIGUSR2: {Signal: syscall.SIGKILL}}, code: 137 - 9 + int(syscall.SIGUSR2), told: []syscall.Signal{syscall.SIGUSR2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProcess(tc.dies)
			signals := make(chan os.Signal, 9)
			for _, s := range tc.send {
				signals <- s
			}
			tc.options.Signals = signals
			began := time.Now()
			r, err := Attach(p, tc.options)
			if !errors.Is(err, tc.err) || r.Code() != tc.code {
				t.Errorf("%v, status %d (%+v), want %d", err, r.Code(), r, tc.code)
			}
			if time.Since(began) > 20*time.Second {
				t.Errorf("it took %v", time.Since(began))
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.signals) != len(tc.told) {
				t.Fatalf("signals %v, want %v", p.signals, tc.told)
			}
			for i := range tc.told {
				if p.signals[i] != tc.told[i] {
					t.Errorf("signals %v, want %v", p.signals, tc.told)
				}
			}
		})
	}
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// A command that stops itself gives the terminal back while this process is stopped; both continue.
func TestStopAndContinue(t *testing.T) {
	_, inner := pty(t)
	before := settings(t, inner)
	p := newProcess(nil)
	during := make(chan unix.Termios, 1)
	p.stops <- struct{}{}
	signals := make(chan os.Signal, 3)
	over := make(chan Result, 1)
	go func() {
		r, err := Attach(p, Options{Terminal: Of(inner), Signals: signals, Stop: func() { during <- settings(t, inner) }})
		if err != nil {
			t.Error(err)
		}
		over <- r
	}()
	if s := <-during; s != before {
		t.Errorf("while it is stopped: %+v, want %+v", s, before)
	}
	<-p.changed // the new size
	<-p.changed // continued
	if s := settings(t, inner); s.Lflag&unix.ICANON != 0 {
		t.Error("the terminal is not in raw mode after the command continued")
	}
	if err := unix.IoctlSetWinsize(int(inner.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 9, Col: 99}); err != nil {
		t.Fatal(err)
	}
	signals <- syscall.SIGWINCH
	<-p.changed
	p.mu.Lock()
	if got := p.sizes[len(p.sizes)-1]; got != (guestd.Size{Rows: 9, Cols: 99}) || p.continued != 1 {
		t.Errorf("size %+v, continued %d times", got, p.continued)
	}
	p.mu.Unlock()
	p.ended <- guestd.Exit{Code: 4}
	if r := <-over; r.Code() != 4 {
		t.Errorf("%+v", r)
	}
	if s := settings(t, inner); s != before {
		t.Errorf("at the end: %+v, want %+v", s, before)
	}
}

// In a process group that no shell watches, a stop signal is dropped, and the command continues at once.
func TestStopWithoutAShell(t *testing.T) {
	if os.Getenv("STOP_SELF") != "" {
		stopSelf()
		os.Exit(5)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(self, []string{self, "-test.run=^TestStopWithoutAShell$"}, &os.ProcAttr{Env: append(os.Environ(), "STOP_SELF=1"), Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if s, err := p.Wait(); err != nil || s.ExitCode() != 5 {
		t.Errorf("%v %v", s, err)
	}
}
