package sshcfg

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// These are the markers that earlier versions wrote around their Include line. They do not
// name a store; for the present ones see the function markers.
const (
	beginMarker = "# >>> aivm >>>"
	endMarker   = "# <<< aivm <<<"
)

var bom = []byte("\xef\xbb\xbf")

// includeGlob returns the pattern for aivm's Include line. It refuses a directory whose name
// ssh would take for a pattern or would expand (newer releases expand % and ${ here, older
// ones do not).
func (l Layout) includeGlob() (string, error) {
	if err := checkPath("Include", l.ConfigDir); err != nil {
		return "", err
	}
	if strings.ContainsAny(l.ConfigDir, "*?[]{}%") {
		return "", ui.Refused("the directory %q cannot be written in an ssh Include line", l.ConfigDir).
			Hint(ui.Remark("set XDG_CONFIG_HOME to a directory without * ? [ ] { } %"))
	}
	return filepath.Join(l.ConfigDir, "*.conf"), nil
}

// IncludeLine returns the line that must be before all other directives in the user's
// configuration.
func (l Layout) IncludeLine() (string, error) {
	glob, err := l.includeGlob()
	if err != nil {
		return "", err
	}
	return "Include " + quoteWord(glob), nil
}

// line is one line of a configuration. Only \n ends a line, as for ssh.
type line struct {
	start, end int // byte offsets; end is after the \n
	text       string
}

// splitLines splits data into lines; their text has no white space around it.
func splitLines(data []byte) []line {
	var ls []line
	for at := 0; at < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		raw := data[at:end]
		if at == 0 {
			raw = bytes.TrimPrefix(raw, bom)
		}
		ls = append(ls, line{at, end, strings.Trim(string(raw), " \t\r\n\f\v")})
		at = end
	}
	return ls
}

// markerError describes damaged markers. remove lists the lines whose removal repairs them,
// counted from 1.
type markerError struct {
	what   string
	remove []int
}

func (e *markerError) Error() string { return e.what }

// block is the range from the line of a begin marker to that of its end marker.
type block struct{ first, last int } // indexes into lines

// findBlock returns the block between these two markers, nil if there is none. It is an
// error if there is not exactly one begin marker followed by one end marker: a wrong guess
// could remove the user's lines.
func findBlock(ls []line, begin, end string) (*block, error) {
	type mark struct {
		at    int
		begin bool
	}
	var ms []mark
	for i, l := range ls {
		if l.text == begin || l.text == end {
			ms = append(ms, mark{i, l.text == begin})
		}
	}
	switch {
	case len(ms) == 0:
		return nil, nil
	case len(ms) == 2 && ms[0].begin && !ms[1].begin:
		return &block{ms[0].at, ms[1].at}, nil
	}
	e := &markerError{}
	for _, m := range ms {
		e.remove = append(e.remove, m.at+1)
	}
	pairs := len(ms)%2 == 0
	for i, m := range ms {
		pairs = pairs && m.begin == (i%2 == 0)
	}
	switch {
	case len(ms) == 1 && ms[0].begin:
		e.what = fmt.Sprintf("line %d begins aivm's block, but there is no end marker", ms[0].at+1)
	case len(ms) == 1:
		e.what = fmt.Sprintf("line %d ends aivm's block, but there is no begin marker", ms[0].at+1)
	case len(ms) == 2 && !ms[0].begin && ms[1].begin:
		e.what = fmt.Sprintf("the end marker on line %d is before the begin marker on line %d", ms[0].at+1, ms[1].at+1)
	case pairs:
		// Keep the first pair; remove the others with the lines between them.
		e.what = fmt.Sprintf("aivm's block is there %d times, again on line %d", len(ms)/2, ms[2].at+1)
		e.remove = nil
		for i := 2; i < len(ms); i += 2 {
			for n := ms[i].at; n <= ms[i+1].at; n++ {
				e.remove = append(e.remove, n+1)
			}
		}
	default:
		// Name the first marker that is not the expected one of begin and end.
		at := ms[len(ms)-1].at
		for i, m := range ms {
			if m.begin != (i%2 == 0) {
				at = m.at
				break
			}
		}
		e.what = fmt.Sprintf("the marker on line %d does not match the one before it", at+1)
	}
	return nil, e
}

// damaged returns the error for damaged markers in the file at path, with a hint on which
// lines to remove.
func damaged(path string, err *markerError) error {
	nums := make([]string, len(err.remove))
	for i, n := range err.remove {
		nums[i] = fmt.Sprint(n)
	}
	word := "line "
	if len(nums) > 1 {
		word = "lines "
	}
	return ui.Refused("the aivm markers in %s are damaged: %w", path, err).
		Hint(ui.Remark("remove " + word + strings.Join(nums, ", ") + " of " + path + ", then run the command again, which writes the block again"))
}

// ensureInclude returns data with this store's block before all directives except the
// Includes of other stores. It returns data unchanged if the block is there already, or if
// the user has added the Include line manually. All bytes outside the block are kept in
// their order.
func ensureInclude(data []byte, l store) ([]byte, error) {
	want, err := l.IncludeLine()
	if err != nil {
		return nil, err
	}
	ls := splitLines(data)
	own, err := l.ownBlocks(ls)
	if err != nil {
		return nil, err
	}
	if len(own) == 0 {
		if l.hasUnmarkedInclude(ls) {
			return data, nil
		}
		return insertTop(data, l.renderBlock(data, want)), nil
	}
	if b := own[0]; len(own) == 1 && onlyStores(ls[:b.first]) {
		includes, foreign := l.inner(data, ls[b.first+1:b.last])
		if len(foreign) == 0 && len(includes) == 1 && (includes[0] == want || l.otherSpelling(includes[0])) {
			return data, nil
		}
		return cutBlocks(data, ls, own, func(block) []byte { return concat(l.renderBlock(data, want), foreign) }), nil
	}
	return insertTop(l.withoutBlocks(data, ls, own), l.renderBlock(data, want)), nil
}

// removeInclude returns data without this store's block. Other lines between the markers
// are kept.
func removeInclude(data []byte, l store) ([]byte, error) {
	ls := splitLines(data)
	own, err := l.ownBlocks(ls)
	if err != nil || len(own) == 0 {
		return data, err
	}
	return l.withoutBlocks(data, ls, own), nil
}

// withoutBlocks returns data without the given blocks, except for lines in them that are
// not aivm's.
func (l store) withoutBlocks(data []byte, ls []line, own []block) []byte {
	return cutBlocks(data, ls, own, func(b block) []byte {
		_, foreign := l.inner(data, ls[b.first+1:b.last])
		return foreign
	})
}

// cutBlocks replaces each block, given in the order of the file, with the bytes that
// replacement returns for it.
func cutBlocks(data []byte, ls []line, blocks []block, replacement func(block) []byte) []byte {
	var out []byte
	at := 0
	for _, b := range blocks {
		start := ls[b.first].start
		if start == 0 && bytes.HasPrefix(data, bom) {
			start = len(bom)
		}
		out = append(append(out, data[at:start]...), replacement(b)...)
		at = ls[b.last].end
	}
	return append(out, data[at:]...)
}

// inner splits the lines between the markers into this store's Include lines and the bytes
// of all other lines.
func (l store) inner(data []byte, ls []line) (includes []string, foreign []byte) {
	for _, x := range ls {
		switch {
		case l.isOwnInclude(x.text):
			includes = append(includes, x.text)
		case x.text != "":
			foreign = append(foreign, data[x.start:x.end]...)
		}
	}
	return includes, foreign
}

// hasUnmarkedInclude reports whether there is an Include of this store's files, without
// markers, before all directives except other Includes.
func (l Layout) hasUnmarkedInclude(ls []line) bool {
	glob, err := l.includeGlob()
	if err != nil {
		return false
	}
	for _, x := range ls {
		kw, args := parseLine(x.text)
		if kw == "" {
			continue
		}
		if kw != "include" {
			return false
		}
		for _, a := range args {
			if a = expandHome(a, l.Home); a == glob || a == filepath.Join(l.ConfigDir, "*") {
				return true
			}
		}
	}
	return false
}

// renderBlock returns the Include line between its markers, with the line endings that most
// lines of data have.
func (l Layout) renderBlock(data []byte, include string) []byte {
	eol := "\n"
	if n := bytes.Count(data, []byte("\n")); n > 0 && 2*bytes.Count(data, []byte("\r\n")) > n {
		eol = "\r\n"
	}
	begin, end := markers(l.ConfigDir)
	return []byte(begin + eol + include + eol + end + eol)
}

// insertTop inserts blk at the start of data, after a byte order mark.
func insertTop(data, blk []byte) []byte {
	at := 0
	if bytes.HasPrefix(data, bom) {
		at = len(bom)
	}
	return concat(data[:at], blk, data[at:])
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
