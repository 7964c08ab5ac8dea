package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
)

// connection is one "ssh -T -D PORT ALIAS bash", as Remote-SSH starts it.
type connection struct {
	ctx    context.Context
	ssh    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
	stderr bytes.Buffer
	socks  string
	dir    string // of the recorded prompts
}

// connect runs "ssh -G" for the alias, as Remote-SSH does to get the host name, and starts the
// connection. ssh has no terminal, and an askpass program that only records prompts.
func connect(ctx context.Context, alias string) (*connection, error) {
	options, err := configFile()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "ssh", slices.Concat(options, []string{"-G", "--", alias})...).Output()
	if err != nil {
		return nil, fmt.Errorf("ssh -G %s: %w", alias, err)
	}
	if bytes.Contains(out, []byte("\nhostname "+alias+"\n")) {
		return nil, fmt.Errorf("the SSH configuration has no host name for the alias %s", alias)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &connection{ctx: ctx, socks: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	if c.dir, err = os.MkdirTemp("", "fakecode"); err != nil {
		return nil, err
	}
	c.ssh = exec.CommandContext(ctx, "ssh", slices.Concat(options,
		[]string{"-T", "-D", strconv.Itoa(port), "-o", "ConnectTimeout=60", "--", alias, "bash"})...)
	c.ssh.Env = append(os.Environ(), askVariable+"="+c.promptFile(),
		"SSH_ASKPASS="+self, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=fakecode")
	c.ssh.Stderr = &c.stderr
	c.ssh.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.ssh.WaitDelay = 5 * time.Second
	stdout, err := c.ssh.StdoutPipe()
	if err == nil {
		c.stdin, err = c.ssh.StdinPipe()
	}
	if err == nil {
		err = c.ssh.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting ssh: %w", err), os.RemoveAll(c.dir))
	}
	c.stdout = bufio.NewScanner(stdout)
	return c, nil
}

func (c *connection) promptFile() string { return filepath.Join(c.dir, "asked") }

// configFile returns the options that make ssh read ~/.ssh/config of $HOME if that is not the home
// directory of the account: ssh itself uses the account's.
func configFile() ([]string, error) {
	home := os.Getenv("HOME")
	if u, err := user.Current(); home == "" || err == nil && u.HomeDir == home {
		return nil, nil
	}
	config := filepath.Join(home, ".ssh", "config")
	if _, err := os.Stat(config); err != nil {
		return nil, fmt.Errorf("no SSH configuration: %w", err)
	}
	return []string{"-F", config}, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// sendScript sends lines to the guest's bash.
func (c *connection) sendScript(script string) error {
	if _, err := io.WriteString(c.stdin, script); err != nil {
		return fmt.Errorf("writing to the guest's shell: %w%s", err, c.stderrText())
	}
	return nil
}

// readMarked waits for a line that starts with the marker and returns its rest. It skips all other
// output of the login, as Remote-SSH does.
func (c *connection) readMarked(marker string) (string, error) {
	for c.stdout.Scan() {
		if rest, ok := strings.CutPrefix(c.stdout.Text(), marker); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	if c.ctx.Err() != nil {
		return "", fmt.Errorf("waiting for %s: %w", marker, context.Cause(c.ctx))
	}
	if err := c.stdout.Err(); err != nil {
		return "", fmt.Errorf("waiting for %s: %w", marker, err)
	}
	return "", fmt.Errorf("the connection ended before %s%s", marker, c.stderrText())
}

// stderrText waits for ssh to end and returns its stderr as one line.
func (c *connection) stderrText() string {
	c.stdin.Close()
	err := c.ssh.Wait()
	s := strings.Join(strings.FieldsFunc(c.stderr.String(), func(r rune) bool { return r == '\n' || r == '\r' }), " / ")
	if err != nil {
		s += " (" + err.Error() + ")"
	}
	return ": " + s
}

// install sends a script like that of Remote-SSH: it creates the server's directory, writes a program
// there through a here-document and starts it in the background. It returns the port on which that
// listens.
func (c *connection) install() (port int, err error) {
	if err := c.sendScript(installScript); err != nil {
		return 0, err
	}
	text, err := c.readMarked("FAKECODE_PORT ")
	if err != nil {
		return 0, err
	}
	if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
		return 0, fmt.Errorf("starting a server in the guest: %s", text)
	}
	return port, nil
}

// exchange sends a line through the SOCKS port to the server in the guest and checks its answer.
func (c *connection) exchange(ctx context.Context, port int) error {
	conn, err := dialSOCKS(ctx, c.socks, "127.0.0.1", port)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if string(answer) != "echo hello\n" {
		return fmt.Errorf("the server answered %q", answer)
	}
	return nil
}

// openFolder checks that the folder is a directory that can be entered, and writes a file in it if
// name is not "".
func (c *connection) openFolder(folder, name, text string) error {
	q := shellescape.Quote
	script := "if [ ! -e " + q(folder) + " ]; then printf '\\nFAKECODE_FOLDER missing\\n'\n" +
		"elif [ ! -d " + q(folder) + " ]; then printf '\\nFAKECODE_FOLDER a file\\n'\n" +
		"elif ! cd -- " + q(folder) + "; then printf '\\nFAKECODE_FOLDER not to be entered\\n'\n"
	if name != "" {
		script += "elif ! printf '%s\\n' " + q(text) + " >./" + q(name) + "; then printf '\\nFAKECODE_FOLDER not writable\\n'\n"
	}
	script += "else printf '\\nFAKECODE_FOLDER ok\\n'; fi\n"
	if err := c.sendScript(script); err != nil {
		return err
	}
	state, err := c.readMarked("FAKECODE_FOLDER ")
	if err != nil {
		return err
	}
	if state != "ok" {
		return fmt.Errorf("the folder %q in the guest is %s", folder, state)
	}
	return nil
}

// end ends the connection and returns ssh's prompts.
func (c *connection) end() ([]string, error) {
	defer os.RemoveAll(c.dir)
	var failure error
	if c.ssh.ProcessState == nil {
		c.stdin.Close()
		for c.stdout.Scan() {
			continue
		}
		if err := c.ssh.Wait(); err != nil {
			failure = fmt.Errorf("ending the connection: %w: %s", err, strings.TrimSpace(c.stderr.String()))
		}
	}
	asked, err := prompts(c.promptFile())
	return asked, errors.Join(failure, err)
}

// installScript starts a server with a program that Debian guests have, perl-base or python3. The
// server prints its port and continues in the background. It closes the script's stdout, since ssh
// would wait for it; it accepts one connection and ends after 20 seconds.
const installScript = `umask 077
mkdir -p "$HOME/.vscode-server/data/Machine" "$HOME/.vscode-server/cli"
if command -v perl >/dev/null 2>&1; then
cat >"$HOME/.vscode-server/cli/fakecode-server" <<'FAKECODE_END'
use strict; use Socket;
socket(my $s, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
bind($s, sockaddr_in(0, INADDR_LOOPBACK)) or die "bind: $!";
listen($s, 1) or die "listen: $!";
$| = 1;
print "\nFAKECODE_PORT ", (sockaddr_in(getsockname($s)))[0], "\n";
exit 0 if fork;
$SIG{HUP} = 'IGNORE';
alarm 20;
close STDOUT; close STDERR;
accept(my $c, $s) or exit 1;
my $line = <$c>;
syswrite $c, "echo $line";
FAKECODE_END
run=perl
elif command -v python3 >/dev/null 2>&1; then
cat >"$HOME/.vscode-server/cli/fakecode-server" <<'FAKECODE_END'
import os, signal, socket
s = socket.create_server(("127.0.0.1", 0))
print("\nFAKECODE_PORT", s.getsockname()[1], flush=True)
if os.fork():
    os._exit(0)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.alarm(20)
os.close(1)
os.close(2)
c = s.accept()[0]
c.sendall(b"echo " + c.makefile("rb").readline())
os._exit(0)
FAKECODE_END
run=python3
else
run=false
fi
"$run" "$HOME/.vscode-server/cli/fakecode-server" </dev/null || printf '\nFAKECODE_PORT %s ended with %s\n' "$run" "$?"
`
