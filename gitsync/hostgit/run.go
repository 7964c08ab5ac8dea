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

func ReadError(r Repo, err error) error {
	var ge *GitError
	if errors.As(err, &ge) && strings.Contains(ge.Stderr, "dubious ownership") {
		return ui.Refused("git refuses to work in %s, which belongs to another user", ui.Clean(r.Top)).
			Hint(ui.CmdFor("if you trust what is in it", "git config --global --add safe.directory "+shellescape.Quote(r.Top)))
	}
	if errors.As(err, new(*ui.Error)) {
		return err
	}
	return ui.Failed("the repository of %s cannot be read: %w", ui.Clean(r.Top), err).Hint(ui.Cmd("git -C " + shellescape.Quote(r.Top) + " status"))
}

// Show runs a git that only prints.
func (r Repo) Show(ctx context.Context, out io.Writer, args ...string) error {
	_, err := Run(ctx, Call{Repo: r, Stdout: out, Args: args})
	if err != nil && ctx.Err() == nil {
		return ReadError(r, err)
	}
	return err
}

// hardened are settings no repository, and no guest through a commit, may
// bend: nothing is run because of them, nothing is fetched, nothing tidied up.
var hardened = []string{
	"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.pager=cat",
	"-c", "core.alternateRefsCommand=", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
	"-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false", "-c", "push.recurseSubmodules=no",
	"-c", "push.gpgSign=false", "-c", "push.followTags=false", "-c", "color.ui=false", "-c", "advice.detachedHead=false",
	"-c", "protocol.ext.allow=never", "-c", "log.showSignature=false", "-c", "core.quotePath=false",
}

// gitLimit bounds a call that only reads the host's repository.
const gitLimit = 10 * time.Minute

// maxOutput bounds what a git of ours may print.
const maxOutput = 64 << 20

// Call is one run of the host's git.
type Call struct {
	Repo   Repo
	Args   []string
	Allow  []Filter // that may run; the others are switched off
	Also   []string // arguments that switch off what submodules would run
	Env    []string // beside the cleaned environment
	Stdin  io.Reader
	Stdout io.Writer  // nil: returned
	Files  []*os.File // from descriptor 3 on
	// limits of a process that reads what a guest sent; 0: none
	Memory, CPU uint64
	Started     func() // after the limits are in force
}

// GitError is a git that failed.
type GitError struct {
	Args   []string
	Exit   int
	Stderr string // its last words, not cleaned
}

func (e *GitError) Error() string {
	words := strings.TrimSpace(e.Stderr)
	if words != "" {
		words = ": " + ui.CleanTo(strings.ReplaceAll(words, "\n", "; "), 600)
	}
	return fmt.Sprintf("git %s: status %d%s", ui.CleanTo(strings.Join(e.Args, " "), 120), e.Exit, words)
}

// environ is the environment without git's own variables, which could point it
// at other files, without PWD, by which git would know its directory by the name
// of a link that a guest made, and without prompts.
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

// Run runs git in a repository whose configuration was checked, without the
// programs that the configuration names; a status other than 0 is a *GitError.
// It ends with ctx, with all it started.
func Run(ctx context.Context, c Call) ([]byte, error) {
	s, err := c.Repo.settings(ctx)
	if err != nil {
		return nil, err
	}
	off, err := s.arguments(c.Allow)
	if err != nil {
		return nil, err
	}
	return launch(ctx, c, append(off, c.Also...))
}

// launch runs git with the arguments of off after our own.
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
	out, stderr := capture.Head{Limit: maxOutput}, capture.Tail{Limit: lastWords}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = c.Stdin, &out, &stderr, c.Files
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, ui.Refused("git is not installed on this machine").Hint(ui.Cmd("sudo apt-get install git"))
		}
		return nil, fmt.Errorf("starting git: %w", err)
	}
	c.bound(cmd.Process.Pid)
	if c.Started != nil {
		c.Started()
	}
	err := cmd.Wait()
	var exited *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("git %s: %w", c.Args[0], context.Cause(ctx))
	case errors.As(err, &exited):
		return out.Bytes(), &GitError{Args: c.Args, Exit: exited.ExitCode(), Stderr: stderr.String()}
	case err != nil:
		return out.Bytes(), fmt.Errorf("git %s: %w%s", c.Args[0], err, suffix(stderr.String()))
	case out.Over():
		return nil, fmt.Errorf("git %s printed more than %d MB", c.Args[0], maxOutput>>20)
	}
	return out.Bytes(), nil
}

// bound puts a process under its limits before it is given anything to read: a
// small pack can hold a delta or a blob that unfolds to more than there is.
func (c Call) bound(pid int) {
	if c.Memory > 0 {
		_ = unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: c.Memory, Max: c.Memory}, nil)
	}
	if c.CPU > 0 {
		_ = unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: c.CPU, Max: c.CPU}, nil)
	}
}

func suffix(s string) string {
	if s = strings.TrimSpace(s); s == "" {
		return ""
	}
	return ": " + ui.CleanTo(s, 300)
}

// FailedWith reports whether err is a git that ended with this status.
func FailedWith(err error, exit int) bool {
	var ge *GitError
	return errors.As(err, &ge) && ge.Exit == exit
}

// lastWords is how many bytes of a stderr are kept: the last ones.
const lastWords = 4096

// Lines splits git's output, without an empty last one.
func Lines(b []byte) []string {
	s := strings.TrimRight(string(b), "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
