package sshcfg

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// Runner runs a program without a terminal and returns its output.
type Runner func(ctx context.Context, argv []string) (stdout, stderr []byte, err error)

// maxOutput is how many bytes of each output of ssh are kept: of a login, a guest writes them.
const maxOutput = 1 << 20

// Exec is the Runner that runs real programs. When ctx ends, it kills the program and those
// that it started.
func Exec(ctx context.Context, argv []string) (stdout, stderr []byte, err error) {
	out, errw := capture.Head{Limit: maxOutput}, capture.Head{Limit: maxOutput}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdout, c.Stderr = &out, &errw
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error {
		if err := syscall.Kill(-c.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	c.WaitDelay = time.Second // for a "Match exec" command that left its group with the output open
	err = c.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the program ended; only its output was kept open
	}
	return out.Bytes(), errw.Bytes(), err
}

// LoginLimit is how long a login over the alias may take. An emulated guest needs seconds.
const LoginLimit = 30 * time.Second

// Login logs in over the alias with ssh, as editors do, and runs true in the VM. It returns
// why ssh failed; the exit status of the command does not matter. It asks for no passphrase
// and opens none of the user's forwardings. Call it only if Verify found no Mismatch that is
// Elsewhere: ssh would log in to another machine.
func Login(ctx context.Context, l Layout, alias string, run Runner) error {
	if run == nil {
		run = Exec
	}
	if err := ValidAlias(alias); err != nil {
		return err
	}
	if err := l.Guarded(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, LoginLimit)
	defer cancel()
	// LogLevel: below ERROR, ssh prints the banner that the guest sends.
	argv := slices.Concat([]string{"ssh", "-T", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes", "-o", "LogLevel=ERROR"},
		l.SSHArgs(), []string{"--", alias, "true"})
	_, stderr, err := run(limited, argv)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return ui.Failed("ssh %s did not log in within %s", alias, LoginLimit).Hint(seeLogin(l, alias))
	case errors.Is(err, exec.ErrNotFound):
		return ui.Failed("running ssh: %w", err).Hint(ui.Cmd("aivm host doctor"))
	case err == nil, errors.As(err, &exit) && exit.Exited() && exit.ExitCode() != sshFailed:
		return nil
	}
	message := strings.TrimSuffix(capture.LastLines(string(stderr), 2, "; "), ".")
	if message == "" {
		message = err.Error()
	}
	return ui.Failed("ssh %s does not log in: %s", alias, ui.CleanTo(message, 300)).Hint(seeLogin(l, alias))
}

// sshFailed is the exit status of ssh for errors of its own.
const sshFailed = 255

func seeLogin(l Layout, alias string) ui.Hint {
	return ui.CmdFor("to see each step of the login", shellescape.QuoteCommand(slices.Concat([]string{"ssh", "-v"}, l.SSHArgs(), []string{alias, "true"})))
}

// smallKeys returns a Mismatch if all keys of the stanza are RSA keys that are smaller than
// RequiredRSASize of the user's configuration. The option is of OpenSSH 9.1, so that the
// stanza cannot set it.
func smallKeys(want Stanza, got map[string][]string, alias string, ds []directive) []Mismatch {
	required, err := strconv.Atoi(strings.Join(got["requiredrsasize"], ""))
	if err != nil {
		return nil
	}
	largest := 0
	for _, path := range want.Identities {
		id, err := readIdentity(path)
		if err != nil {
			return nil // the login shows whether it works
		}
		k, ok := id.Public.(ssh.CryptoPublicKey)
		if !ok {
			return nil
		}
		key, ok := k.CryptoPublicKey().(*rsa.PublicKey)
		if !ok || key.N.BitLen() >= required {
			return nil
		}
		largest = max(largest, key.N.BitLen())
	}
	m := Mismatch{Option: "requiredrsasize", Want: fmt.Sprint(largest), Got: fmt.Sprint(required)}
	m.locate(ds, alias, 0)
	return []Mismatch{m}
}
