package root

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

// A program is one run of an external program as root.
type program struct {
	argv  []string
	env   []string // added to the environment
	stdin []byte
	files []*os.File // descriptors 3 and up
	line  func(string)
}

// stopGrace is how long a program may take to end after it was told to: dpkg
// finishes the package it is at.
const stopGrace = 60 * time.Second

// run runs p to its end and returns what it printed on stdout. It has a
// process group of its own, so that Ctrl-C reaches it only through ctx, and a
// failure carries argv, exit status and the last lines of stderr.
func (p program) run(ctx context.Context) ([]byte, error) {
	path, err := lookProgram(p.argv[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, p.argv[1:]...)
	cmd.Env = append(os.Environ(), append([]string{"LC_ALL=C.UTF-8"}, p.env...)...)
	cmd.ExtraFiles = p.files
	if p.stdin != nil {
		cmd.Stdin = bytes.NewReader(p.stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = stopGrace
	out, errs := capture.Tail{Limit: maxLine}, capture.Tail{Limit: 4096}
	cmd.Stdout, cmd.Stderr = &out, &errs
	if p.line != nil {
		cmd.Stdout = io.MultiWriter(&out, &lineWriter{each: p.line})
	}
	err = cmd.Run()
	if err == nil {
		return []byte(out.String()), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	// A daemon that keeps the pipes open is no failure of the program.
	if errors.Is(err, exec.ErrWaitDelay) {
		return []byte(out.String()), nil
	}
	last := capture.LastLines(errs.String(), 6, "; ")
	if last == "" {
		last = capture.LastLines(out.String(), 6, "; ")
	}
	return nil, ui.Failed("%s: %w: %s", strings.Join(p.argv, " "), err, last)
}

// lineWriter calls each with every whole line.
type lineWriter struct {
	rest []byte
	each func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			if len(w.rest) > maxLine {
				w.rest = nil
			}
			return len(p), nil
		}
		w.each(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
}
