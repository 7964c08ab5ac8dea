// Package terminfo makes the terminal of this machine known to a guest. A guest's programs look up
// what $TERM names in its terminfo database, which does not have the entries of newer terminals
// (xterm-ghostty, xterm-kitty, foot): they then refuse to start, or draw wrongly.
//
// It decides which name to use and what to send; the caller runs commands in the guest. Invariants:
// the entry is read on this machine only, is bounded, and nothing of it comes from a guest.
package terminfo

import (
	"bytes"
	"context"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/lazyre"
)

// Fallback is the terminal that every guest knows and that nearly every terminal emulates.
const Fallback = "xterm-256color"

// base lists the entries of ncurses-base, which every Debian and Ubuntu guest has, without those of
// terminals that no longer exist. For these the guest is not asked.
var base = []string{
	"ansi", "cygwin", "dumb", "linux", "rxvt", "rxvt-unicode", "rxvt-unicode-256color", "screen", "screen-256color", "screen-256color-bce",
	"screen.xterm-256color", "tmux", "tmux-256color", "vt100", "vt102", "vt220", "vt52", "xterm", "xterm-256color", "xterm-color", "xterm-mono",
}

// nameRE matches the names that terminfo(5) allows and that are safe as a file name.
var nameRE = lazyre.New(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,63}$`)

const (
	// maxEntry limits the source text of an entry. That of xterm-kitty has 4 KB.
	maxEntry = 64 << 10
	// readLimit is the time limit for infocmp, which reads one file.
	readLimit = 5 * time.Second
)

// Run runs a program in the guest with stdin as its input, and returns its status.
type Run func(ctx context.Context, argv []string, stdin io.Reader) (int, error)

// Name returns the name to use as TERM in the guest: term if the guest knows it, after installing its
// entry if necessary, else Fallback. The second result tells whether it is term.
func Name(ctx context.Context, term string, run Run) (string, bool) {
	if term == "" || slices.Contains(base, term) {
		return term, true
	}
	if !nameRE.MatchString(term) {
		return Fallback, false
	}
	code, err := run(ctx, []string{"sh", "-c", install, "sh", term}, bytes.NewReader(entry(ctx, term)))
	if err != nil || code != 0 {
		return Fallback, false
	}
	return term, true
}

// install succeeds if the guest knows the terminal $1, after compiling the entry on stdin if it does
// not. tic writes it below ~/.terminfo, so this is needed only once. tic's status is not used, because
// an older tic warns of capabilities that it does not know and leaves them out.
const install = `infocmp "$1" >/dev/null 2>&1 && exit 0
tic -x - >/dev/null 2>&1
infocmp "$1" >/dev/null 2>&1`

// entry returns this machine's entry of a terminal as source text; empty if there is none.
func entry(ctx context.Context, term string) []byte {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	out := capture.Head{Limit: maxEntry}
	cmd := exec.CommandContext(ctx, "infocmp", "-x", term)
	cmd.Stdout = &out
	if cmd.Run() != nil || out.Over() {
		return nil
	}
	text := out.String()
	if strings.HasPrefix(text, "#") { // a comment with the path of the file on this machine
		_, text, _ = strings.Cut(text, "\n")
	}
	return []byte(text)
}
