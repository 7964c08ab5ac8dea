package sshcfg

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// The markers earlier versions put round their line in the user's configuration.
// They do not say whose line it is: see Layout.markers for those written now.
const (
	beginMarker = "# >>> aivm >>>"
	endMarker   = "# <<< aivm <<<"
)

var bom = []byte("\xef\xbb\xbf")

// includeGlob is the pattern our Include names. A directory whose name ssh
// would take for a pattern or expand (newer releases expand % and ${ here,
// older ones do not) is refused.
func (l Layout) includeGlob() (string, error) {
	if err := checkPath("Include", l.ConfigDir); err != nil {
		return "", err
	}
	if strings.ContainsAny(l.ConfigDir, "*?[]{}%") {
		return "", ui.Refused("the directory %q cannot be named in an ssh Include line", l.ConfigDir).
			Hint(ui.Remark("set XDG_CONFIG_HOME to a directory without * ? [ ] { } %"))
	}
	return filepath.Join(l.ConfigDir, "*.conf"), nil
}

// IncludeLine is the line that has to stand before every other directive of
// the user's configuration.
func (l Layout) IncludeLine() (string, error) {
	glob, err := l.includeGlob()
	if err != nil {
		return "", err
	}
	return "Include " + quoteWord(glob), nil
}

// line is one line with its terminator. ssh ends lines at \n alone.
type line struct {
	start, end int // byte offsets, end behind the terminator
	text       string
}

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

// markerError names damaged markers; line numbers count from 1.
type markerError struct {
	what   string
	remove []int
}

func (e *markerError) Error() string { return e.what }

// block is the range from a begin marker's line to its end marker's.
type block struct{ first, last int } // indexes into lines

// findBlock returns the block between these two markers, nil if there is none.
// Anything but one begin followed by one end is an error: guessing could eat
// the user's lines.
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
		e.what = fmt.Sprintf("line %d begins aivm's block and nothing ends it", ms[0].at+1)
	case len(ms) == 1:
		e.what = fmt.Sprintf("line %d ends aivm's block and nothing begins it", ms[0].at+1)
	case len(ms) == 2 && !ms[0].begin && ms[1].begin:
		e.what = fmt.Sprintf("the end marker on line %d stands before the begin marker on line %d", ms[0].at+1, ms[1].at+1)
	case pairs:
		// Keep the first pair, the others go with what is between them.
		e.what = fmt.Sprintf("aivm's block stands there %d times, again on line %d", len(ms)/2, ms[2].at+1)
		e.remove = nil
		for i := 2; i < len(ms); i += 2 {
			for n := ms[i].at; n <= ms[i+1].at; n++ {
				e.remove = append(e.remove, n+1)
			}
		}
	default:
		// Name the line where the alternation breaks.
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

// damaged turns a markerError into what the user sees.
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
		Hint(ui.Remark("remove " + word + strings.Join(nums, ", ") + " of " + path + ", then run the command again; aivm writes its block again"))
}

// ensureInclude returns data with this store's block before every directive but
// the Includes of other stores. It returns data itself when that is so already,
// or when a line added by hand does the same. Every byte outside the block
// stays, in its order.
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
		if l.byHand(ls) {
			return data, nil
		}
		return insertTop(data, l.renderBlock(data, want)), nil
	}
	if b := own[0]; len(own) == 1 && onlyStores(ls[:b.first]) {
		ours, foreign := l.inner(data, ls[b.first+1:b.last])
		if len(foreign) == 0 && len(ours) == 1 && (ours[0] == want || l.otherSpelling(ours[0])) {
			return data, nil
		}
		return cutBlocks(data, ls, own, func(block) []byte { return concat(l.renderBlock(data, want), foreign) }), nil
	}
	return insertTop(l.withoutBlocks(data, ls, own), l.renderBlock(data, want)), nil
}

// removeInclude returns data without this store's block; lines of others that
// found their way between the markers stay.
func removeInclude(data []byte, l store) ([]byte, error) {
	ls := splitLines(data)
	own, err := l.ownBlocks(ls)
	if err != nil || len(own) == 0 {
		return data, err
	}
	return l.withoutBlocks(data, ls, own), nil
}

// withoutBlocks replaces blocks of ours with what others wrote into them.
func (l store) withoutBlocks(data []byte, ls []line, own []block) []byte {
	return cutBlocks(data, ls, own, func(b block) []byte {
		_, foreign := l.inner(data, ls[b.first+1:b.last])
		return foreign
	})
}

// cutBlocks replaces each block, in the order of the file, with what put says.
func cutBlocks(data []byte, ls []line, blocks []block, put func(block) []byte) []byte {
	var out []byte
	at := 0
	for _, b := range blocks {
		start := ls[b.first].start
		if start == 0 && bytes.HasPrefix(data, bom) {
			start = len(bom)
		}
		out = append(append(out, data[at:start]...), put(b)...)
		at = ls[b.last].end
	}
	return append(out, data[at:]...)
}

// inner splits what stands between the markers into this store's Include lines
// and the bytes of everything else.
func (l store) inner(data []byte, ls []line) (ours []string, foreign []byte) {
	for _, x := range ls {
		switch {
		case l.mine(x.text):
			ours = append(ours, x.text)
		case x.text != "":
			foreign = append(foreign, data[x.start:x.end]...)
		}
	}
	return ours, foreign
}

// byHand reports whether an Include of our files stands, without markers,
// before every directive but other Includes.
func (l Layout) byHand(ls []line) bool {
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

func (l Layout) renderBlock(data []byte, include string) []byte {
	eol := "\n"
	if n := bytes.Count(data, []byte("\n")); n > 0 && 2*bytes.Count(data, []byte("\r\n")) > n {
		eol = "\r\n"
	}
	begin, end := markers(l.ConfigDir)
	return []byte(begin + eol + include + eol + end + eol)
}

func insertTop(data, blk []byte) []byte {
	at := 0
	if bytes.HasPrefix(data, bom) {
		at = len(bom)
	}
	return concat(data[:at], blk, data[at:])
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
