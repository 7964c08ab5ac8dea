package guest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// badStartups are start-up files of bash with which no command runs.
var badStartups = map[string]string{
	"exits":                    "exit 0",
	"fails":                    "echo why >&2; exit 3",
	"another shell":            "exec dash", // it reads the script on stdin, and could execute it
	"a program":                "exec true",
	"a program that echoes":    "exec cat",
	"takes the script":         "cat >/dev/null",
	"endless output":           "exec yes",
	"endless messages":         "exec yes >&2",
	"killed":                   "kill -9 $$",
	"reads, then prints a lie": "cat >/dev/null; printf 'MARK -1 0\\nMARK 0 0\\n'; exit 0",
}

// bashServer returns a server whose user has bash as the login shell, with this ~/.bashrc.
func bashServer(t *testing.T, bashrc string) *server {
	s := newServer(t)
	s.shell, s.home = "bash", t.TempDir()
	if err := os.WriteFile(filepath.Join(s.home, ".bashrc"), []byte(bashrc+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStartupFile probes a guest whose ~/.bashrc prevents every command. If sshd accepts the variable,
// the probe and later commands skip the file; if not, the error names the cause.
func TestStartupFile(t *testing.T) {
	for name, bashrc := range badStartups {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			s := bashServer(t, bashrc)
			s.acceptEnv = true
			c := dial(t, s)
			got, err := c.Probe(t.Context(), []Probe{{Name: "a", Script: "echo one"}})
			if err != nil || string(got["a"]) != "one\n" || !BypassesStartup(c) {
				t.Errorf("AcceptEnv SHLVL: %q, %v, %v", got, err, BypassesStartup(c))
			}
			var out bytes.Buffer
			if code, err := c.Run(t.Context(), Cmd{Argv: []string{"sh", "-c", "echo ran; exit 7"}, Stdout: &out}); code != 7 || err != nil || out.String() != "ran\n" {
				t.Errorf("a command after it: %d %v %q", code, err, out.String())
			}

			s = bashServer(t, bashrc)
			c = dial(t, s)
			began := time.Now()
			_, err = c.Probe(t.Context(), []Probe{{Name: "clock", Script: "echo one"}})
			var startup *StartupError
			if !errors.As(err, &startup) || !strings.Contains(err.Error(), "~/.bashrc") || strings.Contains(err.Error(), "clock") || BypassesStartup(c) {
				t.Errorf("without: %v, %v", err, BypassesStartup(c))
			}
			if name == "fails" && !strings.Contains(err.Error(), "(status 3)") && !strings.Contains(err.Error(), "why") {
				t.Error(err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// TestStartupFileThatPrints probes a guest whose ~/.bashrc only prints, reads or changes PATH: commands
// run, so nothing is skipped.
func TestStartupFileThatPrints(t *testing.T) {
	for name, bashrc := range map[string]string{"prints": "echo hello", "reads a line": "read x", "no PATH": "PATH=", "ends in bash": "case $- in *i*) ;; *) return;; esac\nexit 0"} {
		s := bashServer(t, bashrc)
		s.acceptEnv = true
		c := dial(t, s)
		got, err := c.Probe(t.Context(), []Probe{{Name: "a", Script: "echo one"}})
		if err != nil || string(got["a"]) != "one\n" || BypassesStartup(c) || s.execs.Load() != 1 {
			t.Errorf("%s: %q, %v, %d execs", name, got, err, s.execs.Load())
		}
	}
}

// TestStartupIsNotBlamed checks errors that have another cause than the login shell.
func TestStartupIsNotBlamed(t *testing.T) {
	s := bashServer(t, "sleep 60")
	c := dial(t, s)
	go func() {
		time.Sleep(200 * time.Millisecond)
		s.cut()
	}()
	var startup *StartupError
	if _, err := c.Probe(t.Context(), []Probe{{Name: "a"}}); !errors.Is(err, ErrLost) || errors.As(err, &startup) {
		t.Errorf("a lost connection: %v", err)
	}
	// After the first line of the script, a part is at fault.
	c = dial(t, bashServer(t, ""))
	if _, err := c.Probe(t.Context(), []Probe{{Name: "killer", Script: "kill -9 $$"}}); err == nil || errors.As(err, &startup) {
		t.Errorf("a part that kills its shell: %v", err)
	}
}

// TestLiteralArguments runs programs by every login shell of this machine. TestQuotedForEveryShell
// checks the line itself, for shells that are not installed.
func TestLiteralArguments(t *testing.T) {
	args := literalArguments()
	want := strings.Join(args, "|") + "|"
	ran := 0
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "fish", "tcsh", "ksh"} {
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		ran++
		s := newServer(t)
		s.shell, s.home = shell, t.TempDir()
		c := dial(t, s)
		var out, errOut bytes.Buffer
		code, err := c.Run(t.Context(), Cmd{Argv: append([]string{"printf", "%s|"}, args...), Stdout: &out, Stderr: &errOut})
		if code != 0 || err != nil || out.String() != want {
			t.Errorf("%s: exit %d, %v\ngot  %q\nwant %q\n%s", shell, code, err, out.String(), want, errOut.String())
		}
		got, err := c.Probe(t.Context(), []Probe{{Name: "a", Script: "printf 'it'\"'\"'s\\n!!'"}})
		if err != nil || string(got["a"]) != "it's\n!!" {
			t.Errorf("%s: a probe: %q %v", shell, got, err)
		}
	}
	if ran < 3 {
		t.Errorf("only %d shells are installed", ran)
	}
}

func literalArguments() []string {
	args := []string{
		"", "a b", "hi!", "!!", "!1", "two\nlines", "ends\n", "\n", "it's", `\`, `\\`, `a\'b`, `\n`, "`id`", "$HOME", "${x}", `"q"`, "~", "~root", "*", "?", "[a]", "{a,b}",
		"=ls", "%1", "%d", "%%", "#", "-n", "--", "a;b", "a&b", "a|b", "<x", ">x", "(x)", "^a^b", "\t", "\r", "\x01", "\x1b[31m", "é", "日本", "\xff\xfe", "'\\!\n%'", "A=b", "@", "a:b",
	}
	all := make([]byte, 255)
	for i := range all {
		all[i] = byte(i + 1)
	}
	return append(args, string(all), strings.Repeat("x!", 5000))
}

// TestQuotedForEveryShell checks that a command line has only what all shells read alike: no newline
// and no exclamation mark, a backslash only before three digits, and outside single quotes only
// characters that no shell treats specially.
func TestQuotedForEveryShell(t *testing.T) {
	for _, a := range literalArguments() {
		line, err := CommandLine([]string{"printf", "%s", a})
		if err != nil {
			t.Fatal(err)
		}
		checkLine(t, line)
	}
	long, err := CommandLine([]string{"sh", "-c", strings.Repeat("echo hi\n", 12000)})
	if err != nil || len(long) > 128<<10 {
		t.Errorf("a long script: %d bytes, %v", len(long), err)
	}
}

func checkLine(t *testing.T, line string) {
	t.Helper()
	quoted := false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\'':
			quoted = !quoted
		case c < ' ' || c >= 0x7f || c == '!':
			t.Fatalf("%q has %q", line, c)
		case c == '\\':
			digits := line[i+1 : min(i+4, len(line))]
			if !quoted || len(digits) != 3 || strings.Trim(digits, "01234567") != "" {
				t.Fatalf("%q has a backslash before %q", line, digits)
			}
		case !quoted && strings.IndexByte("\"$`*?[]{}()<>|&;#~^=%", c) >= 0:
			t.Fatalf("%q has %q without quotes", line, c)
		}
	}
	if quoted {
		t.Fatalf("%q does not end", line)
	}
}

func FuzzCommandLine(f *testing.F) {
	for _, a := range literalArguments() {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, a string) {
		line, err := CommandLine([]string{"printf", "%s", a})
		if strings.Contains(a, "\x00") {
			if err == nil {
				t.Errorf("%q was accepted", a)
			}
			return
		}
		if err != nil || len(line) > maxEncoded {
			return
		}
		checkLine(t, line)
		// A shell runs for a part of the inputs, chosen by the input, since it costs milliseconds.
		if len(a)%8 == 1 {
			out, err := exec.Command("sh", "-c", line).Output()
			if err != nil || string(out) != a {
				t.Errorf("%q became %q, %v", a, out, err)
			}
		}
	})
}
