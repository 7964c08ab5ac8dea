package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// Limits bounds what a guest can make a transfer cost.
type Limits struct {
	Bytes int64         // sent by the guest
	Quiet time.Duration // without a byte in both directions
	Total time.Duration
	// Memory and CPU limit the git process that reads what the guest sends.
	Memory uint64
	CPU    time.Duration
}

// DefaultLimits allows any project a person works on, but does not let a guest fill the disk or run
// for hours.
var DefaultLimits = Limits{Bytes: 4 << 30, Quiet: 2 * time.Minute, Total: time.Hour, Memory: 8 << 30, CPU: 30 * time.Minute}

func (l Limits) withDefaults(d Limits) Limits {
	if l.Bytes == 0 {
		l.Bytes = d.Bytes
	}
	if l.Quiet == 0 {
		l.Quiet = d.Quiet
	}
	if l.Total == 0 {
		l.Total = d.Total
	}
	if l.Memory == 0 {
		l.Memory = d.Memory
	}
	if l.CPU == 0 {
		l.CPU = d.CPU
	}
	return l
}

// A Peer is the guest's clone, reached over the open connection.
type Peer struct {
	Conn   guest.Conn
	VM     string
	Dir    string
	Limits Limits
	// RemoteIsNew means that the remote was not in the repository's configuration, so its
	// remote-tracking refs may be from another clone.
	RemoteIsNew bool
	// Note, if set, receives descriptions of how things are done (-v). Progress, if set, receives
	// the current progress.
	Note     func(string)
	Progress func(detail string, fraction float64)
}

// Notef formats a description for Note.
func (p Peer) Notef(format string, args ...any) {
	if p.Note != nil {
		p.Note(fmt.Sprintf(format, args...))
	}
}

func (p Peer) progress(detail string, fraction float64) {
	if p.Progress != nil {
		p.Progress(detail, fraction)
	}
}

// guestStderrTail is how many bytes of the end of the guest git's stderr are kept.
const guestStderrTail = 4096

var (
	errQuiet   = errors.New("the guest sent nothing for too long")
	errTooSlow = errors.New("the guest took too long")
	errTooBig  = errors.New("the guest sent too much")
)

// session is one git service process in the guest: in is its standard input, out its standard
// output.
type session struct {
	in     *pipeEnd
	out    io.Reader
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}
	exit   int
	err    error
	stderr *capture.Tail
	outR   *io.PipeReader
	inR    *io.PipeReader
}

// pipeEnd counts each write as activity for the Quiet limit.
type pipeEnd struct {
	*io.PipeWriter
	alive func()
}

func (p *pipeEnd) Write(b []byte) (int, error) {
	n, err := p.PipeWriter.Write(b)
	p.alive()
	return n, err
}

// start runs a git service on the guest's clone.
func (p Peer) start(parent context.Context, argv ...string) *session {
	lim := p.Limits.withDefaults(DefaultLimits)
	ctx, cancel := context.WithCancelCause(parent)
	s := &session{ctx: ctx, cancel: cancel, done: make(chan struct{}), stderr: &capture.Tail{Limit: guestStderrTail}}
	total := time.AfterFunc(lim.Total, func() { cancel(errTooSlow) })
	quiet := time.AfterFunc(lim.Quiet, func() { cancel(errQuiet) })
	alive := func() { quiet.Reset(lim.Quiet) }
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s.inR, s.outR = inR, outR
	s.in = &pipeEnd{inW, alive}
	s.out = &counted{r: outR, remaining: lim.Bytes, alive: alive, exceeded: func() { cancel(errTooBig) }}
	go func() {
		defer close(s.done)
		defer total.Stop()
		defer quiet.Stop()
		s.exit, s.err = p.Conn.Run(ctx, guest.Cmd{Argv: argv, Stdin: inR, Stdout: outW, Stderr: s.stderr})
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			s.err = cause
		}
		end := s.err
		if end == nil {
			end = io.EOF
		}
		_ = outW.CloseWithError(end)
		_ = inR.CloseWithError(io.ErrClosedPipe)
	}()
	return s
}

// end closes the session and returns how it ended: the limit that was exceeded, the connection's
// error, or the guest's last lines of stderr. why is the error the caller ran into.
func (s *session) end(why error) error {
	if why != nil {
		s.cancel(context.Canceled)
	}
	_ = s.in.Close()
	_ = s.outR.CloseWithError(io.ErrClosedPipe)
	<-s.done
	s.cancel(context.Canceled)
	cut := errors.Is(s.err, errQuiet) || errors.Is(s.err, errTooSlow) || errors.Is(s.err, errTooBig) || errors.Is(s.err, guest.ErrLost)
	words := strings.TrimSpace(s.stderr.String())
	switch {
	case why == nil && s.err == nil && s.exit == 0:
		return nil
	case cut:
		return s.err
	case why == nil && s.err == nil:
		why = fmt.Errorf("git in the guest ended with status %d", s.exit)
	case why == nil:
		why = s.err
	}
	if words != "" {
		l := strings.Split(words, "\n")
		return fmt.Errorf("%w; the guest reported: %s", why, ui.CleanTo(strings.Join(l[max(0, len(l)-3):], "; "), 400))
	}
	return why
}

// counted limits the bytes read, and counts each read as activity.
type counted struct {
	r         io.Reader
	remaining int64
	alive     func()
	exceeded  func()
}

func (c *counted) Read(p []byte) (int, error) {
	if c.remaining <= 0 {
		c.exceeded()
		return 0, errTooBig
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.remaining)])
	c.remaining -= int64(n)
	if n > 0 {
		c.alive()
	}
	return n, err
}

// Script runs one of aivm's scripts in the guest as the guest user, with args as $1 and so on.
func (p Peer) Script(ctx context.Context, what, script string, args ...string) (string, int, error) {
	out, stderr := capture.Head{Limit: 1 << 20}, capture.Head{Limit: 4 << 10}
	argv := append([]string{"sh", "-c", guestscript.InEnglish + script, "sh"}, args...)
	code, err := p.Conn.Run(ctx, guest.Cmd{Argv: argv, Stdout: &out, Stderr: &stderr})
	if err != nil {
		return "", code, fmt.Errorf("%s: %w", what, err)
	}
	if code >= 100 || code == 0 {
		return out.String(), code, nil // answers of the script
	}
	words := strings.TrimSpace(stderr.String())
	return out.String(), code, ui.Failed("%s failed in VM %s (status %d): %s", what, p.VM, code, ui.CleanTo(strings.ReplaceAll(words, "\n", "; "), 300))
}
