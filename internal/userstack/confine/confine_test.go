package confine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stage is set in the environment of a test process that confines itself and reports.
const stage = "AIVM_TEST_CONFINED"

func TestMain(m *testing.M) {
	if os.Getenv(stage) != "" {
		confined()
		return
	}
	os.Exit(m.Run())
}

// confined tries what a confined process must not do, and what it must, and prints what
// is not as it should be.
func confined() {
	ppid := os.Getppid()
	if os.Getenv(stage) == "files" { // Landlock alone, inherited
		if _, err := os.ReadFile("/etc/passwd"); !errors.Is(err, syscall.EACCES) {
			fmt.Println("reading /etc/passwd:", err)
		}
		if err := os.WriteFile("/tmp/aivm-test-confined", nil, 0o600); !errors.Is(err, syscall.EACCES) {
			fmt.Println("writing to /tmp:", err)
		}
		if _, err := os.ReadDir("/"); !errors.Is(err, syscall.EACCES) {
			fmt.Println("listing /:", err)
		}
		fmt.Println("done")
		return
	}
	if err := Calls(); err != nil {
		fmt.Println(err)
		return
	}
	refused := func(what string, err error) {
		if !errors.Is(err, syscall.EPERM) {
			fmt.Printf("%s: %v\n", what, err)
		}
	}
	call := func(what string, number uintptr, args ...uintptr) {
		args = append(args, 0, 0, 0, 0, 0, 0)
		_, _, errno := unix.RawSyscall6(number, args[0], args[1], args[2], args[3], args[4], args[5])
		refused(what, errno)
	}
	for range 8 { // in whichever thread
		_, err := os.Open("/proc/self/maps")
		refused("opening a file", err)
		runtime.Gosched()
	}
	_, err := os.Stat("/")
	refused("stat", err)
	refused("unlink", os.Remove("/tmp/x"))
	refused("exec", unix.Exec("/bin/true", []string{"true"}, nil))
	call("fork", unix.SYS_CLONE, uintptr(unix.SIGCHLD))
	call("a new user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	call("a thread in a new network namespace", unix.SYS_CLONE, unix.CLONE_THREAD|unix.CLONE_NEWNET)
	refused("kill of the parent", unix.Kill(ppid, 0))
	refused("tgkill of the parent", unix.Tgkill(ppid, ppid, 0))
	call("ptrace", unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(ppid))
	call("process_vm_readv", unix.SYS_PROCESS_VM_READV, uintptr(ppid))
	call("pidfd_open", unix.SYS_PIDFD_OPEN, uintptr(ppid))
	call("io_uring", unix.SYS_IO_URING_SETUP, 1)
	call("bpf", unix.SYS_BPF)
	call("listen", unix.SYS_LISTEN)
	call("memory that is writable and executable", unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE, ^uintptr(0))
	for what, s := range map[string][3]int{
		"a Unix socket":   {unix.AF_UNIX, unix.SOCK_STREAM, 0},
		"a raw socket":    {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP},
		"a packet socket": {unix.AF_PACKET, unix.SOCK_DGRAM, 0},
		"netlink audit":   {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT},
		"vsock":           {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		"SCTP":            {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP},
	} {
		_, err := unix.Socket(s[0], s[1], s[2])
		refused(what, err)
	}
	_, err = unix.IoctlGetInt(0, unix.TIOCSTI)
	refused("TIOCSTI", err)

	addrs, err := net.InterfaceAddrs()
	if err != nil || len(addrs) == 0 {
		fmt.Println("addresses:", addrs, err)
	}
	if _, err := net.Dial("tcp4", "127.0.0.1:9"); err == nil || !strings.Contains(err.Error(), "refused") {
		fmt.Println("connecting:", err)
	}
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		fmt.Println("UDP:", err)
	} else {
		_ = c.Close()
	}
	done := make(chan []byte)
	for range 32 { // memory and threads are still to be had
		go func() { runtime.LockOSThread(); done <- make([]byte, 1<<20) }()
	}
	for range 32 {
		<-done
	}
	runtime.GC()
	fmt.Println("done")
}

// again starts the test program in a stage, with prepare run in the starting thread, and
// returns what it says.
func again(t *testing.T, name string, prepare func() error) string {
	t.Helper()
	type result struct {
		out []byte
		err error
	}
	ended := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: it may be confined
		if err := prepare(); err != nil {
			ended <- result{nil, err}
			return
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{stage + "=" + name}
		stdin, err := cmd.StdinPipe() // without one, /dev/null would be opened
		if err != nil {
			ended <- result{nil, err}
			return
		}
		defer stdin.Close()
		out, err := cmd.CombinedOutput()
		ended <- result{out, err}
	}()
	r := <-ended
	if r.err != nil {
		t.Fatalf("%v: %s", r.err, r.out)
	}
	return string(r.out)
}

func TestCalls(t *testing.T) {
	if got := again(t, "calls", func() error { return nil }); got != "done\n" {
		t.Errorf("in the confined process:\n%s", got)
	}
}

func TestFilesThread(t *testing.T) {
	var version int
	got := again(t, "files", func() (err error) { version, err = FilesThread("/proc/self/exe"); return err })
	if version == 0 {
		t.Skip("the kernel has no Landlock")
	}
	if got != "done\n" {
		t.Errorf("in the confined process:\n%s", got)
	}
	if _, err := os.ReadFile("/etc/passwd"); err != nil {
		t.Errorf("the starting process is confined too: %v", err)
	}
}

func TestFilterFits(t *testing.T) {
	code := filter(1)
	if len(code) > unix.BPF_MAXINSNS {
		t.Errorf("%d instructions", len(code))
	}
	for i, c := range code {
		if c.Code&0x07 == unix.BPF_JMP && i+1+int(max(c.Jt, c.Jf)) >= len(code) {
			t.Errorf("instruction %d jumps out of the program", i)
		}
	}
}
