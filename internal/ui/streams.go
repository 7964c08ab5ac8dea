package ui

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// Streams is where everything a person or a program sees goes through. The zero
// value of every unexported field is ready, so tests build it as a literal.
// It must not be copied. All methods may be called from any goroutine.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// InTTY, OutTTY and ErrTTY say which of the three is a terminal. Questions
	// need InTTY, live progress ErrTTY.
	InTTY, OutTTY, ErrTTY bool
	// Dumb marks a terminal that cannot move its cursor (TERM=dumb): progress
	// is then written as plain lines.
	Dumb bool
	// JSON: results are objects, errors one object on stderr. Talk and progress
	// are then silent unless a person watches stderr, so that what a program
	// collects from it parses.
	JSON    bool
	Quiet   bool
	Verbose int
	Color   bool

	mu    sync.Mutex // guards what follows, and every write to Err and Out
	tasks []*task    // the last one that is not suspended is drawn
	drawn string     // the live line on the screen, "" if none
	held  int        // > 0 while somebody else has the terminal
}

// Std returns the streams of this process. Colour needs a terminal and is
// switched off by a non-empty NO_COLOR (no-color.org) and by TERM=dumb.
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

// Say tells a person something on stderr. Silent with -q.
func (s *Streams) Say(format string, args ...any) {
	if s.silent() {
		return
	}
	s.write(s.Err, CleanLines(fmt.Sprintf(format, args...)))
}

// Result prints what was asked for on stdout. Bytes that must stay exactly as
// they are (a file, a remote command's output) are written to Out instead.
func (s *Streams) Result(format string, args ...any) {
	s.write(s.Out, CleanLines(fmt.Sprintf(format, args...)))
}

// Warn tells something that went on anyway, on stderr, also with -q. With JSON
// it is an object of its own line: {"schema":1,"warning":{"message":...}}.
func (s *Streams) Warn(format string, args ...any) {
	text := oneLine(fmt.Sprintf(format, args...))
	if s.JSON {
		s.writeJSON(s.Err, false, map[string]any{"schema": 1, "warning": map[string]string{"message": text}})
		return
	}
	s.write(s.Err, s.paint("33", "warning:")+" "+text)
}

// Suspend takes the live line off the screen until resume is called, for a
// child that uses the terminal itself (sudo, ssh). Calls nest.
func (s *Streams) Suspend() (resume func()) {
	s.mu.Lock()
	s.held++
	s.erase()
	s.mu.Unlock()
	var once sync.Once
	return func() {
		once.Do(func() {
			s.mu.Lock()
			s.held--
			s.draw()
			s.mu.Unlock()
		})
	}
}

// silent reports whether talk and progress have nobody to reach.
func (s *Streams) silent() bool { return s.Quiet || (s.JSON && !s.ErrTTY) }

func (s *Streams) paint(code, text string) string {
	if !s.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// write puts text, ended by a newline, between two states of the live line. A
// stream that cannot be written to (closed pipe) has nobody left to tell.
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

// sink lets a Streams literal leave out a stream it does not care about.
func sink(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
