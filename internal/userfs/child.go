package userfs

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/userfs/jail"
	"aivm.dev/aivm/internal/userfs/relay"
	"aivm.dev/aivm/internal/userfs/tree"
)

// memoryGoal is what the server's garbage collector tries to stay below.
const memoryGoal = 96 << 20

// memoryLimit is how much the server can have at all: more than what the limits of package tree add up to.
const memoryLimit = 1 << 30

// Main is the server's process. args are its arguments without the name; it returns the exit status.
func Main(args []string) int {
	runtime.LockOSThread() // EnterLandlock restricts this thread, which then executes the program again
	unix.CloseOnExec(controlFD)
	file, err := fileOf(controlFD, "control")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r := &reporter{out: json.NewEncoder(file), seen: map[Written]bool{}}
	if err := serve(args, file, r); err != nil {
		r.send(event{Failed: err.Error()})
		return 1
	}
	return 0
}

func serve(args []string, control *os.File, r *reporter) error {
	var c settings
	if len(args) == 0 {
		return fmt.Errorf("this program is started by aivm run")
	}
	if err := json.Unmarshal([]byte(args[len(args)-1]), &c); err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	unix.Umask(0)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	if !c.Entered { // otherwise it is in force already
		if err := limitMemory(); err != nil {
			return fmt.Errorf("limiting the memory: %w", err)
		}
	}
	t, err := enter(c, r.changed)
	if err != nil {
		return err
	}
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(memoryGoal)
	debug.FreeOSMemory()
	r.send(event{Ready: true})
	failed := make(chan error, 2)
	go func() {
		_, _ = io.Copy(io.Discard, control) // the end of the socket, however it comes, is the sign to end
		failed <- nil
	}()
	go func() { failed <- transport(t) }()
	return <-failed
}

// limitMemory lets the kernel refuse more than memoryLimit of memory in addition to what the process
// has mapped: programs built with the race detector map much that they do not use.
func limitMemory() error {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 6 {
		return fmt.Errorf("/proc/self/statm has %d fields", len(fields))
	}
	pages, err := strconv.ParseUint(fields[5], 10, 64)
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &limit); err != nil {
		return err
	}
	limit.Max = min(limit.Max, pages*uint64(os.Getpagesize())+memoryLimit)
	limit.Cur = min(limit.Cur, limit.Max)
	return unix.Setrlimit(unix.RLIMIT_DATA, &limit)
}

// transport serves t to the guest until the guest's end is closed.
func transport(t *tree.Tree) error {
	// A blocking read takes one system call a request; through Go's poller it takes three.
	if err := unix.SetNonblock(transportFD, false); err != nil {
		return err
	}
	return relay.Serve(t, os.NewFile(transportFD, "guest"), debug.FreeOSMemory)
}

// enter takes the process into its jail, tries the jail, and returns the tree of the exports.
func enter(c settings, changed func(int, string)) (*tree.Tree, error) {
	var dirs []jail.Dir
	for i, e := range c.Exports {
		dirs = append(dirs, jail.Dir{Path: e.Dir, FD: exportFD + i, ReadOnly: e.ReadOnly})
	}
	fds, proc, err := confine(c, dirs)
	if err != nil {
		return nil, err
	}
	var exports []tree.Export
	for i, fd := range fds {
		exports = append(exports, tree.Export{Dir: fd, ReadOnly: c.Exports[i].ReadOnly})
	}
	t, err := tree.New(exports, proc, changed)
	if err != nil {
		return nil, err
	}
	if err := jail.Filter(); err != nil {
		return nil, err
	}
	if err := jail.Prove(c.Jail, fds); err != nil {
		return nil, err
	}
	return t, nil
}

// confine takes the process into its namespaces or its Landlock domain. For Landlock it executes the
// program again the first time, and does not return.
func confine(c settings, dirs []jail.Dir) (exports []int, proc int, err error) {
	switch {
	case c.Jail == jail.Namespaces:
		if exports, proc, err = jail.EnterNamespaces(dirs); err != nil {
			return nil, -1, err
		}
		return exports, proc, jail.DropCapabilities()
	case c.Jail != jail.Landlock:
		return nil, -1, fmt.Errorf("unknown jail %q", c.Jail)
	case c.Entered:
		for _, d := range dirs {
			unix.CloseOnExec(d.FD)
			exports = append(exports, d.FD)
		}
		proc, err = jail.OpenProc()
		return exports, proc, err
	}
	if err := jail.EnterLandlock(dirs); err != nil {
		return nil, -1, err
	}
	c.Entered = true
	arg, err := json.Marshal(c)
	if err != nil {
		return nil, -1, err
	}
	if _, err := unix.FcntlInt(controlFD, unix.F_SETFD, 0); err != nil {
		return nil, -1, err
	}
	return nil, -1, syscall.Exec("/proc/self/exe", append(os.Args[:len(os.Args)-1:len(os.Args)-1], string(arg)), os.Environ())
}

// reporter sends events to the process that started the server.
type reporter struct {
	mu   sync.Mutex
	out  *json.Encoder
	seen map[Written]bool
	cut  bool
}

func (r *reporter) send(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.out.Encode(e) // if nobody reads, the server is about to end
}

// changed reports a host-executed file that the guest changed, once.
func (r *reporter) changed(export int, rel string) {
	if _, ok := hostexec.Match(rel); !ok {
		return
	}
	w := Written{export, shorten(rel)}
	r.mu.Lock()
	defer r.mu.Unlock() // held until the event is sent: nobody changes a file that is known but not reported
	if r.seen[w] || r.cut {
		return
	}
	if len(r.seen) >= maxWritten {
		r.cut = true
	} else {
		r.seen[w] = true
	}
	_ = r.out.Encode(event{Written: true, Export: export, Path: []byte(w.Path), Cut: r.cut}) // as in send
}
