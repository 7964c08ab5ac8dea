package guest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"
)

// maxEncoded limits the length of an encoded command line. The login shell gets a line as one argument,
// which Linux limits to 128 KiB (MAX_ARG_STRLEN), and encoding makes a line longer.
const maxEncoded = 100 << 10

// CommandLine quotes argv for the login shell to which sshd passes it, so that every argument arrives
// literally in sh, bash, zsh, fish and tcsh. With "exec" the shell does not treat the first word as a
// keyword, an alias or an assignment, and signals reach the program.
func CommandLine(argv []string) (string, error) {
	switch {
	case len(argv) == 0 || argv[0] == "":
		return "", errors.New("running in the guest: no program is given")
	case strings.HasPrefix(argv[0], "-"):
		return "", fmt.Errorf("running in the guest: %q is not the name of a program", argv[0])
	case slices.ContainsFunc(argv, func(a string) bool { return strings.ContainsRune(a, 0) }):
		return "", errors.New("running in the guest: an argument contains a NUL byte")
	}
	if !slices.ContainsFunc(argv, differs) {
		words := make([]string, len(argv))
		for i, a := range argv {
			words[i] = quoteWord(a)
		}
		return "exec " + strings.Join(words, " "), nil
	}
	line := "exec " + shellescape.QuoteCommand(argv)
	if encoded := `exec /bin/sh -c 'eval "$(printf "$0")"' '` + printfEscaped(line) + "'"; len(encoded) <= maxEncoded {
		return encoded, nil
	}
	return line, nil // what the shells of almost every guest read
}

// differs reports whether shells read an argument in single quotes differently. In fish a backslash
// escapes another one, in tcsh an exclamation mark starts a history substitution and a line ends at a
// newline, and a single quote needs the one or the other.
func differs(arg string) bool {
	return strings.ContainsFunc(arg, func(r rune) bool { return r < ' ' || r >= 0x7f || strings.ContainsRune(`'\!`, r) })
}

// quoteWord puts single quotes around an argument, unless no shell treats it specially. A word like
// "=ls" or "%1" is special in some.
func quoteWord(arg string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:,@+", r)
	}
	if arg != "" && !strings.ContainsFunc(arg, func(r rune) bool { return !plain(r) }) {
		return arg
	}
	return "'" + arg + "'"
}

// printfEscaped returns the format with which printf prints line, in characters that mean the same to
// every shell in single quotes: a backslash occurs only before three digits.
func printfEscaped(line string) string {
	var b strings.Builder
	for _, c := range []byte(line) {
		switch {
		case c == '%':
			b.WriteString("%%")
		case c < ' ' || c >= 0x7f || strings.IndexByte(`'\!`, c) >= 0:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
