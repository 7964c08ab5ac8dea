package terminfo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// guestRun runs programs with the real infocmp and tic in another home, as in a guest.
func guestRun(home string, sent *[]string) Run {
	return func(ctx context.Context, argv []string, stdin io.Reader) (int, error) {
		b, err := io.ReadAll(stdin)
		if err != nil {
			return -1, err
		}
		*sent = append(*sent, string(b))
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdin, cmd.Dir = bytes.NewReader(b), home
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TERMINFO=" + filepath.Join(home, ".terminfo")}
		err = cmd.Run()
		if exited := new(exec.ExitError); errors.As(err, &exited) {
			return exited.ExitCode(), nil
		}
		return 0, err
	}
}

// newTerminal defines a terminal that only this machine knows.
func newTerminal(t *testing.T, name string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("TERMINFO", filepath.Join(home, ".terminfo"))
	out, err := exec.Command("sh", "-c", `infocmp -x -A "$2" xterm-256color 2>/dev/null | sed "s/^xterm-256color|[^,]*,/$1|a new terminal,/" | tic -x -`, "sh", name, systemEntries(t)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// systemEntries returns the directory of ncurses-base.
func systemEntries(t *testing.T) string {
	for _, dir := range []string{"/lib/terminfo", "/usr/share/terminfo", "/usr/lib/terminfo"} {
		if _, err := os.Stat(filepath.Join(dir, "x", "xterm-256color")); err == nil {
			return dir
		}
	}
	t.Fatal("this machine has no entry for xterm-256color: install ncurses-base")
	return ""
}

func TestEntryIsInstalledOnce(t *testing.T) {
	newTerminal(t, "aivm-new")
	guest := t.TempDir()
	var sent []string
	run := guestRun(guest, &sent)
	if name, same := Name(t.Context(), "aivm-new", run); name != "aivm-new" || !same {
		t.Fatalf("%q %v", name, same)
	}
	if len(sent) != 1 || !strings.Contains(sent[0], "aivm-new|a new terminal,") || strings.HasPrefix(sent[0], "#") || strings.Contains(sent[0], os.Getenv("HOME")) {
		t.Errorf("sent %q", sent)
	}
	file := filepath.Join(guest, ".terminfo", "a", "aivm-new")
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := Name(t.Context(), "aivm-new", run); name != "aivm-new" {
		t.Error(name)
	}
	if after, err := os.Stat(file); err != nil || after.ModTime() != before.ModTime() {
		t.Errorf("the entry was written again: %v", err)
	}
}

// TestFallback checks terminals whose entry cannot be sent, and names that are no file names.
func TestFallback(t *testing.T) {
	var sent []string
	run := guestRun(t.TempDir(), &sent)
	if name, same := Name(t.Context(), "no-such-terminal", run); name != Fallback || same {
		t.Errorf("%q %v", name, same)
	}
	ran := len(sent)
	for _, term := range []string{"-x", "../a", "a/b", "a b", "x;id", "x\ny", "\x1b[2J", strings.Repeat("x", 65)} {
		if name, same := Name(t.Context(), term, run); name != Fallback || same {
			t.Errorf("%q: %q %v", term, name, same)
		}
	}
	for _, term := range []string{"", "xterm", "dumb", "screen-256color", "linux", Fallback} {
		if name, same := Name(t.Context(), term, run); name != term || !same {
			t.Errorf("%q: %q %v", term, name, same)
		}
	}
	if len(sent) != ran {
		t.Errorf("the guest was asked: %q", sent[ran:])
	}
	lost := func(context.Context, []string, io.Reader) (int, error) { return -1, errors.New("lost") }
	if name, same := Name(t.Context(), "aivm-new", lost); name != Fallback || same {
		t.Errorf("%q %v", name, same)
	}
}
