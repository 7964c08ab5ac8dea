// Package program runs other people's programs with root's rights.
//
// It looks for them in the usual directories first, gives each a process group
// of its own, and returns what a failed one said last.
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

// Look finds a program in the usual places first, whatever PATH says.
func Look(name string) (string, error) {
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
	Files []*os.File // descriptors 3 and up
	Line  func(string)
}

// StopGrace is how long a program may take to end after it was told to: dpkg
// finishes the package it is at.
const StopGrace = 60 * time.Second

// outputLimit bounds what is kept of a program's output, and one line of it.
const outputLimit = 1 << 20

// Run runs p to its end and returns what it printed on stdout. It has a
// process group of its own, so that Ctrl-C reaches it only through ctx, and a
// failure carries argv, exit status and the last lines of stderr.
func (p Command) Run(ctx context.Context) ([]byte, error) {
	path, err := Look(p.Argv[0])
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
	// A daemon that keeps the pipes open is no failure of the program.
	if errors.Is(err, exec.ErrWaitDelay) {
		return []byte(out.String()), nil
	}
	last := capture.LastLines(errs.String(), 6, "; ")
	if last == "" {
		last = capture.LastLines(out.String(), 6, "; ")
	}
	return nil, ui.Failed("%s: %w: %s", strings.Join(p.Argv, " "), err, last)
}
