package terminal

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/guestd"
)

// Process is a process in a guest.
type Process interface {
	Resize(guestd.Size) error
	Signal(syscall.Signal) error
	Wait() (guestd.Exit, error)
	Stops() <-chan struct{} // the process stopped itself, as a shell's job does
	Continue() error
}

// The times a process has to end.
const (
	grace = 2 * time.Second        // after a signal that asks it to
	reap  = 700 * time.Millisecond // after SIGKILL
	pause = 250 * time.Millisecond // within which a signal sent to this process stops it
)

// Options say how a process is attached.
type Options struct {
	Terminal *Terminal // nil: the process has none
	// Signals are those this process received since before the guest was started. They must
	// include those of Notify.
	Signals <-chan os.Signal
	Timeout time.Duration   // 0: none
	Ask     <-chan struct{} // closed when the process is to be ended as by SIGTERM
	// Stop stops this process and its process group until SIGCONT; nil: as a shell's job is.
	Stop func()
}

// Result tells how a process ended.
type Result struct {
	Exit     guestd.Exit
	Received syscall.Signal // the signal for which it was ended; 0: it ended by itself
	TimedOut bool
}

// Code returns the exit status of a shell for the process: 128 and the number of the signal, and 124 after
// the timeout.
func (r Result) Code() int {
	switch {
	case r.TimedOut:
		return 124
	case r.Exit.Signal == syscall.SIGKILL && r.Received != 0:
		return 128 + int(r.Received)
	case r.Exit.Signal != 0:
		return 128 + int(r.Exit.Signal)
	}
	return r.Exit.Code
}

// ErrNoEnd is returned for a process whose end was not reported, although it was killed.
var ErrNoEnd = errors.New("the end of the command was not reported")

// Notify subscribes to the signals that Attach handles.
func Notify() (signals chan os.Signal, stop func()) {
	c := make(chan os.Signal, 32)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH, syscall.SIGCONT,
		syscall.SIGPIPE) // else a closed stdout would end this process before its run is cleaned up
	return c, func() { signal.Stop(c) }
}

// Attach connects the signals and the terminal of this process to p until p ends. A signal that ends
// programs is passed on; if p has not ended two seconds later, or after a second signal, it is killed.
func Attach(p Process, o Options) (Result, error) {
	a := attached{process: p, options: o}
	if t := o.Terminal; t != nil {
		if err := t.Raw(); err != nil {
			return Result{}, err
		}
		defer t.Restore()
	}
	return a.loop()
}

type attached struct {
	process Process
	options Options
	result  Result
	kill    <-chan time.Time // when the process is killed
	lost    <-chan time.Time // when its end is no longer waited for
}

func (a *attached) loop() (Result, error) {
	type end struct {
		exit guestd.Exit
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		x, err := a.process.Wait()
		ended <- end{x, err}
	}()
	var timeout <-chan time.Time
	if a.options.Timeout > 0 {
		timer := time.NewTimer(a.options.Timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	ask := a.options.Ask
	for {
		select {
		case e := <-ended:
			a.result.Exit = e.exit
			return a.result, e.err
		case s := <-a.options.Signals:
			a.received(s)
		case <-ask:
			ask = nil
			a.end(syscall.SIGTERM)
		case <-timeout:
			timeout = nil
			a.result.TimedOut = true
			a.tell(syscall.SIGTERM)
		case <-a.process.Stops():
			a.stopped()
		case <-a.kill:
			a.killNow()
		case <-a.lost:
			a.result.Exit = guestd.Exit{Signal: syscall.SIGKILL}
			return a.result, ErrNoEnd
		}
	}
}

// received handles a signal of this process.
func (a *attached) received(s os.Signal) {
	sig, ok := s.(syscall.Signal)
	if !ok {
		return
	}
	t := a.options.Terminal
	switch {
	case sig == syscall.SIGCONT:
		if t != nil { // a shell that continues a job may have set the terminal
			t.Restore()
			_ = t.Raw()
			_ = a.process.Resize(t.Size())
		}
	case sig == syscall.SIGWINCH:
		if t != nil {
			_ = a.process.Resize(t.Size())
		}
	case sig == syscall.SIGPIPE:
	default:
		a.end(sig)
	}
}

// end tells the process to end because of the signal, or kills it if it was told before.
func (a *attached) end(sig syscall.Signal) {
	if a.kill != nil && a.result.Received != 0 {
		a.killNow()
		return
	}
	a.result.Received = sig
	a.tell(sig)
}

// tell passes the signal on, continues the process if it is stopped, and sets the time it has to end.
func (a *attached) tell(sig syscall.Signal) {
	_ = a.process.Signal(sig)
	_ = a.process.Continue()
	a.kill = time.After(grace)
}

func (a *attached) killNow() {
	_ = a.process.Signal(syscall.SIGKILL)
	a.kill = nil
	if a.lost == nil {
		a.lost = time.After(reap)
	}
}

// stopped gives the terminal back and stops this process, because the process in the guest stopped, and
// continues both when the shell continues this one.
func (a *attached) stopped() {
	if a.kill != nil || a.lost != nil {
		_ = a.process.Continue()
		return
	}
	t := a.options.Terminal
	t.Restore()
	if a.options.Stop != nil {
		a.options.Stop()
	} else {
		stopSelf()
	}
	if t != nil {
		_ = t.Raw()
		_ = a.process.Resize(t.Size())
	}
	_ = a.process.Continue()
}

// stopSelf stops this process and its process group, as Ctrl-Z does, and returns when it is continued. In
// a process group that no shell watches the kernel drops the signal, and stopSelf returns soon.
func stopSelf() {
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	if syscall.Kill(0, syscall.SIGTSTP) != nil {
		return
	}
	select {
	case <-resumed:
	case <-time.After(pause):
	}
}
