package settingsync

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// flipper swaps two names in a folder as fast as it can until the test ends, as a guest that can
// write the folder could.
func flipper(t *testing.T, a, b string) {
	t.Helper()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended })
}

// TestAFlippedLinkReadsNothingElse: whatever a guest puts in place of a listed directory, of one
// below it or of a file, at any moment, no other host file is read.
func TestAFlippedLinkReadsNothingElse(t *testing.T) {
	for _, tc := range []struct{ name, entry, own, link, to string }{
		{"the directory", "~/shared/dot", "shared/dot", "shared/away", "../.ssh"},
		{"a directory above it", "~/shared/up/dot", "shared/up", "shared/away", "../.decoy"},
		{"a directory below it", "~/shared/dot", "shared/dot/sub", "shared/away", "../../.ssh"},
		{"a file below it", "~/shared/dot", "shared/dot/rc", "shared/away", "../../.ssh/config"},
		{"the file", "~/shared/dot/rc", "shared/dot/rc", "shared/away", "../../.ssh/config"},
		{"a link the home has to it", "~/.dot", "shared/dot", "shared/away", "../.ssh"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(m.host, ".ssh/config", "SECRET", 0o600)
			m.write(m.host, ".ssh/rc", "SECRET", 0o600)
			m.write(m.host, ".decoy/dot/config", "SECRET", 0o600)
			for _, p := range []string{"shared/dot/rc", "shared/dot/config", "shared/dot/sub/config", "shared/up/dot/config"} {
				m.write(m.host, p, "own", 0o644)
			}
			if err := os.Symlink("shared/dot", filepath.Join(m.host, ".dot")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(tc.to, filepath.Join(m.host, tc.link)); err != nil {
				t.Fatal(err)
			}
			m.opts.Paths, m.opts.Untrusted = []string{tc.entry}, []string{filepath.Join(m.host, "shared")}
			flipper(t, filepath.Join(m.host, tc.own), filepath.Join(m.host, tc.link))
			read := 0
			for round, until := 0, time.Now().Add(400*time.Millisecond); round < 1000 || time.Now().Before(until); round++ {
				for _, it := range Gather(m.opts).Items {
					if strings.Contains(string(it.Data), "SECRET") {
						t.Fatalf("round %d: %s was read as %s", round, it.Guest, it.Data)
					}
					if it.Link == "" {
						read++
					}
				}
			}
			if read == 0 {
				t.Error("no file was read, so the test proves nothing")
			}
		})
	}
}

// TestAFlippedPipeHoldsNobodyUp: a pipe in place of a file never blocks and is never opened, at any
// moment.
func TestAFlippedPipeHoldsNobodyUp(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, "shared/dot/rc", "own", 0o644)
	pipe := filepath.Join(m.host, "shared/pipe")
	if err := unix.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	m.opts.Paths, m.opts.Untrusted = []string{"~/shared/dot", "~/shared/dot/rc"}, []string{filepath.Join(m.host, "shared")}
	flipper(t, filepath.Join(m.host, "shared/dot/rc"), pipe)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			Gather(m.opts)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("reading blocks on a pipe")
	}
}
