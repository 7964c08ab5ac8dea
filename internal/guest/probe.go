package guest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
)

const (
	// MaxAnswer bounds what one piece of a probe may answer.
	MaxAnswer = 1 << 20
	// probeLimit bounds a probe whose context has no deadline.
	probeLimit = 2 * time.Minute
	// maxNoise bounds what a login shell's start-up files may print first.
	maxNoise = 64 << 10
)

// Probe implements Conn. All pieces are one exec, since each exec costs 0.25 s
// in an emulated guest (shares.md 7): one script, sent on stdin, so that its
// length has no limit and its marks stand in no process's arguments.
func (c *conn) Probe(ctx context.Context, ps []Probe) (map[string][]byte, error) {
	if len(ps) == 0 {
		return map[string][]byte{}, nil
	}
	names := make(map[string]bool, len(ps))
	for _, p := range ps {
		if names[p.Name] {
			return nil, fmt.Errorf("probing the guest: two pieces are named %q", p.Name)
		}
		if strings.ContainsRune(p.Script, 0) {
			return nil, fmt.Errorf("probing the guest: the script of %q contains a NUL byte", p.Name)
		}
		names[p.Name] = true
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, probeLimit)
		defer cancel()
	}
	// A mark a piece's output cannot contain by accident or by a planted file:
	// whoever wrote that file did not know it.
	mark := newMark()
	frames := &frames{mark: []byte(mark), ps: ps, out: make(map[string][]byte, len(ps))}
	stderr := tail{limit: MaxAnswer}
	script := strings.NewReader(probeScript(mark, ps))
	_, err := c.exec(ctx, "exec sh -s", false, script, frames, &stderr)
	if err != nil {
		if at := frames.current(); at != "" && frames.begun {
			return frames.out, &StuckError{At: at, Err: err}
		}
		return nil, fmt.Errorf("probing the guest: %w", err)
	}
	if at := frames.current(); at != "" {
		return nil, fmt.Errorf("probing the guest: it stopped at %q%s", at, lastWords(stderr.String()))
	}
	if len(frames.failed.Names) > 0 {
		frames.failed.Stderr = stderr.String()
		return frames.out, &frames.failed
	}
	return frames.out, nil
}

func newMark() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// probeScript frames each piece with "MARK index status". A piece runs by eval
// in a subshell: a syntax error, an exit or a changed directory stays its own,
// and a fork is all it costs.
func probeScript(mark string, ps []Probe) string {
	var b strings.Builder
	b.WriteString("LC_ALL=C.UTF-8; export LC_ALL\n")
	fmt.Fprintf(&b, "printf '%%s\\n' '%s -1 0'\n", mark)
	for i, p := range ps {
		body := "( eval " + shellescape.Quote(p.Script) + " )"
		if p.Stdin == nil {
			b.WriteString(body + " </dev/null\n")
		} else {
			b.WriteString("printf " + printfFormat(p.Stdin) + " | " + body + "\n")
		}
		fmt.Fprintf(&b, "printf '%%s\\n' \"%s %d $?\"\n", mark, i)
	}
	return b.String()
}

// printfFormat returns a quoted format that makes printf, a builtin in every
// sh and therefore free of the limit on arguments, write exactly data. A here
// document could carry neither NUL nor a missing last newline.
func printfFormat(data []byte) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, c := range data {
		switch {
		case c == '%':
			b.WriteString("%%")
		case c == '\n', c >= ' ' && c < 0x7f && c != '\\' && c != '\'':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// frames takes the output of a probe script apart as it comes, and fails as
// soon as a piece is too long or the marks are out of order.
type frames struct {
	mark   []byte
	ps     []Probe
	buf    []byte
	looked int // no mark starts in buf before this
	begun  bool
	next   int // the piece whose output is being read
	out    map[string][]byte
	failed ProbeError
}

// current names the piece that has not been answered, "" when all have.
func (f *frames) current() string {
	if f.next < len(f.ps) {
		return f.ps[f.next].Name
	}
	return ""
}

func (f *frames) Write(p []byte) (int, error) {
	f.buf = append(f.buf, p...)
	for {
		more, err := f.step()
		if err != nil {
			return 0, err
		}
		if !more {
			return len(p), nil
		}
	}
}

// step handles one mark and reports whether there may be another one.
func (f *frames) step() (bool, error) {
	if f.next == len(f.ps) {
		f.buf = nil // what follows the last mark is nobody's answer
		return false, nil
	}
	limit := MaxAnswer
	if !f.begun {
		limit = maxNoise
	}
	i := bytes.Index(f.buf[f.looked:], f.mark)
	if i < 0 {
		f.looked = max(0, len(f.buf)-len(f.mark)+1)
		if f.looked > limit {
			return false, fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)
		}
		return false, nil
	}
	f.looked += i
	if f.looked > limit {
		return false, fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)
	}
	rest := f.buf[f.looked+len(f.mark):]
	end := bytes.IndexByte(rest, '\n')
	if end < 0 && len(rest) < 32 {
		return false, nil // the mark's line is not complete yet
	}
	if end < 0 || end > 32 {
		return false, errors.New("a mark is damaged")
	}
	fields := strings.Fields(string(rest[:end]))
	if len(fields) != 2 {
		return false, errors.New("a mark is damaged")
	}
	index, err1 := strconv.Atoi(fields[0])
	status, err2 := strconv.Atoi(fields[1])
	switch {
	case err1 != nil || err2 != nil:
		return false, errors.New("a mark is damaged")
	case !f.begun && index == -1:
		f.begun = true
	case f.begun && index == f.next:
		name := f.ps[f.next].Name
		if status == 0 {
			f.out[name] = bytes.Clone(f.buf[:f.looked:f.looked])
			if f.out[name] == nil {
				f.out[name] = []byte{}
			}
		} else {
			if f.failed.Exit == nil {
				f.failed.Exit = map[string]int{}
			}
			f.failed.Exit[name] = status
			f.failed.Names = append(f.failed.Names, name)
		}
		f.next++
	default:
		return false, errors.New("the marks are out of order")
	}
	f.buf = rest[end+1:]
	f.looked = 0
	return true, nil
}
