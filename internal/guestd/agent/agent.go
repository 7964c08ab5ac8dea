// Package agent is the program in a one-shot VM that starts everything else: as
// /init of aivm's initrd it mounts the root file system and stays process 1; then it
// serves one connection of the host after another on a virtio-serial port.
//
// It is saved in a template's memory and resumed many times. So it draws no random
// numbers, and everything that identifies a guest comes with the Setup request.
package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// Main runs the agent, and returns its exit status:
//
//	/init              as process 1 of a VM
//	agent serve FD     on an open socket, for tests: without anything only process 1 may do
//	agent lead         leads the session of a terminal (terminal.go)
//	agent relay        passes on the messages of the folder server (relay.go)
func Main(args []string) int {
	// Threads wait in system calls: there is always a processor for the one that returns.
	runtime.GOMAXPROCS(max(4, runtime.NumCPU()))
	debug.SetGCPercent(400)
	switch {
	case len(args) > 1 && args[1] == "relay":
		runtime.GOMAXPROCS(2) // one for each direction
		return relayMain()
	case len(args) > 1 && args[1] == "lead":
		return lead()
	case len(args) > 2 && args[1] == "serve":
		return serveSocket(args[2])
	case os.Getpid() == 1:
		return initMain()
	}
	fmt.Fprintln(os.Stderr, "this is the agent in aivm's one-shot VMs; it runs as process 1 there")
	return 2
}

// serveSocket serves connections until the socket is closed.
func serveSocket(number string) int {
	fd, err := strconv.Atoi(number)
	if err != nil {
		return 2
	}
	unix.CloseOnExec(fd)
	s := newServer(fd, false)
	for err == nil {
		err = s.serve()
	}
	if !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// initMain is the life of process 1. An error powers the VM off, which the host sees
// at once; its reason is on the console.
func initMain() int {
	fd, err := boot()
	if err == nil {
		s := newServer(fd, true)
		for err == nil {
			err = s.serve()
		}
	}
	logf("%v", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	return 1
}

// logf writes a line to the kernel's log, which is on the console.
func logf(format string, args ...any) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		f = os.Stderr
	} else {
		defer f.Close()
	}
	fmt.Fprintf(f, "<3>aivm: "+format+"\n", args...)
}
