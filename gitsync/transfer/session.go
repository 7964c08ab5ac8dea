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

// Limits bound what a guest can make a transfer cost.
type Limits struct {
	Bytes int64         // that the guest sends
	Quiet time.Duration // without a byte in either direction
	Total time.Duration
	// Memory and CPU bound the git that takes what the guest sends apart.
	Memory uint64
	CPU    time.Duration
}

// DefaultLimits leave room for any project a person works on, and none for
// filling a disk or a night.
var DefaultLimits = Limits{Bytes: 4 << 30, Quiet: 2 * time.Minute, Total: time.Hour, Memory: 8 << 30, CPU: 30 * time.Minute}

func (l Limits) or(d Limits) Limits {
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

// A Peer is the guest's clone over the connection that is open.
type Peer struct {
	Conn   guest.Conn
	VM     string
	Dir    string
	Limits Limits
	// Fresh says that the remote was not in the repository's configuration, so
	// what was last seen of it may be of another clone.
	Fresh bool
	// Note, if set, is told what is done how (-v). Progress, if set, is told
	// what to show meanwhile.
	Note     func(string)
	Progress func(detail string, fraction float64)
}

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

// guestWords is how many bytes of what the guest's git complains are kept.
const guestWords = 4096

var (
	errQuiet   = errors.New("the guest was silent for too long")
	errTooSlow = errors.New("the guest took too long")
	errTooBig  = errors.New("the guest sent too much")
)

// session is one git service in the guest: what is written to in goes to it,
// what it says comes out of out.
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

// pipeEnd counts a write as a sign of life.
type pipeEnd struct {
	*io.PipeWriter
	alive func()
}

func (p *pipeEnd) Write(b []byte) (int, error) {
	n, err := p.PipeWriter.Write(b)
	p.alive()
	return n, err
}

// start runs a git service on the clone.
func (p Peer) start(parent context.Context, argv ...string) *session {
	lim := p.Limits.or(DefaultLimits)
	ctx, cancel := context.WithCancelCause(parent)
	s := &session{ctx: ctx, cancel: cancel, done: make(chan struct{}), stderr: &capture.Tail{Limit: guestWords}}
	total := time.AfterFunc(lim.Total, func() { cancel(errTooSlow) })
	quiet := time.AfterFunc(lim.Quiet, func() { cancel(errQuiet) })
	alive := func() { quiet.Reset(lim.Quiet) }
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s.inR, s.outR = inR, outR
	s.in = &pipeEnd{inW, alive}
	s.out = &counted{r: outR, left: lim.Bytes, alive: alive, over: func() { cancel(errTooBig) }}
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

// end closes the session and says how it ended: the reason it was cut, the
// connection's, or the guest's last words. why is what the caller ran into.
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
		return fmt.Errorf("%w; the guest said: %s", why, ui.CleanTo(strings.Join(l[max(0, len(l)-3):], "; "), 400))
	}
	return why
}

// counted bounds what is read.
type counted struct {
	r     io.Reader
	left  int64
	alive func()
	over  func()
}

func (c *counted) Read(p []byte) (int, error) {
	if c.left <= 0 {
		c.over()
		return 0, errTooBig
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if n > 0 {
		c.alive()
	}
	return n, err
}

// Script runs a script of ours in the guest as its user, arguments as $1 and on.
func (p Peer) Script(ctx context.Context, what, script string, args ...string) (string, int, error) {
	out, stderr := capture.Head{Limit: 1 << 20}, capture.Head{Limit: 4 << 10}
	argv := append([]string{"sh", "-c", guestscript.InEnglish + script, "sh"}, args...)
	code, err := p.Conn.Run(ctx, guest.Cmd{Argv: argv, Stdout: &out, Stderr: &stderr})
	if err != nil {
		return "", code, fmt.Errorf("%s: %w", what, err)
	}
	if code >= 100 || code == 0 {
		return out.String(), code, nil // our own statuses
	}
	words := strings.TrimSpace(stderr.String())
	return out.String(), code, ui.Failed("%s failed in VM %s (status %d): %s", what, p.VM, code, ui.CleanTo(strings.ReplaceAll(words, "\n", "; "), 300))
}
