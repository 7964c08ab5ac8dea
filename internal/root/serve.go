package root

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// Serve runs the helper: it executes the records that come on stdin, one after the
// other, until the other end is closed. stdin must be one end of a unix socket
// pair, made by the user who called sudo, or by root; the process must be root's.
func Serve(ctx context.Context, stdin *os.File, builders map[string]record.BuildFunc) error {
	if os.Geteuid() != 0 {
		return ui.Refused("root-apply is the privileged helper of aivm; only aivm itself starts it, through sudo").Hint(ui.Cmd("aivm --help"))
	}
	caller, err := sudoCaller(os.Getenv("SUDO_UID"))
	if err != nil {
		return err
	}
	conn, err := peer(stdin, caller)
	if err != nil {
		return err
	}
	defer conn.Close()

	// Ctrl-C and Ctrl-Z also reach this process, as part of the terminal's
	// foreground group. The client decides: it cancels by a record, or by closing
	// the socket. If this process were stopped while it holds a lock, it would block
	// every start of a network or VM on the machine. The signals are caught and not
	// ignored, because apt would inherit that they are ignored.
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGPIPE,
		syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)
	defer signal.Stop(sigs)
	// With its own process group, the programs it starts are not stopped either.
	// Where sudo gave this process a session it already leads its group.
	_ = unix.Setpgid(0, 0)

	s := &server{conn: conn, exec: executor{caller: caller, builders: builders}}
	return s.loop(ctx)
}

// sudoCaller parses SUDO_UID, the uid of the user who called sudo; -1 is root
// itself, without sudo.
func sudoCaller(v string) (int, error) {
	if v == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, ui.Refused("SUDO_UID is %q, not a number", v)
	}
	return n, nil
}

// peer returns stdin as a socket, if the caller of sudo or root made it.
func peer(stdin *os.File, caller int) (*net.UnixConn, error) {
	refused := func(err error) error {
		return ui.Refused("stdin of the privileged helper is not a socket of aivm's: %w", err).
			Hint(ui.Remark("if sudo logs input on this machine (log_input), exempt this command in sudoers"))
	}
	cred, err := unix.GetsockoptUcred(int(stdin.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, refused(err)
	}
	if caller >= 0 && int(cred.Uid) != caller && cred.Uid != 0 {
		return nil, refused(fmt.Errorf("uid %d made it, uid %d called sudo", cred.Uid, caller))
	}
	c, err := net.FileConn(stdin)
	if err != nil {
		return nil, refused(err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, refused(fmt.Errorf("it is %T", c))
	}
	return uc, nil
}

type server struct {
	conn *net.UnixConn
	exec executor
	mu   sync.Mutex // writes
}

func (s *server) loop(ctx context.Context) error {
	if err := s.send(reply{Hello: wireVersion}, nil); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// A job is a record and the context that its cancellation ends. The reader makes
	// the context: a cancel that follows at once must not be lost before the action.
	type job struct {
		request
		ctx    context.Context
		cancel context.CancelFunc
	}
	jobs := make(chan job)
	malformed := make(chan error, 1)
	go func() {
		// However reading ends, the running action must end too.
		defer stop()
		defer close(jobs)
		cancelLast := func() {}
		sc := bufio.NewScanner(s.conn)
		sc.Buffer(make([]byte, 0, 4096), maxLine)
		for sc.Scan() {
			var r request
			if err := record.StrictJSON(sc.Bytes(), &r); err != nil {
				malformed <- ui.Refused("malformed record: %w", err)
				return
			}
			if r.Cancel {
				cancelLast()
				continue
			}
			j := job{request: r}
			j.ctx, j.cancel = context.WithCancel(ctx)
			cancelLast = j.cancel
			select {
			case jobs <- j:
			case <-ctx.Done():
				j.cancel()
				return
			}
		}
	}()
	for j := range jobs {
		err := s.handle(j.ctx, j.request)
		j.cancel()
		if err != nil {
			return err
		}
	}
	select {
	case err := <-malformed:
		_ = s.send(reply{Error: wireError(err)}, nil) // the client may be gone
		return err
	default:
		return nil
	}
}

// handle runs one request and sends the reply. It returns only the errors of the
// connection.
func (s *server) handle(ctx context.Context, r request) error {
	op, err := record.Decode(r.Kind, r.Op)
	var res record.Result
	if err == nil {
		res, err = s.exec.run(ctx, op, func(line string, fraction float64) {
			_ = s.send(reply{Progress: &progressLine{line, fraction}}, nil) // a broken connection also fails the result
		})
	}
	if res.File != nil {
		defer res.File.Close()
	}
	if err != nil {
		return s.send(reply{Error: wireError(err)}, nil)
	}
	return s.send(reply{Result: &resultLine{Note: res.Note, File: res.File != nil}}, res.File)
}

func (s *server) send(r reply, f *os.File) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		_, err = s.conn.Write(b)
		return err
	}
	n, _, err := s.conn.WriteMsgUnix(b, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(b) {
		_, err = s.conn.Write(b[n:])
	}
	return err
}
