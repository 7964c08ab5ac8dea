package editor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/ui"
)

// aliasRE: the address part of an editor's URI is lower-cased on its way, and
// a dot or other sign would need escapes that each editor writes differently.
var aliasRE = lazyre.New(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Target is what is opened and how.
type Target struct {
	Alias string // of the guest
	Path  string // of the folder in it, which the caller has seen to be one
	User  string // of the guest, where a link needs it
	// Profile and DataDir are the editor's --profile and --user-data-dir.
	Profile, DataDir string
}

// OpenArgs returns the arguments that open a guest's folder.
//
// With --remote an editor of Code's family guesses: a last component with a dot
// anywhere in it is taken for a file, ".git" and "my.project" too, unless a
// slash follows (vscode's windowsMainService; vscode issue 149583).
func OpenArgs(f Found, t Target) ([]string, error) {
	folder, err := folderArg(t.Alias, t.Path)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", f.Editor.Name, err)
	}
	if f.Editor.Kind != Desktop && (t.Profile != "" || t.DataDir != "") {
		return nil, ui.Usage("%s knows neither --profile nor --user-data-dir", f.Editor.Name)
	}
	switch f.Editor.Kind {
	case Zed:
		return []string{"ssh://" + t.Alias + percentEncode(t.Path)}, nil
	case Gateway:
		// Gateway reads the alias from ~/.ssh/config, but wants user and port.
		return []string{"jetbrains-gateway://connect#type=ssh&deploy=true&host=" + t.Alias + "&port=22&user=" + percentEncode(t.User) +
			"&projectPath=" + percentEncode(t.Path)}, nil
	case Desktop:
		var args []string
		if t.DataDir != "" {
			args = append(args, "--user-data-dir", t.DataDir)
		}
		if t.Profile != "" {
			args = append(args, "--profile", t.Profile)
		}
		return append(args, "--remote", "ssh-remote+"+t.Alias, folder), nil
	}
	return nil, fmt.Errorf("opening %s: it is not started as a program", f.Editor.Name)
}

func folderArg(alias, guestPath string) (string, error) {
	if !aliasRE.MatchString(alias) {
		return "", ui.Refused("%q is not an alias an editor can open: want a-z, 0-9 and '-', starting with a letter, at most 63", alias)
	}
	if !path.IsAbs(guestPath) || path.Clean(guestPath) != guestPath || strings.ContainsRune(guestPath, 0) {
		return "", ui.Refused("%q is not an absolute path of a folder", guestPath)
	}
	if strings.Contains(path.Base(guestPath), ".") {
		return guestPath + "/", nil
	}
	return guestPath, nil
}

// How long Open waits for a launcher. One that is still there then is fine:
// it runs the editor in the foreground.
const (
	launcherLimit = time.Minute
	flatpakLimit  = 5 * time.Second
)

// Open starts the editor and waits until its launcher has exited, which it
// does at once, whether or not the editor's connection will succeed. What the
// launcher says goes to the streams (nil: nowhere); if it fails, its last
// lines are also in the error.
//
// The editor gets a session of its own, so Ctrl-C in the terminal does not
// reach a window that is open already, and writes into anonymous memory, so it
// outlives aivm without a broken pipe. As root Visual Studio Code refuses to
// start without --user-data-dir; it is started all the same, and what it says
// is shown.
func Open(ctx context.Context, f Found, args []string, stdout, stderr io.Writer) error {
	limit := cmp.Or(f.launcher, launcherLimit)
	if f.How == "flatpak" {
		limit = flatpakLimit
	}
	said, err := start(ctx, f, args, limit)
	for _, s := range []struct {
		w io.Writer
		b []byte
	}{{stdout, said.out}, {stderr, said.err}} {
		if s.w != nil && len(s.b) > 0 {
			if _, werr := s.w.Write(s.b); err == nil && werr != nil {
				err = fmt.Errorf("showing what %s said: %w", f.Editor.Name, werr)
			}
		}
	}
	if errors.Is(err, errStillRunning) {
		return nil
	}
	return err
}

// RemoteExtension asks the editor whether the extension that opens SSH hosts
// is installed. It takes a second or more: once, when an alias is made.
func RemoteExtension(ctx context.Context, f Found) (installed bool, err error) {
	said, err := start(ctx, f, []string{"--list-extensions"}, cmp.Or(f.launcher, launcherLimit))
	if err != nil {
		return false, fmt.Errorf("listing the extensions of %s: %w", f.Editor.Name, err)
	}
	for line := range strings.Lines(string(said.out)) {
		if strings.EqualFold(strings.TrimSpace(line), f.Editor.Extension) {
			return true, nil
		}
	}
	return false, nil
}

// errStillRunning: the launcher was there when the limit ran out.
var errStillRunning = errors.New("the launcher is still running")

type output struct{ out, err []byte }

// maxOutput is what is kept of a launcher's talk.
const maxOutput = 1 << 20

func start(ctx context.Context, f Found, args []string, limit time.Duration) (output, error) {
	if len(f.Argv) == 0 {
		return output{}, errors.New("starting an editor that was not found")
	}
	if err := ctx.Err(); err != nil {
		return output{}, err
	}
	stdout, err := memoryFile("stdout")
	if err != nil {
		return output{}, err
	}
	defer stdout.Close()
	stderr, err := memoryFile("stderr")
	if err != nil {
		return output{}, err
	}
	defer stderr.Close()

	cmd := exec.Command(f.Argv[0], slices.Concat(f.Argv[1:], args)...)
	cmd.Env = f.Environ
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return output{}, ui.Failed("starting %s: %w", f.Editor.Name, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()

	var failure error
	select {
	case failure = <-exited:
	case <-timer.C:
		failure = errStillRunning
	case <-ctx.Done():
		// The launcher alone: a window it has opened is the person's.
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return output{}, errors.Join(ctx.Err(), err)
		}
		return output{}, ctx.Err()
	}
	said := output{contents(stdout), contents(stderr)}
	var exit *exec.ExitError
	if errors.As(failure, &exit) {
		return said, launchFailed(f, args, exit, said)
	}
	return said, failure
}

func launchFailed(f Found, args []string, exit *exec.ExitError, said output) error {
	last := lastLines(append(slices.Clone(said.out), said.err...), 6)
	e := ui.Failed("%s did not start: %w", f.Editor.Name, exit)
	if last != "" {
		e = ui.Failed("%s did not start: %w: %s", f.Editor.Name, exit, last)
	}
	return e.Hint(ui.CmdFor("try it by hand", shellLine(slices.Concat(f.Argv, args))))
}

// lastLines returns the end of what a launcher said in one line.
func lastLines(b []byte, n int) string {
	var lines []string
	for line := range bytes.Lines(b) {
		if s := strings.TrimSpace(string(line)); s != "" {
			lines = append(lines, s)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], " / ")
}

func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("aivm-editor-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making room for the editor's %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// contents reads a memory file from its start; the descriptor shares its
// offset with the child, so it must not be moved.
func contents(f *os.File) []byte {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxOutput))
	if err != nil {
		return nil
	}
	return b
}
