package secretscan

import (
	"path"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
)

var (
	urlPassword = lazyre.New(`(?i)\b[a-z][a-z0-9+.-]*://[^\s/:@"'$<>{}]*:([^\s/@"'$<>{}]{2,})@[^\s"']+`)
	// proxyPassword is an address of a proxy without "http://", as curl and docker accept it.
	proxyPassword = lazyre.New(`(?i)proxy["']?\s*[:=\s]\s*["']?[^\s/:@"'$<>{}]+:([^\s/@"'$<>{}]{3,})@[a-z0-9.-]+:\d+`)
	// pgpass is HOST:PORT:DATABASE:USER:PASSWORD.
	pgpass = lazyre.New(`^[^\s:#]+:(?:\d{4,5}|\*):(?:[^:\\]|\\.)+:(?:[^:\\]|\\.)+:((?:[^:\\]|\\.){4,})$`)
)

// Lines are searched in pieces, so that the work for a long one grows with its length only.
const (
	pieceSize    = 8 << 10
	pieceOverlap = 1 << 10
)

// searchLines finds what is recognized by its place in a line: passwords in addresses, values of
// secret-like names, .netrc, .pgpass.
func searchLines(name, text string) []place {
	var out []place
	base := strings.ToLower(path.Base(name))
	pass := strings.Contains(base, "pgpass")
	netrc, start := false, 0
	for line := range strings.SplitSeq(text, "\n") {
		at := start
		start += len(line) + 1
		line = strings.TrimSuffix(line, "\r")
		for from := 0; ; {
			to := min(len(line), from+pieceSize)
			for _, p := range searchPiece(line[from:to], pass) {
				p.start, p.end = p.start+at+from, p.end+at+from
				if len(out) < maxFound {
					out = append(out, p)
				}
			}
			if to == len(line) {
				break
			}
			from = to - pieceOverlap
		}
		if len(line) > pieceSize {
			continue
		}
		// A netrc entry over several lines.
		f := strings.Fields(line)
		if len(f) >= 2 && (f[0] == "machine" || f[0] == "login") {
			netrc = true
		} else if netrc && len(f) == 2 && f[0] == "password" && len(out) < maxFound {
			out = append(out, place{at, at + len(line), rankAddress, "a password in a netrc"})
		}
	}
	return out
}

func searchPiece(line string, inPgpass bool) []place {
	if len(line) < 8 {
		return nil
	}
	var out []place
	add := func(re *lazyre.Regexp, kind string, keep func(string) bool) {
		for _, m := range re.FindAllStringSubmatchIndex(line, -1) {
			if keep(line[m[2]:m[3]]) {
				out = append(out, place{m[0], m[1], rankAddress, kind})
			}
		}
	}
	if strings.Contains(line, "://") {
		add(urlPassword, "a password in an address", func(v string) bool { return !placeholder(v) })
	}
	if strings.Contains(line, "@") && containsFold(line, "proxy") {
		add(proxyPassword, "a password in an address", func(v string) bool { return !placeholder(v) })
	}
	if strings.Count(line, ":") >= 4 && (inPgpass || strings.Count(line, ":") < 8) {
		add(pgpass, "a password in a .pgpass", func(v string) bool {
			return inPgpass || !placeholder(v) && strings.Trim(v, "0123456789.") != "" && !strings.ContainsAny(v, " /<>{}")
		})
	}
	return append(out, assignments(line)...)
}

// containsFold reports whether an ASCII word occurs in s in any case.
func containsFold(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

func placeholder(v string) bool {
	lower := strings.ToLower(v)
	switch lower {
	case "xxx", "***", "...", "pass", "password", "passwd", "pwd", "changeme", "placeholder", "secret", "example", "token", "redacted", "dummy":
		return true
	}
	return strings.HasPrefix(lower, "your") || strings.Trim(lower, "*x.") == "" ||
		strings.HasPrefix(v, "<") || strings.HasPrefix(v, "%") && strings.HasSuffix(v, "%") || strings.HasPrefix(v, "{{")
}
