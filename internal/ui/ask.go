package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAnswer is the maximum length of an answer, in bytes.
const maxAnswer = 4096

// Confirm asks a yes-or-no question and reads one line. An empty answer is the default,
// an unclear one is asked again, and the end of input means no. If stdin is not a
// terminal, it returns an approval error (exit status 3).
func (s *Streams) Confirm(ctx context.Context, question string, defaultYes bool) (bool, error) {
	choice, otherwise := "[y/N]", No
	if defaultYes {
		choice, otherwise = "[Y/n]", Yes
	}
	answer, err := s.answer(ctx, question, choice, "please answer y or n:", otherwise, map[string]Answer{})
	return answer == Yes, err
}

// An Answer is what ConfirmOrEdit returns.
type Answer int

// The answers.
const (
	No Answer = iota
	Yes
	Edit
)

// ConfirmOrEdit asks as Confirm does, with Yes as the default, and accepts e for Edit.
func (s *Streams) ConfirmOrEdit(ctx context.Context, question string) (Answer, error) {
	return s.answer(ctx, question, "[Y/e/n]", "please answer y, e or n:", Yes, map[string]Answer{"e": Edit, "edit": Edit})
}

// answer asks until an answer is clear: y, n, one of more, or none, which is otherwise.
func (s *Streams) answer(ctx context.Context, question, choice, again string, otherwise Answer, more map[string]Answer) (Answer, error) {
	for {
		line, err := s.prompt(ctx, question, choice+" ")
		if errors.Is(err, io.EOF) {
			return No, nil
		}
		if err != nil {
			return No, err
		}
		line = strings.ToLower(strings.TrimSpace(line))
		switch line {
		case "":
			return otherwise, nil
		case "y", "yes":
			return Yes, nil
		case "n", "no":
			return No, nil
		}
		if other, ok := more[line]; ok {
			return other, nil
		}
		choice = again
	}
}

// AskLine asks for one line, such as a VM's name, and returns it without surrounding
// white space.
func (s *Streams) AskLine(ctx context.Context, question string) (string, error) {
	answer, err := s.prompt(ctx, question, "")
	if errors.Is(err, io.EOF) {
		return "", NeedsApproval("no answer to: %s", Clean(question))
	}
	return strings.TrimSpace(answer), err
}

// Choose shows a numbered menu and returns the index of the chosen item. It asks again
// after an invalid answer.
func (s *Streams) Choose(ctx context.Context, question string, items []string) (int, error) {
	if len(items) == 0 {
		return 0, Failed("nothing to choose from: %s", Clean(question))
	}
	var menu strings.Builder
	menu.WriteString(CleanLines(question) + "\n")
	for i, it := range items {
		fmt.Fprintf(&menu, "  %d) %s\n", i+1, Clean(it))
	}
	ask := menu.String()
	for {
		answer, err := s.ask(ctx, question, ask+fmt.Sprintf("number [1-%d]: ", len(items)))
		if errors.Is(err, io.EOF) {
			return 0, NeedsApproval("no answer to: %s", Clean(question))
		}
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(answer))
		if err == nil && n >= 1 && n <= len(items) {
			return n - 1, nil
		}
		ask = fmt.Sprintf("%q is not in the list; ", CleanTo(strings.TrimSpace(answer), 40))
	}
}

func (s *Streams) prompt(ctx context.Context, question, tail string) (string, error) {
	return s.ask(ctx, question, CleanLines(question)+" "+tail)
}

// ask shows text and reads one line. The live line is hidden until then. After an error,
// such as Ctrl-C, a line feed ends the line of the prompt.
func (s *Streams) ask(ctx context.Context, question, text string) (string, error) {
	if !s.InTTY {
		return "", NeedsApproval("there is no terminal to ask on: %s", Clean(question))
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	defer s.Suspend()()
	s.mu.Lock()
	_, err := io.WriteString(sink(s.Err), text)
	s.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("writing the question: %w", err)
	}
	line, err := readLine(ctx, s.In)
	if err != nil {
		s.mu.Lock()
		_, _ = io.WriteString(sink(s.Err), "\n")
		s.mu.Unlock()
	}
	return line, err
}

// readLine reads exactly one line, byte by byte, since the bytes after it are for the
// next reader, which may be a child process. The end of input ends the line; if no byte
// came before it, the error is io.EOF.
func readLine(ctx context.Context, r io.Reader) (string, error) {
	next, stop, err := byteReader(ctx, r)
	if err != nil {
		return "", err
	}
	defer stop()
	var line []byte
	for {
		b, err := next()
		switch {
		case errors.Is(err, io.EOF) && len(line) > 0:
			return string(line), nil
		case err != nil:
			return "", err
		case b == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		if line = append(line, b); len(line) > maxAnswer {
			return "", Usage("the answer is longer than %d bytes", maxAnswer)
		}
	}
}

// byteReader returns a function that reads one byte of r and fails when ctx is done. A
// read from a terminal cannot be interrupted, so a file is polled together with a pipe
// to which the cancellation writes. A goroutine that blocks in the read would remain and
// consume the next line typed.
func byteReader(ctx context.Context, r io.Reader) (next func() (byte, error), stop func(), err error) {
	f, ok := r.(*os.File)
	if !ok {
		return func() (byte, error) { return readDetached(ctx, r) }, func() {}, nil
	}
	wakeR, wakeW, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("waiting for an answer: %w", err)
	}
	woken := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		_, _ = wakeW.Write([]byte{0})
		close(woken)
	})
	stop = func() {
		if !unhook() {
			<-woken
		}
		_ = wakeR.Close()
		_ = wakeW.Close()
	}
	next = func() (byte, error) {
		if err := waitReadable(f, wakeR); err != nil {
			return 0, err
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		var b [1]byte
		_, err := io.ReadFull(f, b[:])
		return b[0], err
	}
	return next, stop, nil
}

// waitReadable waits until f or wake can be read.
func waitReadable(f, wake *os.File) error {
	fc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	wc, err := wake.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	err = fc.Control(func(fd uintptr) {
		pollErr = wc.Control(func(wfd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wfd), Events: unix.POLLIN}}
			for {
				_, err = unix.Poll(fds, -1)
				if !errors.Is(err, unix.EINTR) {
					return
				}
			}
		})
	})
	return errors.Join(err, pollErr)
}

// readDetached reads one byte of a reader that is not a file (tests, pipes in memory). If
// ctx ends first, the goroutine that reads remains until r delivers a byte or is closed.
func readDetached(ctx context.Context, r io.Reader) (byte, error) {
	type answer struct {
		b   byte
		err error
	}
	got := make(chan answer, 1)
	go func() {
		var b [1]byte
		_, err := io.ReadFull(r, b[:])
		got <- answer{b[0], err}
	}()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case a := <-got:
		return a.b, a.err
	}
}
