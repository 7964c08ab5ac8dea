// Package hints runs the commands that the hints of an error name, as a shell
// runs them when they are pasted. It is used by the tests that show the hints.
package hints

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// programs are what a hint's command can begin with.
var programs = []string{
	"aivm", "apt-get", "btrfs", "cat", "chattr", "chmod", "chown", "code", "cp", "curl", "df", "diff", "dmesg", "du", "echo", "export", "findmnt", "fuser", "getent", "git", "host", "id", "install", "ip", "iptables",
	"journalctl", "kill", "ln", "ls", "lsattr", "lslocks", "lsmod", "man", "mkdir", "mmdebstrap", "modprobe", "mount", "mv", "namei", "nft", "pgrep", "ping", "ps", "qemu-img", "readlink", "resolvectl", "rm", "rpm-ostree", "rsync", "scp", "sh", "ss", "ssh", "ssh-add", "ssh-keygen", "stat", "sudo", "sysctl",
	"systemctl", "tail", "test", "timedatectl", "touch", "umount", "uname", "unset", "virsh", "virt-host-validate", "xdg-open",
}

// IsCommand reports whether text begins as a command does: with one of the known
// programs, perhaps behind variables that are set for it.
func IsCommand(text string) bool {
	for _, w := range strings.Fields(text) {
		if name, _, set := strings.Cut(w, "="); set && regexp.MustCompile(`^[A-Z_]+$`).MatchString(name) {
			continue
		}
		return slices.Contains(programs, strings.TrimPrefix(w, "/usr/local/bin/"))
	}
	return false
}

// A Hint is one line below an error: what the command is for, and the command.
// Command is empty for a remark.
type Hint struct{ Text, Command string }

// Parse splits a hint as it is printed, "what it is for: command" or one of both.
func Parse(line string) Hint {
	if IsCommand(line) {
		return Hint{Command: line}
	}
	// The text may have a colon itself.
	for i := range line {
		for _, sep := range []string{": ", "? "} {
			if rest, ok := strings.CutPrefix(line[i:], sep); ok && IsCommand(rest) {
				return Hint{line[:i], rest}
			}
		}
	}
	return Hint{Text: line}
}

// Of returns the hints of what a command printed to stderr.
func Of(stderr string) (out []Hint) {
	for line := range strings.Lines(stderr) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "hint: "); ok {
			out = append(out, Parse(text))
		}
	}
	return out
}

// Error returns the message of the first error in stderr.
func Error(stderr string) string {
	for line := range strings.Lines(stderr) {
		if e, ok := strings.CutPrefix(line, "error: "); ok {
			return strings.TrimSpace(e)
		}
	}
	return ""
}

// Split returns the commands that bash runs for a line, each as its words. The
// programs are shell functions that print how they were called and succeed, so
// nothing is run.
func Split(line string) ([][]string, error) {
	script := "set -e\np() { printf '%s\\0' \"$@\"; printf '\\n'; }\n"
	for _, c := range append(slices.Clone(programs), "tee") {
		if c != "export" && c != "unset" && c != "test" {
			script += c + "() { p " + c + " \"$@\"; }\n"
		}
	}
	c := exec.Command("/bin/bash", "-c", script+line)
	c.Env = []string{"PATH=/nonexistent", "HOME=/nonexistent"}
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("bash: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	var cmds [][]string
	for rest := string(out); rest != ""; {
		end := strings.Index(rest, "\x00\n")
		if end < 0 {
			break
		}
		cmds, rest = append(cmds, strings.Split(rest[:end], "\x00")), rest[end+2:]
	}
	if len(cmds) == 0 {
		return nil, errors.New("it runs nothing")
	}
	return cmds, nil
}

// A Try runs aivm with these words where the failed command ran, and returns its
// exit status and what it printed to stderr.
type Try func(args []string) (status int, stderr string)

// Check runs what a hint of a failed command names and says what is wrong with
// it; "" if nothing. A command of aivm's has to be understood and must not end
// with the error that it is the way out of. follows is the hint before, which is
// done first where the text of this one begins with "then".
func Check(h, follows Hint, fill *strings.Replacer, failed string, try Try) string {
	if h.Command == "" {
		if regexp.MustCompile(`\baivm [a-z]`).MatchString(h.Text) {
			return "it names a command inside a sentence"
		}
		return ""
	}
	cmds, err := Split(fill.Replace(h.Command))
	if err != nil {
		return err.Error()
	}
	if strings.HasPrefix(h.Text, "then") && follows.Command != "" {
		before, err := Split(fill.Replace(follows.Command))
		if err != nil {
			return err.Error()
		}
		for _, c := range before {
			if c[0] == "aivm" {
				try(append(slices.Clone(c[1:]), "--yes"))
			}
		}
	}
	for i, c := range cmds {
		// What follows in one line finds the machine as the first one left it.
		if c[0] != "aivm" || i > 0 {
			continue
		}
		status, stderr := try(dry(c[1:]))
		if status == 1 && strings.Contains(stderr, "--dry-run") {
			status, stderr = try(c[1:])
		}
		switch e := Error(stderr); {
		case status == 0, status == 3, e == "": // done, wants a yes, or found something to report
		case e == failed:
			return "it ends with the same error"
		default:
			return fmt.Sprintf("exit %d, %s", status, stderr)
		}
	}
	return ""
}

// dry adds --dry-run; what is behind "--" stays there.
func dry(args []string) []string {
	at := slices.Index(args, "--")
	if at < 0 {
		at = len(args)
	}
	return slices.Insert(slices.Clone(args), at, "--dry-run")
}
