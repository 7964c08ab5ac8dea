package root

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// client runs actions in a helper that sudo started.
type client struct {
	opts Options
	mu   sync.Mutex // one action at a time
	h    *helper
}

// A helper is a running "sudo -- SELF root-apply".
type helper struct {
	Conn    *net.UnixConn
	Replies chan received // closed when the helper hangs up
	exited  chan struct{} // closed when sudo has ended
	stderr  *relay
}

type received struct {
	reply
	file *os.File
	err  error
}

// killWait is how long the client waits for a cancelled action, or for a closed
// helper: apt gets StopGrace to finish its package.
const killWait = program.StopGrace + 5*time.Second

func (c *client) Do(ctx context.Context, op record.Op, progress record.Progress) (record.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op == nil {
		return record.Result{}, errors.New("no action given")
	}
	// The same check as in the helper, before sudo asks for a password.
	if err := record.Check(op, c.opts.Euid); err != nil {
		return record.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return record.Result{}, err
	}
	if c.h == nil {
		h, err := c.Start(ctx)
		if err != nil {
			return record.Result{}, err
		}
		c.h = h
	}
	line, err := encodeOp(op)
	if err != nil {
		return record.Result{}, err
	}
	if _, err := c.h.Conn.Write(append(line, '\n')); err != nil {
		return record.Result{}, c.lost(err)
	}
	done := ctx.Done()
	var deadline <-chan time.Time
	for {
		select {
		case <-done:
			done = nil
			deadline = time.After(killWait)
			_, _ = c.h.Conn.Write([]byte(`{"cancel":true}` + "\n")) // a dead helper closes Replies
		case <-deadline:
			c.drop()
			return record.Result{}, ctx.Err()
		case r, ok := <-c.h.Replies:
			switch {
			case !ok, r.err != nil:
				if ctx.Err() != nil {
					c.drop()
					return record.Result{}, ctx.Err()
				}
				return record.Result{}, c.lost(r.err)
			case r.Progress != nil:
				if progress != nil {
					progress(r.Progress.Line, r.Progress.Fraction)
				}
			case r.Error != nil:
				if ctx.Err() != nil {
					return record.Result{}, ctx.Err()
				}
				return record.Result{}, remoteError(r.Error)
			case r.Result != nil:
				return record.Result{File: r.file, Note: r.Result.Note}, nil
			}
		}
	}
}

// Close closes the connection, which ends the helper.
func (c *client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	return nil
}

func (c *client) drop() {
	if c.h == nil {
		return
	}
	h := c.h
	c.h = nil
	h.Conn.Close()
	// Close the descriptors of replies that nobody read.
	for r := range h.Replies {
		if r.file != nil {
			r.file.Close()
		}
	}
	select {
	case <-h.exited:
	case <-time.After(killWait):
	}
}

// lost drops a helper that stopped answering and returns the error that says why.
func (c *client) lost(cause error) error {
	h := c.h
	c.drop()
	msg := h.stderr.last()
	if msg == "" && cause != nil {
		msg = cause.Error()
	}
	if msg == "" {
		msg = "it exited without a message"
	}
	return ui.Failed("the privileged helper stopped: %s", msg).Hint(ui.Remark("run the command again, it continues where it stopped"))
}

// Start starts sudo and waits for the hello of the helper.
//
// The socket is the helper's stdin because sudo closes every descriptor above 2.
// None of descriptors 0 to 2 is the terminal, so sudo does not take the terminal
// over (with use_pty it could set raw mode) while the helper runs; it asks for the
// password on /dev/tty.
func (c *client) Start(ctx context.Context) (*helper, error) {
	if len(c.opts.Self) == 0 {
		return nil, errors.New("root: Options.Self is empty")
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return nil, ui.Refused("this needs root's rights, and sudo is not installed").
			Hint(ui.Remark("run the command as root, or install sudo: su -c 'apt-get install sudo'"))
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	helperEnd := os.NewFile(uintptr(fds[1]), "helper")
	clientEnd := os.NewFile(uintptr(fds[0]), "client")
	nc, err := net.FileConn(clientEnd)
	clientEnd.Close()
	if err != nil {
		helperEnd.Close()
		return nil, err
	}
	args := []string{}
	if c.opts.NonInteractive {
		args = append(args, "-n")
	}
	args = append(append(append(args, "--"), c.opts.Self...), Command)
	h := &helper{
		Conn:    nc.(*net.UnixConn),
		Replies: make(chan received, 64),
		exited:  make(chan struct{}),
		// Where sudo may not ask, its message becomes part of the error instead.
		stderr: &relay{to: c.opts.Stderr, muted: c.opts.NonInteractive, end: capture.Tail{Limit: 4096}},
	}
	cmd := exec.Command(sudo, args...)
	cmd.Stdin = helperEnd
	cmd.Stdout = &capture.Tail{Limit: 1024}
	cmd.Stderr = h.stderr
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Start()
	helperEnd.Close() // else read would not notice that the helper closed its end
	if err != nil {
		h.Conn.Close()
		return nil, ui.Failed("starting sudo: %w", err)
	}
	go func() {
		_ = cmd.Wait() // stderr has the reason
		close(h.exited)
	}()
	go h.read()

	select {
	case r, ok := <-h.Replies:
		if ok && r.err == nil && r.Hello == wireVersion {
			h.stderr.unmute()
			return h, nil
		}
		if ok && r.Hello != 0 {
			h.Conn.Close()
			return nil, ui.Failed("sudo started another version of aivm as the privileged helper")
		}
	case <-ctx.Done():
		h.Conn.Close()
		return nil, ctx.Err()
	}
	h.Conn.Close()
	// sudo prints the reason on stderr, which is complete once sudo has exited.
	select {
	case <-h.exited:
	case <-time.After(10 * time.Second):
	}
	if err := ctx.Err(); err != nil {
		return nil, err // Ctrl-C at the password prompt
	}
	why := h.stderr.last()
	if why == "" {
		why = "no reason given"
	}
	if c.opts.NonInteractive {
		return nil, ui.NeedsApproval("root's rights are needed, and sudo cannot ask without a terminal: %s", why).
			Hint(ui.CmdFor("run the command in a terminal, or first", "sudo -v"), ui.Remark("or run it as root"))
	}
	return nil, ui.Refused("sudo did not give root's rights: %s", why).
		Hint(ui.Remark("ask the administrator for sudo rights, or run the command as root"))
}

// read parses the stream into replies until the helper closes it.
func (h *helper) read() {
	defer close(h.Replies)
	var buf []byte
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	chunk := make([]byte, 32<<10)
	oob := make([]byte, unix.CmsgSpace(4*4))
	for {
		n, oobn, _, _, err := h.Conn.ReadMsgUnix(chunk, oob)
		// Both are -1 on a closed connection.
		files = append(files, passedFiles(oob[:max(0, oobn)])...)
		buf = append(buf, chunk[:max(0, n)]...)
		for {
			i := bytes.IndexByte(buf, '\n')
			if i < 0 {
				break
			}
			var r received
			if jerr := json.Unmarshal(buf[:i], &r.reply); jerr != nil {
				h.Replies <- received{err: fmt.Errorf("malformed reply: %w", jerr)}
				return
			}
			buf = buf[i+1:]
			if r.Result != nil && r.Result.File {
				if len(files) == 0 {
					h.Replies <- received{err: errors.New("the reply announces a file descriptor and has none")}
					return
				}
				r.file, files = files[0], files[1:]
			}
			h.Replies <- r
		}
		if len(buf) > maxLine {
			h.Replies <- received{err: fmt.Errorf("a reply is longer than %d bytes", maxLine)}
			return
		}
		if err != nil || n <= 0 {
			return
		}
	}
}

func passedFiles(oob []byte) []*os.File {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var out []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			out = append(out, os.NewFile(uintptr(fd), "passed by the helper"))
		}
	}
	return out
}

// relay copies stderr to a writer, unless it is muted, and keeps its end.
type relay struct {
	mu    sync.Mutex
	to    io.Writer
	muted bool
	end   capture.Tail
}

func (r *relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.end.Write(p)
	if !r.muted {
		_, _ = r.to.Write(p) // only messages: a failed write must not end the helper
	}
	return len(p), nil
}

func (r *relay) unmute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.muted = false
}

func (r *relay) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.TrimSpace(capture.LastLines(r.end.String(), 3, "; "))
}
