package userfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/userfs/jail"
)

// Arg0 is the name of the server's process: main calls Main if it was started under this name.
const Arg0 = "aivm-folder-server"

// Limits of what the server reports.
const (
	maxExports = 64
	maxWritten = 1000
	startTime  = 10 * time.Second
	endTime    = 2 * time.Second
)

// An Export is a folder of the host.
type Export struct {
	Dir      string // an absolute path
	ReadOnly bool
}

// A Config says what to serve, and through which transport.
type Config struct {
	Exports   []Export
	Relay     *os.File    // the host's end of the stream; Start closes it
	VhostUser *os.File    // refused: virtio-fs is not implemented
	Program   []string    // this program, by default /proc/self/exe
	Jails     []jail.Kind // those to try, by default all
}

// A Written is a host-executed file (package hostexec) that the guest created, changed, renamed or
// removed.
type Written struct {
	Export int
	Path   string // relative to the export; any bytes
}

// A Server is a running folder server.
type Server struct {
	jail    jail.Kind
	pid     int
	exports int
	control *control
	done    chan struct{}

	mu      sync.Mutex
	err     error
	written []Written
	cut     bool
}

// Start starts a server and returns when it is in its jail and the jail has been tried. It tries the
// jails in their order; if none holds, it fails and nothing is served.
func Start(ctx context.Context, c Config) (*Server, error) {
	transport, err := c.transport()
	if err != nil {
		return nil, err
	}
	defer transport.Close()
	dirs, err := openExports(c.Exports)
	if err != nil {
		return nil, err
	}
	defer closeAll(dirs)
	kinds := c.Jails
	if kinds == nil {
		kinds = []jail.Kind{jail.Namespaces, jail.Landlock}
	}
	var reasons []string
	for _, kind := range kinds {
		s, err := start(ctx, c, kind, transport, dirs)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", kind, err))
	}
	return nil, noJail(reasons)
}

// transport returns the guest's end of the configured transport.
func (c *Config) transport() (*os.File, error) {
	switch {
	case c.VhostUser != nil:
		c.VhostUser.Close()
		if c.Relay != nil {
			c.Relay.Close()
		}
		return nil, errors.New("the folder server has no vhost-user transport; use the relay")
	case c.Relay == nil:
		return nil, errors.New("the folder server has no transport")
	}
	return c.Relay, nil
}

// noJail is the error of a host on which the server cannot be confined.
func noJail(reasons []string) error {
	return ui.Refused("the folder server cannot be confined on this machine (%s)", strings.Join(reasons, "; ")).Hint(
		ui.Remark("allow unprivileged user namespaces, or start the kernel with Landlock enabled (lsm=landlock,...)"),
		ui.CmdFor("or run without a folder", "aivm run --workspace none -- true"),
	)
}

// openExports opens the exports. Their paths have no links: the caller has resolved them, so a link is
// one that appeared since, and could lead to a folder the user has not agreed to.
func openExports(exports []Export) ([]*os.File, error) {
	if len(exports) == 0 || len(exports) > maxExports {
		return nil, fmt.Errorf("a folder server has 1 to %d exports, not %d", maxExports, len(exports))
	}
	var dirs []*os.File
	for _, e := range exports {
		fd, err := unix.Openat2(unix.AT_FDCWD, e.Dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
		if err != nil {
			closeAll(dirs)
			if err == unix.ELOOP {
				return nil, ui.Refused("the path of the folder %s contains a symbolic link, which was not there before", e.Dir).Hint(
					ui.Remark("find out who replaced the folder, or name it by its real path"))
			}
			return nil, fmt.Errorf("opening the folder %s: %w", e.Dir, err)
		}
		dirs = append(dirs, os.NewFile(uintptr(fd), e.Dir))
	}
	return dirs, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Jail returns the jail the server is in.
func (s *Server) Jail() jail.Kind { return s.jail }

// PID returns the process id of the server.
func (s *Server) PID() int { return s.pid }

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the server ended, nil if it runs or ended because the guest's end was closed.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Written returns the host-executed files that the guest changed so far, and whether there are more
// than the server remembers. After Close the list is final.
func (s *Server) Written() (files []Written, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.written), s.cut
}

// Close ends the server, and waits for its end.
func (s *Server) Close() error {
	s.control.end()
	select {
	case <-s.done:
	case <-time.After(endTime):
		_ = syscall.Kill(s.pid, syscall.SIGKILL) // if it fails, the process has just ended
		<-s.done
	}
	return s.Err()
}

// A JailReport says whether a jail holds on this machine.
type JailReport struct {
	Kind jail.Kind
	Err  error // why not, nil if it holds
}

// Jails tries all jails by starting a server of an empty folder in each.
func Jails(ctx context.Context) []JailReport {
	var reports []JailReport
	for _, kind := range []jail.Kind{jail.Namespaces, jail.Landlock} {
		reports = append(reports, JailReport{kind, try(ctx, kind)})
	}
	return reports
}

func try(ctx context.Context, kind jail.Kind) error {
	dir, err := os.MkdirTemp("", "aivm-jail-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	host, guest := os.NewFile(uintptr(ends[0]), "host"), os.NewFile(uintptr(ends[1]), "guest")
	defer host.Close()
	defer guest.Close()
	dirs, err := openExports([]Export{{Dir: dir}})
	if err != nil {
		return err
	}
	defer closeAll(dirs)
	s, err := start(ctx, Config{Exports: []Export{{Dir: dir}}, Relay: host}, kind, host, dirs)
	if err != nil {
		return err
	}
	return s.Close()
}
