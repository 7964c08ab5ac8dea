package guestd_test

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/guestd"
)

// A screen collects what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until the screen shows text.
func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(s.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q does not appear in %q", text, s.String())
		}
	}
}

// terminal starts a script on a terminal of 80 x 24.
func terminal(t *testing.T, s *guestd.Session, script string) (*guestd.Process, *screen, io.Writer) {
	t.Helper()
	in, keys := io.Pipe()
	t.Cleanup(func() { in.Close() })
	var shown screen
	p := start(t, s, guestd.Command{Argv: sh(script), TTY: &guestd.Size{Rows: 24, Cols: 80}, Stdin: in, Stdout: &shown})
	return p, &shown, keys
}

func TestTerminal(t *testing.T) {
	s := connect(t)
	p, shown, keys := terminal(t, s, "test -t 0 && test -t 1 && test -t 2 && stty size; read x; stty size; echo got $x; tty; exit 3")
	shown.await(t, "24 80\r\n")
	if err := p.Resize(guestd.Size{Rows: 50, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(keys, "grüße\r")
	if exit := wait(t, p); exit.Code != 3 {
		t.Error(exit)
	}
	for _, text := range []string{"50 132\r\n", "got grüße\r\n", "/dev/pts/"} {
		shown.await(t, text)
	}
}

func TestTerminalKeys(t *testing.T) {
	s := connect(t)
	p, shown, keys := terminal(t, s, "echo ready; exec sleep 60")
	shown.await(t, "ready")
	io.WriteString(keys, "\x03")
	if exit := wait(t, p); exit.Signal != syscall.SIGINT {
		t.Errorf("Ctrl-C: %+v", exit)
	}
	p, shown, keys = terminal(t, s, "echo ready; cat; echo end; exit 5")
	shown.await(t, "ready")
	io.WriteString(keys, "text\r\x04")
	if exit := wait(t, p); exit.Code != 5 {
		t.Errorf("Ctrl-D: %+v", exit)
	}
	shown.await(t, "text\r\ntext\r\nend\r\n")
}

// TestJobControl checks that Ctrl-Z stops the command and tells the host, twice.
func TestJobControl(t *testing.T) {
	s := connect(t)
	p, shown, keys := terminal(t, s, "echo ready; exec sed -u 's/^/got /'")
	shown.await(t, "ready")
	for _, word := range []string{"one", "two"} {
		io.WriteString(keys, "\x1a")
		select {
		case <-p.Stops():
		case <-time.After(30 * time.Second):
			t.Fatal("Ctrl-Z did not stop the command")
		}
		if err := p.Continue(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(keys, word+"\r")
		shown.await(t, "got "+word)
	}
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal != syscall.SIGHUP {
		t.Error(exit)
	}
}

// TestTerminalEnds checks that all output of a command arrives, and that what it left
// in the background does not keep it.
func TestTerminalEnds(t *testing.T) {
	s := connect(t)
	p, shown, _ := terminal(t, s, "stty -onlcr; seq 100000; sleep 60 & exit 0")
	started := time.Now()
	if exit := wait(t, p); exit.Status() != 0 {
		t.Error(exit)
	}
	if !strings.HasSuffix(shown.String(), "\n99999\n100000\n") {
		t.Errorf("the output ends with %q", shown.String()[max(0, len(shown.String())-30):])
	}
	if time.Since(started) > 30*time.Second {
		t.Error("the command in the background kept the terminal")
	}
}
