package sshcfg

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// directive is one line of an ssh configuration, with its position and whether it applies
// to the scanner's alias.
type directive struct {
	file    string
	line    int
	keyword string // lower case
	args    []string
	applies applies
}

// applies tells whether a line applies to an alias. It is maybe for a Match line whose
// criteria only ssh can evaluate (exec, the address, the local network).
type applies int

const (
	no applies = iota
	maybe
	yes
)

// scanner reads configurations as ssh does, with Include files in place. It never fails: a
// file it cannot read or a line it does not understand is left out.
//
// github.com/kevinburke/ssh_config is not used for files of the user: it refuses a complete
// file because of one Match line, reads every Include itself (a FIFO blocks it, and so it
// would read files a guest can write), and does not report the line of a Host. It is used
// to check the files aivm writes (readBack).
type scanner struct {
	alias string
	home  string // value of ~
	base  string // directory for relative Include paths
	skip  string // aivm's ConfigDir, which is not read
	files int
	out   []directive
	guard *guard // checks Include lines; nil for no check
}

// maxDepth is ssh's limit for nested Includes (READCONF_MAX_DEPTH). maxFiles is aivm's own
// limit, for an Include whose pattern matches a complete home directory.
const (
	maxDepth = 16
	maxFiles = 500
)

// directives returns the lines ssh reads for an alias: those of the user's file, then those
// of the system's file unless ssh is called with -F. aivm's own files are left out.
func (l Layout) directives(alias string) []directive {
	s := scanner{alias: alias, home: l.Home, skip: filepath.Clean(l.ConfigDir), base: filepath.Join(l.Home, ".ssh")}
	s.file(l.sshConfig(), yes, 0)
	if len(l.SSHArgs()) == 0 {
		s.base = filepath.Dir(l.systemConfig())
		s.file(l.systemConfig(), yes, 0)
	}
	return s.out
}

// Includes reports whether ssh reads the entry of an alias: an Include of it is in the user's
// configuration or the system's, in lines that apply to the alias. It starts no program, so
// that a Match line counts as one that applies.
func (l Layout) Includes(alias string) bool {
	entry := l.ConfPath(alias)
	s := scanner{alias: alias, home: l.Home, base: filepath.Join(l.Home, ".ssh")}
	for _, d := range l.directives(alias) {
		if d.keyword != "include" || d.applies == no {
			continue
		}
		for _, a := range d.args {
			for _, p := range s.expand(a) {
				if fits, err := filepath.Match(filepath.Base(p), filepath.Base(entry)); err == nil && fits && l.sameDir(filepath.Dir(p)) {
					return true
				}
			}
		}
	}
	return false
}

// file scans the file at path; parent tells whether its Include line applies.
func (s *scanner) file(path string, parent applies, depth int) {
	if depth > maxDepth || s.files >= maxFiles || filepath.Dir(path) == s.skip {
		return
	}
	s.files++
	f, err := readFile(path)
	if err != nil || !f.Exists {
		return
	}
	s.data(path, f.Data, parent, depth)
}

// data scans the content of the file at path.
func (s *scanner) data(path string, data []byte, parent applies, depth int) {
	active := parent
	for i, x := range splitLines(data) {
		kw, args := parseLine(x.text)
		if kw == "" {
			continue
		}
		switch kw {
		case "host":
			active = min(parent, hostApplies(args, s.alias))
		case "match":
			active = min(parent, matchApplies(args))
		case "include":
			for _, a := range args {
				for _, p := range s.expand(a) {
					if !filepath.IsAbs(p) {
						p = filepath.Join(s.base, p)
					}
					names, _ := filepath.Glob(p)
					if s.guard != nil && !s.guard.include(path, p, names) {
						return
					}
					for _, n := range names {
						s.file(n, active, depth+1)
					}
				}
			}
		}
		s.out = append(s.out, directive{path, i + 1, kw, args, active})
	}
}

// hostApplies follows ssh's rule for Host: a pattern matches, and no negated pattern does.
func hostApplies(patterns []string, alias string) applies {
	hit := no
	for _, p := range patterns {
		neg := strings.HasPrefix(p, "!")
		if matchPattern(strings.TrimPrefix(p, "!"), alias) {
			if neg {
				return no
			}
			hit = yes
		}
	}
	return hit
}

// matchApplies returns yes for "Match all", and maybe for all other criteria.
func matchApplies(args []string) applies {
	if len(args) == 1 && strings.EqualFold(args[0], "all") {
		return yes
	}
	return maybe
}

// matchPattern matches s against a pattern with * and ?, as in ssh_config(5), PATTERNS.
func matchPattern(p, s string) bool {
	for p != "" {
		switch {
		case p[0] == '*':
			p = strings.TrimLeft(p, "*")
			if p == "" {
				return true
			}
			for i := range len(s) {
				if matchPattern(p, s[i:]) {
					return true
				}
			}
			return false
		case s == "" || p[0] != '?' && p[0] != s[0]:
			return false
		}
		p, s = p[1:], s[1:]
	}
	return s == ""
}

// parseLine splits a line into its keyword, in lower case, and its arguments. The keyword is
// empty for a blank line, a comment, or a line that cannot be parsed.
func parseLine(text string) (string, []string) {
	text = strings.Trim(text, " \t\r\n\f\v")
	if text == "" || text[0] == '#' {
		return "", nil
	}
	kw, rest, ok := keyword(text)
	if ok && kw == "" { // the line starts with "" or =
		kw, rest, ok = keyword(rest)
	}
	if !ok || kw == "" || kw[0] == '#' {
		return "", nil
	}
	args, err := splitArgs(rest)
	if err != nil {
		return "", nil
	}
	return strings.ToLower(kw), args
}

// keyword splits the keyword off a line, like strdelim in OpenSSH's misc.c: a keyword ends
// at white space or =, and a part of it may be quoted.
func keyword(s string) (kw, rest string, ok bool) {
	const blanks = " \t\r\n"
	i := strings.IndexAny(s, blanks+"=\"")
	if i < 0 {
		return s, "", true
	}
	if s[i] == '"' {
		in, after, closed := strings.Cut(s[i+1:], "\"")
		return s[:i] + in, strings.TrimLeft(after, blanks), closed
	}
	rest = strings.TrimLeft(s[i+1:], blanks)
	if s[i] != '=' && strings.HasPrefix(rest, "=") {
		rest = strings.TrimLeft(rest[1:], blanks)
	}
	return s[:i], rest, true
}

var errQuote = errors.New("a quote is not closed")

// splitArgs splits a line's arguments, like argv_split in OpenSSH's misc.c. It handles
// single and double quotes, a backslash before a quote, a backslash or (outside quotes) a
// space, and a comment from a # at the start of a word.
func splitArgs(s string) ([]string, error) {
	var args []string
	for i := 0; i < len(s); {
		if s[i] == ' ' || s[i] == '\t' {
			i++
			continue
		}
		if s[i] == '#' {
			break
		}
		var b strings.Builder
		var quote byte
		for ; i < len(s); i++ {
			c := s[i]
			switch {
			case c == '\\' && i+1 < len(s) && (strings.IndexByte(`'"\`, s[i+1]) >= 0 || quote == 0 && s[i+1] == ' '):
				i++
				b.WriteByte(s[i])
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case quote != 0 && c == quote:
				quote = 0
			case quote == 0 && (c == ' ' || c == '\t'):
				goto done
			default:
				b.WriteByte(c)
			}
		}
	done:
		if quote != 0 {
			return nil, errQuote
		}
		args = append(args, b.String())
	}
	return args, nil
}

// Clash is a Host line that already uses the alias of a VM.
type Clash struct {
	File string
	Line int
	// Legacy marks a line in a block written by aivm 0.3. It is not changed: it comes after
	// aivm's Include, so that aivm's values take effect.
	Legacy bool
	// Store is the ConfigDir of another store that has a VM with this alias; "" if the line
	// was written by the user.
	Store string
}

func (c Clash) String() string { return fmt.Sprintf("%s line %d", c.File, c.Line) }

// Others returns the Host lines in the user's configuration, and in the files it includes,
// that name alias literally. Patterns that match it do not count, since aivm's stanza comes
// first.
func Others(l Layout, alias string) []Clash {
	var cs []Clash
	for _, d := range l.directives(alias) {
		if d.keyword == "host" && slices.Contains(d.args, alias) {
			cs = append(cs, Clash{File: d.file, Line: d.line, Store: storeOf(d.file, alias)})
		}
	}
	blocks := map[string][][2]int{} // blocks of aivm 0.3 by file
	for i, c := range cs {
		bs, ok := blocks[c.File]
		if !ok {
			if f, err := readFile(c.File); err == nil {
				bs = legacyBlocks(f.Data)
			}
			blocks[c.File] = bs
		}
		for _, b := range bs {
			cs[i].Legacy = cs[i].Legacy || b[0] <= c.Line && c.Line <= b[1]
		}
	}
	return cs
}

// legacyBlocks returns the line ranges, counted from 1, of the blocks of aivm 0.3: from
// "# >>> aivm:NAME >>>" to "# <<< aivm:NAME <<<".
func legacyBlocks(data []byte) [][2]int {
	var out [][2]int
	name, from := "", 0
	for i, x := range splitLines(data) {
		if n, ok := strings.CutPrefix(x.text, "# >>> aivm:"); ok {
			name, from = strings.TrimSuffix(n, " >>>"), i+1
		} else if from > 0 && x.text == "# <<< aivm:"+name+" <<<" {
			out = append(out, [2]int{from, i + 1})
			from = 0
		}
	}
	return out
}
