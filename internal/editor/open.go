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

// aliasRE matches aliases that every editor can open: editors convert the authority of a URI to
// lower case, and a dot or other character would need escapes that editors write differently.
var aliasRE = lazyre.New(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Target is the folder to open and the options for it.
type Target struct {
	Alias string // of the guest
	Path  string // of the folder in the guest; the caller has checked that it is a directory
	User  string // of the guest; used in links that need it
	// Profile and DataDir are the editor's --profile and --user-data-dir.
	Profile, DataDir string
}

// OpenArgs returns the arguments that open a guest's folder.
//
// With --remote, Visual Studio Code and its forks guess: they treat a last component that contains a
// dot as a file, ".git" and "my.project" too, unless a slash follows (vscode's windowsMainService;
// vscode issue 149583).
func OpenArgs(f Found, t Target) ([]string, error) {
	folder, err := folderArg(t.Alias, t.Path)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", f.Editor.Name, err)
	}
	if f.Editor.Kind != Desktop && (t.Profile != "" || t.DataDir != "") {
		return nil, ui.Usage("%s supports neither --profile nor --user-data-dir", f.Editor.Name)
	}
	switch f.Editor.Kind {
	case Zed:
		return []string{"ssh://" + t.Alias + percentEncode(t.Path)}, nil
	case Gateway:
		// Gateway reads the alias from ~/.ssh/config, but requires user and port.
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
	return nil, fmt.Errorf("opening %s: it has no program on this machine", f.Editor.Name)
}

func folderArg(alias, guestPath string) (string, error) {
	if !aliasRE.MatchString(alias) {
		return "", ui.Refused("editors cannot open the alias %q: it must be at most 63 of a-z, 0-9 and '-', starting with a letter", alias)
	}
	if !path.IsAbs(guestPath) || path.Clean(guestPath) != guestPath || strings.ContainsRune(guestPath, 0) {
		return "", ui.Refused("%q is not a clean absolute path of a folder", guestPath)
	}
	if strings.Contains(path.Base(guestPath), ".") {
		return guestPath + "/", nil
	}
	return guestPath, nil
}

// Limits for how long Open waits for a launcher. A launcher that is still running then is no error:
// it runs the editor in the foreground.
const (
	launcherLimit = time.Minute
	flatpakLimit  = 5 * time.Second
)

// Open starts the editor and waits until its launcher exits. Launchers exit at once, before the
// editor connects, so success does not mean that the connection works. The launcher's output is
// written to stdout and stderr (nil: discarded); if it fails, the last lines are also in the error.
//
// The editor gets its own session, so that Ctrl-C in the terminal does not reach an open window. Its
// output goes to memory files, so that it gets no broken pipe after aivm exits. As root, Visual
// Studio Code refuses to start without --user-data-dir; Open starts it anyway and shows its message.
func Open(ctx context.Context, f Found, args []string, stdout, stderr io.Writer) error {
	limit := cmp.Or(f.launcher, launcherLimit)
	if f.How == "flatpak" {
		limit = flatpakLimit
	}
	printed, err := start(ctx, f, args, limit)
	for _, s := range []struct {
		w io.Writer
		b []byte
	}{{stdout, printed.out}, {stderr, printed.err}} {
		if s.w != nil && len(s.b) > 0 {
			if _, werr := s.w.Write(s.b); err == nil && werr != nil {
				err = fmt.Errorf("showing the output of %s: %w", f.Editor.Name, werr)
			}
		}
	}
	if errors.Is(err, errStillRunning) {
		return nil
	}
	return err
}

// remoteExtension runs the editor to find out whether the extension that opens SSH hosts is
// installed. That takes a second or more.
func remoteExtension(ctx context.Context, f Found) (installed bool, err error) {
	printed, err := start(ctx, f, []string{"--list-extensions"}, cmp.Or(f.launcher, launcherLimit))
	if err != nil {
		return false, fmt.Errorf("listing the extensions of %s: %w", f.Editor.Name, err)
	}
	for line := range strings.Lines(string(printed.out)) {
		if strings.EqualFold(strings.TrimSpace(line), f.Editor.Extension) {
			return true, nil
		}
	}
	return false, nil
}

// errStillRunning reports that the launcher was running when the limit was reached.
var errStillRunning = errors.New("the launcher is still running")

type output struct{ out, err []byte }

// maxOutput is how many bytes of each output stream of a launcher are kept.
const maxOutput = 1 << 20

// start runs the launcher until it exits or the limit is reached, and returns its output.
func start(ctx context.Context, f Found, args []string, limit time.Duration) (output, error) {
	if len(f.Argv) == 0 {
		return output{}, errors.New("cannot start the editor: no launcher was found")
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
		// End only the launcher: a window it has opened belongs to the user.
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return output{}, errors.Join(ctx.Err(), err)
		}
		return output{}, ctx.Err()
	}
	printed := output{contents(stdout), contents(stderr)}
	var exit *exec.ExitError
	if errors.As(failure, &exit) {
		return printed, launchFailed(f, args, exit, printed)
	}
	return printed, failure
}

func launchFailed(f Found, args []string, exit *exec.ExitError, printed output) error {
	last := lastLines(append(slices.Clone(printed.out), printed.err...), 6)
	e := ui.Failed("%s did not start: %w", f.Editor.Name, exit)
	if last != "" {
		e = ui.Failed("%s did not start: %w: %s", f.Editor.Name, exit, last)
	}
	return e.Hint(ui.CmdFor("to start it manually", shellLine(slices.Concat(f.Argv, args))))
}

// lastLines returns the last n non-blank lines of b, joined by " / ".
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
		return nil, fmt.Errorf("creating a memory file for the editor's %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// contents reads a memory file from its start. It does not move the file offset, which is shared
// with the child process.
func contents(f *os.File) []byte {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxOutput))
	if err != nil {
		return nil
	}
	return b
}
