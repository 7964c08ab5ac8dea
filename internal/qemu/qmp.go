package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Bounds of what QEMU sends: a line, and events that nobody has read yet.
const (
	maxLine   = 4 << 20
	maxEvents = 64
)

// errClosed is the error of a command when QEMU has closed the connection.
var errClosed = errors.New("QEMU closed its control connection")

// Refused is an error that QEMU returned for a command.
type Refused struct{ Command, Class, Words string }

func (e *Refused) Error() string { return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Words) }

// qmp is a connection to QEMU's monitor. Several goroutines may use it; commands
// are sent one after the other.
type qmp struct {
	conn   *net.UnixConn
	events chan event // closed when the connection ends

	mu      sync.Mutex // one command at a time
	replies chan message
	stopped chan struct{} // closed when the reader ends
	err     error         // why; set before stopped is closed
}

// event is what QEMU reports without being asked.
type event struct {
	Name string
	Data json.RawMessage
}

// message is any line from QEMU.
type message struct {
	QMP    *json.RawMessage `json:"QMP"`
	Return json.RawMessage  `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// newQMP reads from conn until it ends.
func newQMP(conn *net.UnixConn) *qmp {
	q := &qmp{conn: conn, events: make(chan event, maxEvents), replies: make(chan message, 1), stopped: make(chan struct{})}
	go q.read()
	return q
}

func (q *qmp) read() {
	defer close(q.events)
	defer close(q.stopped)
	r := bufio.NewReaderSize(q.conn, 64<<10)
	for {
		line, err := readLine(r)
		if err != nil {
			q.err = err
			return
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			q.err = fmt.Errorf("QEMU's control connection: %w", err)
			return
		}
		if m.Event != "" {
			// An unread event is dropped: whoever waits also asks for the state.
			select {
			case q.events <- event{m.Event, m.Data}:
			default:
			}
			continue
		}
		select {
		case q.replies <- m:
		default:
			q.err = errors.New("QEMU answered more than it was asked")
			return
		}
	}
}

// readLine returns the next line, which is at most maxLine long.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, errors.New("QEMU sent a line that is too long")
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
			return nil, errClosed
		}
		return line, err
	}
}

// reply returns the next answer.
func (q *qmp) reply(ctx context.Context) (message, error) {
	select {
	case m := <-q.replies:
		return m, nil
	case <-q.stopped:
		select {
		case m := <-q.replies: // it came before the end
			return m, nil
		default:
		}
		return message{}, q.err
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
}

// greet waits for QEMU to be ready and leaves the negotiation.
func (q *qmp) greet(ctx context.Context) error {
	m, err := q.reply(ctx)
	if err != nil {
		return err
	}
	if m.QMP == nil {
		return errors.New("QEMU's control connection does not begin with a greeting")
	}
	return q.do(ctx, "qmp_capabilities", nil, nil)
}

// do sends a command and unmarshals what it returns into out.
func (q *qmp) do(ctx context.Context, command string, args, out any) error {
	return q.doWithFile(ctx, command, args, out, -1)
}

// doWithFile sends a descriptor with the command. A command that was given up while
// it was running ends the connection, because its late answer would be taken for
// that of the next one.
func (q *qmp) doWithFile(ctx context.Context, command string, args, out any, fd int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	// Short, because QEMU before 10 reads its monitor byte by byte.
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	if _, _, err := q.conn.WriteMsgUnix(b, rights, nil); err != nil {
		return errClosed
	}
	m, err := q.reply(ctx)
	if err != nil {
		if ctx.Err() != nil {
			_ = q.conn.Close()
		}
		return err
	}
	if m.Error != nil {
		return &Refused{command, m.Error.Class, ui.CleanTo(m.Error.Desc, 400)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(m.Return, out)
}

// give passes a descriptor to QEMU under a name that other commands use.
func (q *qmp) give(ctx context.Context, name string, fd int) error {
	return q.doWithFile(ctx, "getfd", map[string]string{"fdname": name}, nil, fd)
}
