package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// stopGrace is how long a cancelled call waits for its command to end, and for a Write of the
// caller's writer to return.
const stopGrace = 500 * time.Millisecond

// Run implements Conn.
func (c *conn) Run(ctx context.Context, cmd Cmd) (int, error) {
	line, err := CommandLine(cmd.Argv)
	if err != nil {
		return -1, err
	}
	exit, err := c.exec(ctx, line, cmd.Spare, cmd.Stdin, cmd.Stdout, cmd.Stderr)
	if err != nil {
		return -1, fmt.Errorf("running %s in the guest: %w", quoteArgs(cmd.Argv), err)
	}
	return exit, nil
}

// PutTar implements Conn.
func (c *conn) PutTar(ctx context.Context, dir string, tar io.Reader) error {
	if dir == "" {
		return errors.New("unpacking in the guest: no directory is given")
	}
	if !strings.HasPrefix(dir, "/") {
		dir = "./" + dir // must not be taken for an option
	}
	argv := []string{"sh", "-c", `mkdir -p "$1" && exec tar -x -f - -C "$1"`, "sh", dir}
	var stderr tail
	exit, err := c.Run(ctx, Cmd{Argv: argv, Stdin: tar, Stderr: &stderr})
	if err != nil {
		return fmt.Errorf("unpacking below %s: %w", dir, err)
	}
	if exit != 0 {
		return &CommandError{Argv: []string{"tar", "-x", "-C", dir}, Exit: exit, Stderr: stderr.String()}
	}
	return nil
}

// exec runs one command line and returns its exit status if err is nil.
func (c *conn) exec(parent context.Context, line string, spare bool, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if err := parent.Err(); err != nil {
		return -1, err
	}
	ctx, abort := context.WithCancelCause(parent)
	defer abort(nil)
	r := &running{ctx: ctx, abort: abort}
	out, errOut := newOutput(r, stdout), newOutput(r, stderr)
	if sameWriter(stdout, stderr) {
		errOut = out // one lock, so that the two never write at once
	}
	defer out.shut()
	defer errOut.shut()

	result := make(chan error, 1)
	go func() { result <- r.session(c, line, spare, stdin, out, errOut) }()

	var err error
	stopped := false
	select {
	case err = <-result:
	case <-ctx.Done():
		stopped = true
		c.stop(r, result)
	}
	if ioErr := r.failure(); ioErr != nil {
		return -1, ioErr
	}
	if stopped {
		return -1, fmt.Errorf("cancelled: %w", context.Cause(parent))
	}
	return c.status(err)
}

// status converts the error of Session.Wait to an exit status.
func (c *conn) status(err error) (int, error) {
	var exited *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exited):
		// A status is one byte, but a hostile guest can send any number.
		return min(max(exited.ExitStatus(), 1), 255), nil
	case errors.Is(err, errInputUnread):
		return 0, nil
	}
	if lost := c.lostError(200 * time.Millisecond); lost != nil {
		return -1, lost
	}
	if errors.As(err, &missing) {
		return -1, ErrNoStatus
	}
	return -1, err
}

// stop ends a cancelled command and waits for its end, at most stopGrace. sshd confirms the end of a
// channel only when the program has exited, and a program can ignore SIGTERM; then the channel is
// abandoned. The connection stays open, since other calls use it.
func (c *conn) stop(r *running, result <-chan error) {
	go r.terminate() // sending can block as long as the connection exists
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-result:
	case <-timer.C:
	}
}

// errInputUnread reports that the command ended with status 0 without reading all of its input.
var errInputUnread = errors.New("the command did not read all of its input")

// running is one command that is being run.
type running struct {
	ctx   context.Context
	abort context.CancelCauseFunc

	mu     sync.Mutex
	sess   *ssh.Session
	failed error // of the caller's streams
}

func (r *running) session(c *conn, line string, spare bool, stdin io.Reader, out, errOut *output) error {
	s, err := newSession(r.ctx, c.client, spare)
	if err != nil {
		return err
	}
	defer s.Close()
	r.mu.Lock()
	r.sess = s
	r.mu.Unlock()
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if stdin != nil {
		s.Stdin = &input{r, stdin}
	}
	s.Stdout, s.Stderr = out, errOut
	if c.bypass.Load() {
		if _, err := s.SendRequest("env", false, startupEnv); err != nil {
			return err
		}
	}
	if err := s.Start(line); err != nil {
		return err
	}
	err = s.Wait()
	// Wait reports a failed copy only if the status is 0. Writing to a channel that the guest has
	// closed fails with io.EOF.
	if errors.Is(err, io.EOF) {
		return errInputUnread
	}
	return err
}

// sessionRetryLimit is how long a refused session is requested again. A server may allow only a few
// sessions at a time (MaxSessions in sshd_config(5), which can be 1), and counts a session for a
// moment after its command has ended.
const sessionRetryLimit = 3 * time.Second

func newSession(ctx context.Context, client *ssh.Client, spare bool) (*ssh.Session, error) {
	end := time.Now().Add(sessionRetryLimit)
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		s, err := client.NewSession()
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || spare || time.Now().Add(pause).After(end) ||
			refused.Reason != ssh.ConnectionFailed && refused.Reason != ssh.ResourceShortage {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

func (r *running) terminate() {
	r.mu.Lock()
	s := r.sess
	r.mu.Unlock()
	if s == nil {
		return // still opening: session checks the context
	}
	_ = s.Signal(ssh.SIGTERM)
	_ = s.Close()
}

// fail records the failure of a stream and cancels the command.
func (r *running) fail(err error) {
	r.mu.Lock()
	if r.failed == nil && r.ctx.Err() == nil {
		r.failed = err
	}
	r.mu.Unlock()
	r.abort(err)
}

func (r *running) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// input ends the command if reading its input fails: otherwise x/crypto/ssh would send end-of-file,
// and the command would treat half of the input as all of it. The signal is sent before the
// end-of-file. sshd does not deliver signals to commands of root, so a caller that logs in as root
// must make truncated input detectable by its content.
type input struct {
	r  *running
	in io.Reader
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		i.r.fail(fmt.Errorf("reading its input: %w", err))
		i.r.terminate()
	}
	return n, err
}

// output ends the command if writing its output fails: otherwise the command would block indefinitely
// on a pipe nobody reads. It also discards output that arrives after the call has returned.
type output struct {
	r    *running
	w    io.Writer     // nil: discard
	lock chan struct{} // holds an element during a Write to w
	done chan struct{} // closed when the call has returned
	once sync.Once
}

func newOutput(r *running, w io.Writer) *output {
	return &output{r: r, w: w, lock: make(chan struct{}, 1), done: make(chan struct{})}
}

func (o *output) Write(p []byte) (int, error) {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	select {
	case <-o.done:
		return 0, io.ErrClosedPipe
	default:
	}
	if o.w == nil {
		return len(p), nil
	}
	n, err := o.w.Write(p)
	if err != nil {
		o.r.fail(fmt.Errorf("forwarding its output: %w", err))
	}
	return n, err
}

// shut prevents further writes to w and waits until the current Write has returned, at most
// stopGrace.
func (o *output) shut() {
	o.once.Do(func() {
		timer := time.NewTimer(stopGrace)
		defer timer.Stop()
		select {
		case o.lock <- struct{}{}:
			close(o.done)
			<-o.lock
		case <-timer.C:
			close(o.done)
		}
	})
}

// sameWriter reports whether a and b are the same writer; false for types that cannot be compared.
func sameWriter(a, b io.Writer) bool {
	if a == nil || b == nil || !reflect.ValueOf(a).Comparable() || !reflect.ValueOf(b).Comparable() {
		return false
	}
	return a == b
}

// tail keeps the last tailSize bytes of a stream.
type tail struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	limit int // for the number of bytes written; 0: none
	total int
}

const tailSize = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total += len(p); t.limit > 0 && t.total > t.limit {
		return 0, fmt.Errorf("%w: more than %d bytes on stderr", ErrTooLong, t.limit)
	}
	t.buf.Write(p[max(0, len(p)-tailSize):])
	if over := t.buf.Len() - tailSize; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
