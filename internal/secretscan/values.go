package secretscan

import (
	"slices"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
)

// assigner reads the values that are assigned in a line.
type assigner struct {
	line    string
	setter  bool // "set NAME value"
	comment bool
}

// value is what is assigned to a name.
type value struct {
	span
	text   string
	quoted bool
	tight  bool // NAME=value
	spaced bool // by nothing but a space: --name value
	ends   bool // nothing follows on the line
	code   bool // followed by what ends an expression of a program
}

// value returns what is assigned to the name at from..end of the line.
func (a assigner) value(from, end int) (value, bool) {
	i := end
	for n := 0; n < 2 && i < len(a.line) && strings.IndexByte(`"']`, a.line[i]) >= 0; n++ {
		i++
	}
	closed := i
	i = skipSpace(a.line, i)
	sep := separator(a.line[i:])
	if sep == 0 && i > closed {
		// var password string = "..."
		word := i
		for word < len(a.line) && (nameByte(a.line[word]) || strings.IndexByte("*[]", a.line[word]) >= 0) {
			word++
		}
		if after := skipSpace(a.line, word); word > i && after > word && separator(a.line[after:]) == 1 && a.line[after] == '=' {
			i, sep = after, 1
		}
	}
	v := value{tight: sep == 1 && a.line[i] == '=' && i == end}
	switch {
	case sep > 0:
		i += sep
		if after := skipSpace(a.line, i); after > i {
			i, v.tight = after, false
		}
	case i < len(a.line) && a.line[i] == '>' && from > 0 && a.line[from-1] == '<':
		i++
	case i > closed && i < len(a.line) && (a.setter || strings.HasPrefix(a.line[from:], "--")):
		v.spaced = true
	default:
		return value{}, false
	}
	// name: string = "..."
	if eq := strings.Index(a.line[i:], " = "); eq > 0 && strings.Trim(a.line[i:i+eq], "abcdefghijklmnopqrstuvwxyzS|? ") == "" {
		i = skipSpace(a.line, i+eq+3)
	}
	rest := a.line[i:]
	// The letters before a string of Python and Rust, shell's $'...'.
	for n := 0; n < 2 && len(rest) > n+1; n++ {
		if q := rest[n]; (q == '"' || q == '\'' || q == '`') && strings.Trim(rest[:n], "rbfuRBFU$@") == "" {
			i, rest = i+n, rest[n:]
			break
		}
	}
	if rest == "" {
		return value{}, false
	}
	if q := rest[0]; q == '"' || q == '\'' || q == '`' {
		if n := closingQuote(rest); n > 0 {
			v.span, v.quoted, v.text = span{i + 1, i + n}, true, rest[1:n]
			return v, true
		}
	}
	if strings.HasPrefix(rest, `\"`) {
		if n := strings.Index(rest[2:], `\"`); n > 0 {
			v.span, v.quoted, v.text = span{i + 2, i + 2 + n}, true, rest[2:2+n]
			return v, true
		}
	}
	n := unquotedEnd(rest, v.tight || v.spaced)
	v.text = rest[:n]
	v.span = span{i, i + n}
	after := strings.TrimSpace(rest[n:])
	v.ends = after == "" || strings.HasPrefix(after, "#")
	v.code = after != "" && strings.IndexByte(";,)}]", after[0]) >= 0
	return v, true
}

func skipSpace(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
		i++
	}
	return i
}

// separator returns the length of the operator with which s starts, 0 if that assigns nothing.
func separator(s string) int {
	if strings.HasPrefix(s, "==") || strings.HasPrefix(s, "=~") || strings.HasPrefix(s, "://") || strings.HasPrefix(s, ":-") {
		return 0
	}
	for _, op := range []string{":::=", "::=", "||=", "??=", ":=", "=>", "?=", "+=", ".=", "="} {
		if strings.HasPrefix(s, op) {
			return len(op)
		}
	}
	if strings.HasPrefix(s, ":") && !strings.HasPrefix(s, "::") {
		return 1
	}
	return 0
}

// closingQuote returns the position of the quote that ends the string with which s starts, 0 if there
// is none.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			return i
		}
	}
	return 0
}

// unquotedEnd returns the length of the value with which s starts. word: it ends at a space.
func unquotedEnd(s string, word bool) int {
	end := len(s)
	for _, stop := range []string{" #", " //", "; ", ", ", " &&", " ||", "</", "\\n"} {
		if i := strings.Index(s[:end], stop); i >= 0 {
			end = i
		}
	}
	if word {
		if i := strings.IndexAny(s[:end], " \t;&"); i >= 0 {
			end = i
		}
	}
	return len(strings.TrimRight(s[:end], " \t;,)}]"))
}

var (
	wordy = lazyre.New(`^[A-Za-z]?[a-z]+([-_ ./:][A-Za-z]?[a-z]+)*$`)
	// dotted is a field of a variable in a program: os.environ, config.token.
	dotted = lazyre.New(`^[A-Za-z_]\w*((\.|->|::)[A-Za-z_]\w*)+$`)
	// identifier is a name without digits: newToken, SECRET_TOKEN.
	identifier = lazyre.New(`^[A-Za-z_]+$`)
	// chord is a shortcut of an editor.
	chord = lazyre.New(`(?i)^(ctrl|control|cmd|command|alt|opt|option|shift|meta|super|win|mod|hyper|c|m|s)[+-]\S+( \S+)*$`)
	// inserted is what a program puts in place of a part of a string.
	inserted = lazyre.New(`\$[A-Za-z_({]|[%#]\{|\{\{|^%\(|%[sdvqx]|\{[A-Za-z_.]*\}|^<.*>$|\$\$\{`)
	// dated is a date or a version.
	dated = lazyre.New(`^v?[0-9][0-9:. TZ+-]*$`)
)

// typeWords are values that say what a value is like.
var typeWords = []string{
	"string", "str", "text", "required", "optional", "input", "bool", "boolean", "number", "integer", "none", "null", "true", "false", "prompt", "undefined",
	"nil", "keyring", "default", "empty", "object", "array", "always", "never", "enabled", "disabled", "bearer", "unknown", "missing", "invalid", "expired", "interactive",
	"hidden", "masked", "basic", "digest", "keychain", "environment", "plaintext", "cleartext", "encrypted",
}

// secret reports whether the value of a name is a secret, and not a variable, an expression, a
// command, a path, a placeholder, a word of prose or a shortcut.
func (a assigner) secret(n named, v value) bool {
	s := v.text
	lower := strings.ToLower(s)
	switch {
	case len(s) < 6, len(s) > 4000, placeholder(s), slices.Contains(typeWords, lower), strings.HasPrefix(lower, "op://"), strings.HasPrefix(s, "vault:"), strings.HasPrefix(s, "!"):
		return false
	case strings.HasPrefix(s, "/"), strings.HasPrefix(s, "~"), strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"), strings.Contains(s, "://"):
		return false
	case inserted.MatchString(s), chord.MatchString(s), dotted.MatchString(s), example(s) && len(s) > 12, strings.Trim(s, s[:1]) == "":
		return false
	case slices.ContainsFunc([]string{".txt", ".gpg", ".json", ".sh", ".pem", ".key", ".yaml", ".yml", ".toml", ".conf", ".go", ".py"}, func(e string) bool { return strings.HasSuffix(lower, e) }):
		return false
	case dated.MatchString(s) && (n.class < passwordName || strings.ContainsAny(s, ".:-T")):
		return false
	}
	if v.quoted && strings.HasPrefix(s, "`") { // a command of another program's configuration
		return false
	}
	if !v.quoted && (strings.ContainsAny(s, " \t`<>|\"'") || strings.HasPrefix(s, "-") || strings.HasPrefix(s, "&") || strings.HasPrefix(s, "*") || callOrIndex(s) || strings.ContainsAny(s[:1], "([{$@")) {
		return false
	}
	random := looksRandom(s)
	if a.comment {
		return random && entropy(s) > 3.2
	}
	digits := strings.ContainsAny(s, "0123456789")
	words := wordy.MatchString(s)
	env := v.tight && n.upper
	switch n.class {
	case passwordName:
		return a.password(n, v, words, digits, env)
	case tokenName:
		switch {
		case random:
			return true
		case v.spaced, !v.quoted && !env && (v.code || !v.ends || identifier.MatchString(s)):
			return false
		case env:
			return len(s) >= 8 && (!n.tail || digits) && (!words || !strings.ContainsAny(s, "-_ ./:")) && !upperName(s)
		}
		return len(s) >= 10 && digits && mixed(s) && !words
	}
	return random
}

// password reports whether the value of a name like "password" is one.
func (a assigner) password(n named, v value, words, digits, env bool) bool {
	s := v.text
	separated := strings.ContainsAny(s, "-_ ./:")
	switch {
	case strings.Contains(s, " "):
		f := strings.Fields(strings.ToLower(s))
		return v.quoted && len(f) <= 6 && !n.tail && entropy(s) > 3 && !slices.ContainsFunc(f, func(w string) bool { return slices.Contains(prose, strings.Trim(w, ".,:!?'")) })
	case v.spaced:
		return !words && digits && len(s) >= 8
	case words && separated, upperName(s):
		return false
	case words && v.quoted:
		return !n.tail && len(s) >= 8 || entropy(s) >= 3 && env
	case words:
		return env || v.ends && !v.tight && len(s) >= 8 && strings.TrimLeft(a.line, " \t-") != "" && s == strings.ToLower(s)
	case !v.quoted && identifier.MatchString(s):
		return env
	case !v.quoted && v.code:
		return looksRandom(s)
	case n.tail:
		return digits || env
	}
	return true
}

// prose are words of messages about passwords, which are no part of one.
var prose = []string{
	"password", "passwords", "passphrase", "passwd", "enter", "your", "the", "please", "must", "is", "not", "invalid", "for", "to", "a", "an", "of", "with", "and", "or", "if", "new", "current", "incorrect", "wrong", "too", "no", "user",
	"key", "token", "secret", "file", "from", "in", "by", "be", "on", "that", "this", "used", "required", "required.",
}

// callOrIndex reports whether an unquoted value is an expression: os.environ["X"], getpass(), a[0].
func callOrIndex(s string) bool {
	i := strings.IndexAny(s, "([{")
	if i < 0 {
		return false
	}
	if i == 0 {
		return true
	}
	return strings.Trim(strings.ToLower(s[:i]), "abcdefghijklmnopqrstuvwxyz0123456789_.:&*!") == ""
}

// upperName reports whether a value is the name of a variable or a constant: MY_TOKEN.
func upperName(s string) bool {
	return s == strings.ToUpper(s) && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

// mixed reports whether letters and digits alternate more than a word with a number does: not
// "utf8", "sha256" or "key1".
func mixed(s string) bool {
	changes, last := 0, 0
	for i := range len(s) {
		kind := 0
		switch {
		case isDigit(s[i]):
			kind = 1
		case isUpper(s[i]):
			kind = 2
		case isLower(s[i]):
			kind = 3
		}
		if kind != last {
			changes++
		}
		last = kind
	}
	return changes >= 4
}

// looksRandom reports whether a value was generated: at least 16 characters, letters and digits,
// mixed within its parts.
func looksRandom(s string) bool {
	if len(s) < 16 || entropy(s) < 3 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=_.~!@#%^&*:-") != "" {
		return false
	}
	random := 0
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-_./:", r) }) {
		changes, digits := 0, 0
		for i := range len(part) {
			if isDigit(part[i]) {
				digits++
			}
			if i > 0 && isDigit(part[i]) != isDigit(part[i-1]) {
				changes++
			}
		}
		if digits > 0 && digits < len(part) && (changes >= 3 || changes >= 2 && len(part) >= 8) {
			random += len(part)
		}
	}
	return random >= 8
}
