package ui

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// Streams writes all output of a run and reads all answers. The zero value of every
// unexported field is usable, so tests build it as a literal. It must not be copied.
// All methods may be called from any goroutine.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// InTTY, OutTTY and ErrTTY tell which of the three is a terminal. Questions need
	// InTTY, live progress needs ErrTTY.
	InTTY, OutTTY, ErrTTY bool
	// Dumb marks a terminal that cannot move its cursor (TERM=dumb); progress is then
	// printed as plain lines.
	Dumb bool
	// JSON prints results as objects, and an error as one object on stderr. Messages and
	// progress are then left out unless stderr is a terminal, so that a program that
	// reads stderr gets only JSON.
	JSON    bool
	Quiet   bool
	Verbose int
	Color   bool

	mu        sync.Mutex // guards the fields below, and every write to Err and Out
	tasks     []*task    // the last one is drawn
	drawn     string     // the live line on the screen, "" if none
	suspended int        // > 0 while a prompt or a child process uses the terminal
}

// Std returns the streams of this process. Colour is used on a terminal, unless
// NO_COLOR is set and not empty (no-color.org) or TERM is "dumb".
func Std() *Streams {
	tty := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	s := &Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY: tty(os.Stdin), OutTTY: tty(os.Stdout), ErrTTY: tty(os.Stderr),
		Dumb: os.Getenv("TERM") == "dumb",
	}
	s.Color = s.ErrTTY && !s.Dumb && os.Getenv("NO_COLOR") == ""
	return s
}

// Say prints a message on stderr, except with -q.
func (s *Streams) Say(format string, args ...any) {
	if s.silent() {
		return
	}
	s.write(s.Err, CleanLines(fmt.Sprintf(format, args...)))
}

// Result prints a result on stdout, cleaned. Bytes that must not be changed (a file, a
// remote command's output) are written to Out directly instead.
func (s *Streams) Result(format string, args ...any) {
	s.write(s.Out, CleanLines(fmt.Sprintf(format, args...)))
}

// Warn prints a warning on stderr, also with -q. With JSON it is one object on a line of
// its own: {"schema":1,"warning":{"message":...}}.
func (s *Streams) Warn(format string, args ...any) {
	text := oneLine(fmt.Sprintf(format, args...))
	if s.JSON {
		s.writeJSON(s.Err, false, map[string]any{"schema": 1, "warning": map[string]string{"message": text}})
		return
	}
	s.write(s.Err, s.paint("33", "warning:")+" "+text)
}

// Suspend removes the live line from the screen until resume is called, for a child
// process that uses the terminal (sudo, ssh). Calls nest.
func (s *Streams) Suspend() (resume func()) {
	s.mu.Lock()
	s.suspended++
	s.erase()
	s.mu.Unlock()
	var once sync.Once
	return func() {
		once.Do(func() {
			s.mu.Lock()
			s.suspended--
			s.draw()
			s.mu.Unlock()
		})
	}
}

// silent reports whether messages and progress are left out.
func (s *Streams) silent() bool { return s.Quiet || (s.JSON && !s.ErrTTY) }

func (s *Streams) paint(code, text string) string {
	if !s.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// write erases the live line, writes text with a newline at its end, and redraws the live
// line. A write error (closed pipe) is ignored: there is no place to report it.
func (s *Streams) write(w io.Writer, text string) {
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	_, _ = io.WriteString(sink(w), text)
	s.draw()
}

// sink returns w, or io.Discard if a Streams literal leaves the stream out.
func sink(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
