// Package program runs external programs with root's rights.
//
// It searches the system directories first, runs each program in its own process
// group, and returns the last output of a failed one.
package program

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// Find returns the path of a program. It searches the system directories before PATH.
func Find(name string) (string, error) {
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"} {
		p := dir + "/" + name
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", ui.Refused("program %q is not installed", name)
	}
	return p, nil
}

// A Command is one run of an external program as root.
type Command struct {
	Argv  []string
	Env   []string // added to the environment
	Stdin []byte
	Files []*os.File   // descriptors 3 and up
	Line  func(string) // if set, called for each line of stdout
}

// StopGrace is how long a program may take to end after SIGINT: dpkg finishes the
// package it is processing.
const StopGrace = 60 * time.Second

// outputLimit is how much of a program's output, and of one line of it, is kept, in
// bytes.
const outputLimit = 1 << 20

// Run runs the program to its end and returns the end of its stdout. It runs in its
// own process group, so that Ctrl-C reaches it only through ctx. The error of a failed
// program has argv, exit status and the last lines of stderr.
func (p Command) Run(ctx context.Context) ([]byte, error) {
	path, err := Find(p.Argv[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, p.Argv[1:]...)
	cmd.Env = append(os.Environ(), append([]string{"LC_ALL=C.UTF-8"}, p.Env...)...)
	cmd.ExtraFiles = p.Files
	if p.Stdin != nil {
		cmd.Stdin = bytes.NewReader(p.Stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = StopGrace
	out, errs := capture.Tail{Limit: outputLimit}, capture.Tail{Limit: 4096}
	cmd.Stdout, cmd.Stderr = &out, &errs
	if p.Line != nil {
		cmd.Stdout = io.MultiWriter(&out, &capture.Lines{Limit: outputLimit, Each: p.Line})
	}
	err = cmd.Run()
	if err == nil {
		return []byte(out.String()), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	// A daemon that keeps the pipes open does not make the program fail.
	if errors.Is(err, exec.ErrWaitDelay) {
		return []byte(out.String()), nil
	}
	last := capture.LastLines(errs.String(), 6, "; ")
	if last == "" {
		last = capture.LastLines(out.String(), 6, "; ")
	}
	return nil, ui.Failed("%s: %w: %s", strings.Join(p.Argv, " "), err, last)
}
