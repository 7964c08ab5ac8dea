package userstack

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"aivm.dev/aivm/internal/userstack/confine"
	"golang.org/x/sys/unix"
)

const (
	linkFD   = 3
	maxFiles = maxFlows + 256 // connections, DNS questions, and the process's own
)

// Main is the network process: it reads its settings from stdin, confines itself, and
// carries the VM's frames until QEMU or the parent closes its end. It returns the exit
// status.
func Main([]string) int {
	if err := serve(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "network: %v\n", err)
		return 1
	}
	return 0
}

func serve(control io.Reader, ready io.Writer, log io.Writer) error {
	if err := limits(); err != nil {
		return err
	}
	file := os.NewFile(linkFD, "link")
	if file == nil {
		return errors.New("no socket to QEMU")
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("the socket to QEMU: %w", err)
	}
	_ = file.Close()
	if unixConn, ok := conn.(*net.UnixConn); ok {
		_ = unixConn.SetReadBuffer(framesBuffer)
		_ = unixConn.SetWriteBuffer(framesBuffer)
	}
	if err := confine.Calls(); err != nil {
		return err
	}
	if f, err := os.Open("/"); err == nil {
		_ = f.Close()
		return errors.New("the process can open files although it is confined")
	}
	lines := bufio.NewReader(control)
	first, err := readSettings(lines)
	if err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	e, err := newEngine(conn, first, log)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(ready, "ready"); err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- e.run() }()
	go func() {
		for {
			s, err := readSettings(lines)
			if err != nil {
				ended <- nil // the parent closed its end
				return
			}
			e.resolver.servers.Store(&s.Resolvers)
		}
	}()
	return <-ended
}

// limits bounds what the process can take from this machine: open files, no core dumps,
// no files written, and no look into its memory.
func limits() error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	files.Max = min(files.Max, maxFiles)
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limiting open files: %w", err)
	}
	for _, resource := range []int{unix.RLIMIT_CORE, unix.RLIMIT_FSIZE} {
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{}); err != nil {
			return fmt.Errorf("setting a resource limit: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("closing the process's memory: %w", err)
	}
	return nil
}

func readSettings(lines *bufio.Reader) (settings, error) {
	var s settings
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return s, err
	}
	err = json.Unmarshal(line, &s)
	return s, err
}
