package hostgit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// ReadError turns an error of git in r into a message for the user: another owner of the repository,
// or a repository that cannot be read.
func ReadError(r Repo, err error) error {
	var ge *GitError
	if errors.As(err, &ge) && strings.Contains(ge.Stderr, "dubious ownership") {
		return ui.Refused("git refuses to work in %s, which belongs to another user", ui.Clean(r.Top)).
			Hint(ui.CmdFor("if you trust what is in it", "git config --global --add safe.directory "+shellescape.Quote(r.Top)))
	}
	if errors.As(err, new(*ui.Error)) {
		return err
	}
	return ui.Failed("reading the git repository of %s: %w", ui.Clean(r.Top), err).Hint(ui.Cmd("git -C " + shellescape.Quote(r.Top) + " status"))
}

// Show runs a git command that only prints.
func (r Repo) Show(ctx context.Context, out io.Writer, args ...string) error {
	_, err := Run(ctx, Call{Repo: r, Stdout: out, Args: args})
	if err != nil && ctx.Err() == nil {
		return ReadError(r, err)
	}
	return err
}

// hardened are settings that neither a repository nor a guest's commit can override: git runs no
// configured program, fetches nothing and does no maintenance.
var hardened = []string{
	"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.pager=cat",
	"-c", "core.alternateRefsCommand=", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
	"-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false", "-c", "push.recurseSubmodules=no",
	"-c", "push.gpgSign=false", "-c", "push.followTags=false", "-c", "color.ui=false", "-c", "advice.detachedHead=false",
	"-c", "protocol.ext.allow=never", "-c", "log.showSignature=false", "-c", "core.quotePath=false",
}

// gitLimit bounds a call that only reads the host's repository.
const gitLimit = 10 * time.Minute

// maxOutput bounds the output of one git process, in bytes.
const maxOutput = 64 << 20

// Call describes one run of the host's git.
type Call struct {
	Repo          Repo
	Args          []string
	Allow         []Filter // filters that may run; the others are switched off
	SubmoduleArgs []string // from SubmoduleArgs
	Env           []string // added to environ
	Stdin         io.Reader
	Stdout        io.Writer  // nil: the output is returned
	Stderr        io.Writer  // receives standard error too, if set
	Files         []*os.File // from descriptor 3 on
	// Limits of a process that reads data from a guest, in bytes and seconds; 0 is none.
	Memory, CPU uint64
	Started     func() // called once the limits apply
}

// GitError is the error of a git process that exited with a status other than 0.
type GitError struct {
	Args   []string
	Exit   int
	Stderr string // the end of it, not cleaned
}

func (e *GitError) Error() string {
	words := strings.TrimSpace(e.Stderr)
	if words != "" {
		words = ": " + ui.CleanTo(strings.ReplaceAll(words, "\n", "; "), 600)
	}
	return fmt.Sprintf("git %s: status %d%s", ui.CleanTo(strings.Join(withoutSettings(e.Args), " "), 120), e.Exit, words)
}

// withoutSettings returns git's arguments from the command on, without the settings before it.
func withoutSettings(args []string) []string {
	for len(args) > 2 && args[0] == "-c" {
		args = args[2:]
	}
	return args
}

// environ returns the environment for git: without git's own variables, which could redirect it to
// other files; without PWD, from which git would take its directory under the name of a link that a
// guest created; and with prompts disabled.
func environ(extra []string) []string {
	var out []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "GIT_"), name == "PWD", name == "LC_ALL", name == "LANGUAGE", name == "PAGER", name == "SSH_ASKPASS":
		default:
			out = append(out, kv)
		}
	}
	out = append(out, "GIT_TRACE2=0", "GIT_TRACE2_EVENT=0", "GIT_TRACE2_PERF=0", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_REPLACE_OBJECTS=1", "GIT_ASKPASS=/bin/false")
	return append(out, extra...)
}

// Run runs git in a repository after checking its configuration, with the programs that the
// configuration names switched off. An exit status other than 0 is a *GitError. When ctx ends, git
// and its child processes are killed.
func Run(ctx context.Context, c Call) ([]byte, error) {
	s, err := c.Repo.settings(ctx)
	if err != nil {
		return nil, err
	}
	off, err := s.switchOffArgs(c.Allow)
	if err != nil {
		return nil, err
	}
	return launch(ctx, c, append(off, c.SubmoduleArgs...))
}

// launch runs git with the arguments of off after the hardened settings.
func launch(ctx context.Context, c Call, off []string) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, gitLimit)
		defer cancel()
	}
	args := slices.Concat([]string{"-C", c.Repo.Top}, hardened, off, c.Args)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = environ(append([]string{"GIT_CEILING_DIRECTORIES=" + filepath.Dir(c.Repo.Top)}, c.Env...))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: 0}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, stderr := capture.Head{Limit: maxOutput}, capture.Tail{Limit: stderrTail}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = c.Stdin, &out, &stderr, c.Files
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(&stderr, c.Stderr)
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, ui.Refused("git is not installed on this machine").Hint(ui.Cmd("sudo apt-get install git"))
		}
		return nil, fmt.Errorf("starting git: %w", err)
	}
	c.setLimits(cmd.Process.Pid)
	if c.Started != nil {
		c.Started()
	}
	err := cmd.Wait()
	var exited *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("git %s: %w", withoutSettings(c.Args)[0], context.Cause(ctx))
	case errors.As(err, &exited):
		return out.Bytes(), &GitError{Args: c.Args, Exit: exited.ExitCode(), Stderr: stderr.String()}
	case err != nil:
		return out.Bytes(), fmt.Errorf("git %s: %w%s", withoutSettings(c.Args)[0], err, colonSuffix(stderr.String()))
	case out.Over():
		return nil, fmt.Errorf("git %s printed more than %d MB", withoutSettings(c.Args)[0], maxOutput>>20)
	}
	return out.Bytes(), nil
}

// setLimits sets the limits of a process before it reads anything: a small pack can hold a delta or
// blob that expands to more than the available memory.
func (c Call) setLimits(pid int) {
	if c.Memory > 0 {
		_ = unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: c.Memory, Max: c.Memory}, nil)
	}
	if c.CPU > 0 {
		_ = unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: c.CPU, Max: c.CPU}, nil)
	}
}

func colonSuffix(s string) string {
	if s = strings.TrimSpace(s); s == "" {
		return ""
	}
	return ": " + ui.CleanTo(s, 300)
}

// FailedWith reports whether err is a git process that exited with this status.
func FailedWith(err error, exit int) bool {
	var ge *GitError
	return errors.As(err, &ge) && ge.Exit == exit
}

// stderrTail is how many bytes of the end of stderr are kept.
const stderrTail = 4096

// Lines splits git's output into lines, without an empty last one.
func Lines(b []byte) []string {
	s := strings.TrimRight(string(b), "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
