// Package terminal connects a process in a guest to the terminal and the signals of this process.
//
// It owns the settings of the terminal while a guest's program uses it: raw mode, its size, and the
// stop and continuation of this process. It reads and writes no data; the connection to the guest
// does. Invariant: whenever this process ends, stops or returns to its shell, the terminal has the
// settings that it had before.
package terminal

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd"
)

// Terminal is the terminal of this process, used by a program in a guest.
type Terminal struct {
	file  *os.File
	mu    sync.Mutex
	saved *unix.Termios // the settings before raw mode; nil: it is not in raw mode
}

// Of returns the terminal that f is, or nil if it is none.
func Of(f *os.File) *Terminal {
	if f == nil {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return &Terminal{file: f}
}

// Size returns the size of the terminal: 24 rows of 80 columns if the terminal does not know it.
func (t *Terminal) Size() guestd.Size {
	w, err := unix.IoctlGetWinsize(int(t.file.Fd()), unix.TIOCGWINSZ)
	if err != nil || w.Row == 0 || w.Col == 0 {
		return guestd.Size{Rows: 24, Cols: 80}
	}
	return guestd.Size{Rows: w.Row, Cols: w.Col}
}

// Raw passes every key to the program that reads the terminal, Ctrl-C and Ctrl-Z too, and leaves the
// output as it is written.
func (t *Terminal) Raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		return nil
	}
	now, err := unix.IoctlGetTermios(int(t.file.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	before := *now
	if err := unix.IoctlSetTermios(int(t.file.Fd()), unix.TCSETSW, raw(now)); err != nil {
		return err
	}
	t.saved = &before
	return nil
}

// raw changes settings to those of cfmakeraw(3).
func raw(s *unix.Termios) *unix.Termios {
	s.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	s.Oflag &^= unix.OPOST
	s.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	s.Cflag &^= unix.CSIZE | unix.PARENB
	s.Cflag |= unix.CS8
	s.Cc[unix.VMIN], s.Cc[unix.VTIME] = 1, 0
	return s
}

// Restore gives the terminal the settings it had before Raw. What was typed and not read stays.
func (t *Terminal) Restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil {
		return
	}
	_ = unix.IoctlSetTermios(int(t.file.Fd()), unix.TCSETSW, t.saved)
	t.saved = nil
}
