package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/crypto/ssh"
)

// stopGrace is how long a call that was given up waits for its command to end,
// and for a writer of the caller that is in the middle of a Write.
const stopGrace = 500 * time.Millisecond

// Run implements Conn.
func (c *conn) Run(ctx context.Context, cmd Cmd) (int, error) {
	line, err := commandLine(cmd.Argv)
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
		return errors.New("unpacking in the guest: no directory is named")
	}
	if !strings.HasPrefix(dir, "/") {
		dir = "./" + dir // neither an option nor the "-" of cd
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

// commandLine quotes argv for the login shell that sshd hands it to. "exec"
// keeps the shell from taking the first word for a keyword, an alias or an
// assignment, and lets signals reach the program.
func commandLine(argv []string) (string, error) {
	switch {
	case len(argv) == 0 || argv[0] == "":
		return "", errors.New("running in the guest: no program is named")
	case strings.HasPrefix(argv[0], "-"):
		return "", fmt.Errorf("running in the guest: %q is no program's name", argv[0])
	case slices.ContainsFunc(argv, func(a string) bool { return strings.ContainsRune(a, 0) }):
		return "", errors.New("running in the guest: an argument contains a NUL byte")
	}
	return "exec " + shellescape.QuoteCommand(argv), nil
}

// exec runs one command line. A nil error means that a status came.
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
	go func() { result <- r.session(c.client, line, spare, stdin, out, errOut) }()

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
		return -1, fmt.Errorf("given up: %w", context.Cause(parent))
	}
	return c.status(err)
}

// status reads what Session.Wait returned.
func (c *conn) status(err error) (int, error) {
	var exited *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exited):
		// A status is a byte for everybody but a guest that makes it up.
		return min(max(exited.ExitStatus(), 1), 255), nil
	case errors.Is(err, errInputUnread):
		return 0, nil
	}
	if lost := c.lost(200 * time.Millisecond); lost != nil {
		return -1, lost
	}
	if errors.As(err, &missing) {
		return -1, ErrNoStatus
	}
	return -1, err
}

// stop ends a command that was given up and waits a moment for its end. sshd
// confirms the end of a channel only when the program has exited, and a program
// can ignore SIGTERM, so the wait is bounded and the channel is then left to
// itself: the connection, which others use, stays.
func (c *conn) stop(r *running, result <-chan error) {
	go r.terminate() // sending can block, as long as the connection does
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-result:
	case <-timer.C:
	}
}

// errInputUnread: the command ended with status 0 without reading all input.
var errInputUnread = errors.New("the command did not read all of its input")

// running is one command in flight.
type running struct {
	ctx   context.Context
	abort context.CancelCauseFunc

	mu     sync.Mutex
	sess   *ssh.Session
	failed error // of the caller's streams
}

func (r *running) session(client *ssh.Client, line string, spare bool, stdin io.Reader, out, errOut *output) error {
	s, err := newSession(r.ctx, client, spare)
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
	if err := s.Start(line); err != nil {
		return err
	}
	err = s.Wait()
	// Wait reports a failed copy only when the status was 0. io.EOF is how
	// writing to a channel the guest has closed fails.
	if errors.Is(err, io.EOF) {
		return errInputUnread
	}
	return err
}

// sessionPatience is how long a session that is refused is asked for again. A
// server may allow a few at a time (MaxSessions in sshd_config(5), which can be
// 1), and counts one for a moment after its command has ended.
const sessionPatience = 3 * time.Second

func newSession(ctx context.Context, client *ssh.Client, spare bool) (*ssh.Session, error) {
	end := time.Now().Add(sessionPatience)
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
		return // still opening: session sees the context
	}
	_ = s.Signal(ssh.SIGTERM)
	_ = s.Close()
}

// fail notes the failure of a stream and gives the command up.
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

// input turns a failed read into the end of the command: x/crypto would send
// an end of file, and the command would take half its input for all of it. The
// signal arrives first. sshd passes signals on for every user but root, which
// is why whoever logs in as root must tell a cut input by its content.
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

// output turns a failed write into the end of the command, which would else
// wait for ever for somebody to read, and keeps what arrives after the call
// away from the caller's writer.
type output struct {
	r    *running
	w    io.Writer     // nil: thrown away
	lock chan struct{} // holds an element while w is written to
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
		o.r.fail(fmt.Errorf("passing on its output: %w", err))
	}
	return n, err
}

// shut returns when no Write is under way and none will follow. Only a writer
// that blocks for longer than stopGrace is left to finish by itself.
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

// sameWriter reports whether a and b are one writer. Types that cannot be
// compared are not.
func sameWriter(a, b io.Writer) bool {
	if a == nil || b == nil || !reflect.ValueOf(a).Comparable() || !reflect.ValueOf(b).Comparable() {
		return false
	}
	return a == b
}

// tail keeps the last words of a stream.
type tail struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	limit int // of all that is written; 0: none
	all   int
}

const tailSize = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all += len(p); t.limit > 0 && t.all > t.limit {
		return 0, fmt.Errorf("%w: more than %d bytes of complaints", ErrTooLong, t.limit)
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
