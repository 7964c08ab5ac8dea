// Package hints checks the hints of errors: it runs their commands as bash does when they are pasted.
// Tests that produce hints use it.
package hints

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// programs lists the programs with which a hint's command can begin.
var programs = []string{
	"aivm", "apt-get", "btrfs", "cat", "chattr", "chmod", "chown", "code", "cp", "curl", "df", "diff", "dmesg", "du", "echo", "export", "findmnt", "fuser", "getent", "git", "grep", "host", "id", "install", "ip", "iptables",
	"journalctl", "kill", "ln", "ls", "lsattr", "lslocks", "lsmod", "man", "mkdir", "mmdebstrap", "modprobe", "mount", "mv", "namei", "nft", "pgrep", "ping", "ps", "qemu-img", "readlink", "resolvectl", "rm", "rpm-ostree", "rsync", "scp", "sh", "ss", "ssh", "ssh-add", "ssh-keygen", "stat", "sudo", "sysctl",
	"systemctl", "tail", "test", "timedatectl", "touch", "umount", "uname", "unset", "virsh", "virt-host-validate", "xdg-open",
}

// IsCommand reports whether text begins like a command: with one of programs, after optional
// NAME=value assignments.
func IsCommand(text string) bool {
	for _, w := range strings.Fields(text) {
		if name, _, set := strings.Cut(w, "="); set && regexp.MustCompile(`^[A-Z_]+$`).MatchString(name) {
			continue
		}
		return slices.Contains(programs, strings.TrimPrefix(w, "/usr/local/bin/"))
	}
	return false
}

// A Hint is one line below an error: the purpose of a command, and the command. Command is empty for a
// remark, Text for a command without a purpose.
type Hint struct{ Text, Command string }

// Parse splits a printed hint, "purpose: command", "command" or "remark".
func Parse(line string) Hint {
	if IsCommand(line) {
		return Hint{Command: line}
	}
	// The purpose may contain a colon too.
	for i := range line {
		for _, sep := range []string{": ", "? "} {
			if rest, ok := strings.CutPrefix(line[i:], sep); ok && IsCommand(rest) {
				return Hint{line[:i], rest}
			}
		}
	}
	return Hint{Text: line}
}

// Of returns the hints in the stderr of a command.
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

// Split returns the argument lists of the commands that bash runs for a line. The programs are shell
// functions that print their arguments and return 0, so nothing is executed.
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
		return nil, errors.New("the line runs no command")
	}
	return cmds, nil
}

// A Try runs aivm with these arguments in the environment in which the failed command ran, and returns
// its exit status and stderr.
type Try func(args []string) (status int, stderr string)

// Check runs the command of a hint h and returns what is wrong with it, or "". An aivm command must have
// valid arguments and must not end with the error (failed) to which the hint belongs. If the text of h
// begins with "then", the command of follows, the hint before it, is run first; where that is not
// possible (follows is empty), h is only parsed. fill replaces placeholders in commands.
func Check(h, follows Hint, fill *strings.Replacer, failed string, try Try) string {
	if h.Command == "" {
		if regexp.MustCompile(`\baivm (attach|code|config|detach|editors|git|host|image|list|ssh|status|vm) `).MatchString(h.Text) {
			return "a sentence contains a command"
		}
		return ""
	}
	cmds, err := Split(fill.Replace(h.Command))
	if err != nil {
		return err.Error()
	}
	if strings.HasPrefix(h.Text, "then") {
		if follows.Command == "" {
			return ""
		}
		before, err := Split(fill.Replace(follows.Command))
		if err != nil {
			return err.Error()
		}
		for _, c := range before {
			// Programs, also in the guest, are not run, so what follows them is not either.
			if c[0] != "aivm" || len(c) > 1 && c[1] == "ssh" {
				return ""
			}
			try(append(slices.Clone(c[1:]), "--yes"))
		}
	}
	for i, c := range cmds {
		// Only the first command of a line is run, because later ones depend on its effects.
		if c[0] != "aivm" || i > 0 {
			continue
		}
		status, stderr := try(dry(c[1:]))
		if status == 1 && strings.Contains(stderr, "--dry-run") {
			status, stderr = try(c[1:])
		}
		switch e := Error(stderr); {
		case status == 0, status == 3, e == "": // success, consent required, or a report without an error
		case e == failed:
			return "the command ends with the same error"
		default:
			return fmt.Sprintf("exit %d, %s", status, stderr)
		}
	}
	return ""
}

// dry inserts --dry-run before "--", or at the end.
func dry(args []string) []string {
	at := slices.Index(args, "--")
	if at < 0 {
		at = len(args)
	}
	return slices.Insert(slices.Clone(args), at, "--dry-run")
}
