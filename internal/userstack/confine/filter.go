package confine

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// anyArgs are the system calls allowed with any arguments, on every architecture: what
// Go's runtime needs, and reading, writing and connecting sockets. Nothing that opens a
// file, starts a program, listens or changes another process.
var anyArgs = []uintptr{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_CLOSE, unix.SYS_FSTAT,
	unix.SYS_MUNMAP, unix.SYS_BRK, unix.SYS_MADVISE, unix.SYS_MINCORE,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX, unix.SYS_SCHED_YIELD,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_GETRANDOM,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_PPOLL,
	unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_FCNTL,
	unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
	unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SHUTDOWN,
}

// Offsets in struct seccomp_data; arguments are read by their low 32 bits.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// program is a filter in the making.
type program []unix.SockFilter

func (p *program) add(code uint16, k uint32, jt, jf uint8) {
	*p = append(*p, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
}

func (p *program) load(offset uint32)  { p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (p *program) result(value uint32) { p.add(unix.BPF_RET|unix.BPF_K, value, 0, 0) }

// call adds a block for one system call; body leaves the result for it.
func (p *program) call(number uintptr, body func(*program)) {
	var b program
	body(&b)
	p.load(offsetCall)
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, uint32(number), 0, uint8(len(b)))
	*p = append(*p, b...)
}

// oneOf allows the call when an argument has one of the values.
func oneOf(arg int, values ...uint32) func(*program) {
	return func(p *program) {
		p.load(offsetArgs + uint32(arg)*8)
		for _, v := range values {
			p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, v, 0, 1)
			p.result(unix.SECCOMP_RET_ALLOW)
		}
		p.result(refuse)
	}
}

// without allows the call when an argument has none of the bits.
func without(arg int, bits uint32) func(*program) {
	return func(p *program) {
		p.load(offsetArgs + uint32(arg)*8)
		p.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, bits, 1, 0)
		p.result(unix.SECCOMP_RET_ALLOW)
		p.result(refuse)
	}
}

const refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)

// filter returns the seccomp program for the process with the given id.
func filter(pid int) []unix.SockFilter {
	var p program
	p.load(offsetArch)
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, auditArch, 1, 0)
	p.result(unix.SECCOMP_RET_KILL_PROCESS)
	for _, number := range slices.Concat(anyArgs, archCalls) {
		p.call(number, func(b *program) { b.result(unix.SECCOMP_RET_ALLOW) })
	}
	p.call(unix.SYS_MMAP, without(2, unix.PROT_EXEC))
	p.call(unix.SYS_MPROTECT, without(2, unix.PROT_EXEC))
	p.call(unix.SYS_IOCTL, oneOf(1, unix.TIOCINQ))
	p.call(unix.SYS_TGKILL, oneOf(0, uint32(pid)))
	// Threads only, in the namespaces there are.
	p.call(unix.SYS_CLONE, func(b *program) {
		b.load(offsetArgs)
		b.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP|unix.CLONE_NEWUTS|
			unix.CLONE_NEWIPC|unix.CLONE_NEWUSER|unix.CLONE_NEWPID|unix.CLONE_NEWNET, 2, 0)
		b.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, unix.CLONE_THREAD, 0, 1)
		b.result(unix.SECCOMP_RET_ALLOW)
		b.result(refuse)
	})
	p.call(unix.SYS_CLONE3, func(b *program) { // libc then takes clone
		b.result(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	})
	// Internet sockets, and netlink for the list of this machine's addresses. No Unix
	// sockets: the session bus is one.
	p.call(unix.SYS_SOCKET, func(b *program) {
		equal := func(value uint32, yes, no uint8) { b.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, value, yes, no) }
		b.load(offsetArgs + 16) // the protocol
		equal(0, 2, 0)          // that of the type; also NETLINK_ROUTE
		equal(unix.IPPROTO_TCP, 1, 0)
		b.result(refuse)
		b.load(offsetArgs) // the family
		equal(unix.AF_NETLINK, 3, 0)
		equal(unix.AF_INET, 3, 0)
		equal(unix.AF_INET6, 2, 0)
		b.result(refuse)
		b.result(unix.SECCOMP_RET_ALLOW)
		b.load(offsetArgs + 8) // the type, without SOCK_NONBLOCK and SOCK_CLOEXEC
		b.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0xf, 0, 0)
		equal(unix.SOCK_STREAM, 1, 0)
		equal(unix.SOCK_DGRAM, 0, 1)
		b.result(unix.SECCOMP_RET_ALLOW)
		b.result(refuse)
	})
	p.result(refuse)
	return p
}

// Calls leaves the process, in all its threads, only the system calls of a program that
// copies between sockets; the others fail with EPERM. It fails where the kernel has no
// seccomp filters.
func Calls() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	code := filter(unix.Getpid())
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fmt.Errorf("installing the seccomp filter: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("installing the seccomp filter: thread %d has another one", thread)
	}
	return nil
}
