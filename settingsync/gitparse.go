package settingsync

import (
	"fmt"
	"strings"
)

// gitVar is one assignment of a git configuration.
type gitVar struct {
	section, sub string // section in lower case; sub as written
	hasSub       bool
	key          string // in lower case
	value        string
	bare         bool // no "=": true
	line         int
	hidden       bool // not written; hides earlier values of the variable
}

// name returns the variable's name as `git config --list` prints it.
func (v gitVar) name() string {
	if v.hasSub {
		return v.section + "." + v.sub + "." + v.key
	}
	return v.section + "." + v.key
}

// parseGit parses a git configuration as git does (git-config(1); config.c).
func parseGit(text string) ([]gitVar, error) {
	p := &gitParser{text: strings.ReplaceAll(strings.TrimPrefix(text, bom), "\r\n", "\n"), line: 1}
	var out []gitVar
	var section gitVar
	named := false
	for {
		c, ok := p.next()
		switch {
		case !ok:
			return out, nil
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
		case c == '#' || c == ';':
			p.comment()
		case c == '[':
			s, err := p.section()
			if err != nil {
				return nil, err
			}
			section, named = s, true
		case isLetter(c):
			v := section
			v.line = p.line
			if err := p.variable(&v, c); err != nil {
				return nil, err
			}
			if named { // git accepts one before any section, but it has no effect
				out = append(out, v)
			}
		default:
			return nil, p.errorf("unexpected %q", string(rune(c)))
		}
	}
}

type gitParser struct {
	text     string
	at, line int
}

func (p *gitParser) errorf(format string, args ...any) error {
	start := strings.LastIndexByte(p.text[:min(p.at, len(p.text))], '\n') + 1
	return &SyntaxError{Line: p.line, Column: max(1, p.at-start), What: fmt.Sprintf(format, args...)}
}

func (p *gitParser) next() (byte, bool) {
	if p.at >= len(p.text) {
		return 0, false
	}
	c := p.text[p.at]
	p.at++
	if c == '\n' {
		p.line++
	}
	return c, true
}

func (p *gitParser) comment() {
	if i := strings.IndexByte(p.text[p.at:], '\n'); i >= 0 {
		p.at += i // the caller reads the newline
		return
	}
	p.at = len(p.text)
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func isKeyChar(c byte) bool { return isLetter(c) || c >= '0' && c <= '9' || c == '-' }

// section parses after "[": a name, or a name and a quoted subsection.
func (p *gitParser) section() (gitVar, error) {
	var name strings.Builder
	for {
		c, ok := p.next()
		switch {
		case !ok:
			return gitVar{}, p.errorf("missing ] of the section")
		case c == ']':
			s := strings.ToLower(name.String())
			if s == "" {
				return gitVar{}, p.errorf("the section has no name")
			}
			// "[branch.main]" is the old spelling of a name in two parts.
			if first, sub, old := strings.Cut(s, "."); old {
				return gitVar{section: first, sub: sub, hasSub: true}, nil
			}
			return gitVar{section: s}, nil
		case c == ' ' || c == '\t':
			sub, err := p.subsection()
			return gitVar{section: strings.ToLower(name.String()), sub: sub, hasSub: true}, err
		case isKeyChar(c) || c == '.':
			name.WriteByte(c)
		default:
			return gitVar{}, p.errorf("unexpected %q in a section name", string(rune(c)))
		}
	}
}

func (p *gitParser) subsection() (string, error) {
	c, ok := p.next()
	for ok && (c == ' ' || c == '\t') {
		c, ok = p.next()
	}
	if !ok || c != '"' {
		return "", p.errorf("expected a name in double quotes")
	}
	var sub strings.Builder
	for {
		c, ok := p.next()
		if ok && c == '\\' {
			c, ok = p.next()
			if ok && c != '\n' {
				sub.WriteByte(c)
				continue
			}
		}
		switch {
		case !ok || c == '\n':
			return "", p.errorf("missing closing quote of the section name")
		case c == '"':
			if c, ok := p.next(); !ok || c != ']' {
				return "", p.errorf("expected ]")
			}
			return sub.String(), nil
		}
		sub.WriteByte(c)
	}
}

func (p *gitParser) variable(v *gitVar, first byte) error {
	key := []byte{first}
	c, ok := p.next()
	for ok && isKeyChar(c) {
		key = append(key, c)
		c, ok = p.next()
	}
	v.key = strings.ToLower(string(key))
	for ok && (c == ' ' || c == '\t') {
		c, ok = p.next()
	}
	switch {
	case !ok || c == '\n':
		v.bare = true
		return nil
	case c != '=':
		return p.errorf("expected = after the variable %q", v.key)
	}
	value, err := p.value()
	v.value = value
	return err
}

// value parses to the end of the line: it trims spaces outside quotes at both ends, stops at a
// comment, and joins lines that end in a backslash.
func (p *gitParser) value() (string, error) {
	var out []byte
	quoted, comment := false, false
	trimmedLen := 0 // length without trailing unquoted space
	for {
		c, ok := p.next()
		if !ok || c == '\n' {
			if quoted {
				return "", p.errorf("missing closing quote of the value")
			}
			return string(out[:trimmedLen]), nil
		}
		switch {
		case comment:
		case (c == ' ' || c == '\t' || c == '\r') && !quoted:
			if len(out) > 0 {
				out = append(out, c)
			}
		case (c == ';' || c == '#') && !quoted:
			comment = true
		case c == '\\':
			e, ok := p.next()
			switch {
			case !ok:
				return "", p.errorf("the file ends with a backslash")
			case e == '\n':
				continue
			case e == 't':
				e = '\t'
			case e == 'b':
				e = '\b'
			case e == 'n':
				e = '\n'
			case e != '\\' && e != '"':
				return "", p.errorf("unknown escape \\%c", e)
			}
			out = append(out, e)
			trimmedLen = len(out)
		case c == '"':
			quoted = !quoted
			trimmedLen = len(out)
		default:
			out = append(out, c)
			trimmedLen = len(out)
		}
	}
}

// writeGit formats variables so that git parses exactly them.
func writeGit(vars []gitVar) string {
	var b strings.Builder
	var last gitVar
	for i, v := range vars {
		if i == 0 || v.section != last.section || v.hasSub != last.hasSub || v.sub != last.sub {
			if v.hasSub {
				fmt.Fprintf(&b, "[%s \"%s\"]\n", v.section, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v.sub))
			} else {
				fmt.Fprintf(&b, "[%s]\n", v.section)
			}
		}
		last = v
		b.WriteString("\t" + v.key)
		if !v.bare {
			b.WriteString(" = " + gitQuote(v.value))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func gitQuote(s string) string {
	plain := s != "" && strings.TrimSpace(s) == s && !strings.ContainsAny(s, "\"\\;#\n\t\b\r")
	if plain {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\b", `\b`).Replace(s) + `"`
}
