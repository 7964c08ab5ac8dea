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
	// MaxAnswer limits the output of one part of a probe, in bytes.
	MaxAnswer = 1 << 20
	// probeLimit is the time limit for a probe whose context has no deadline.
	probeLimit = 2 * time.Minute
	// maxNoise limits what the start-up files of the login shell may print first, in bytes.
	maxNoise = 64 << 10
)

// Probe implements Conn. All parts run in one exec, since each exec costs 0.25 s in an emulated guest
// (measured with QEMU's TCG). They are one script, which is sent on stdin so that its length is not
// limited and the marker does not appear in the arguments of a process.
func (c *conn) Probe(ctx context.Context, ps []Probe) (map[string][]byte, error) {
	if len(ps) == 0 {
		return map[string][]byte{}, nil
	}
	names := make(map[string]bool, len(ps))
	for _, p := range ps {
		if names[p.Name] {
			return nil, fmt.Errorf("probing the guest: two parts are named %q", p.Name)
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
	// The marker is random, so that the output of a part cannot contain it by accident, nor because
	// an attacker wrote it to a file that the part prints.
	marker := newMarker()
	frames, stderr, err := c.probe(ctx, marker, ps)
	if startup := new(StartupError); errors.As(err, &startup) {
		return nil, err
	}
	if err != nil {
		if at := frames.current(); at != "" && frames.started {
			return frames.out, &StuckError{At: at, Err: err}
		}
		return nil, fmt.Errorf("probing the guest: %w", err)
	}
	if at := frames.current(); at != "" {
		return nil, fmt.Errorf("probing the guest: it stopped at %q%s", at, lastWords(stderr))
	}
	if len(frames.failed.Names) > 0 {
		frames.failed.Stderr = stderr
		return frames.out, &frames.failed
	}
	return frames.out, nil
}

// probeOnce sends the script of a probe and returns its output, the end of its stderr, and its status.
func (c *conn) probeOnce(ctx context.Context, marker string, ps []Probe) (*frames, string, int, error) {
	f := &frames{marker: []byte(marker), ps: ps, out: make(map[string][]byte, len(ps))}
	stderr := tail{limit: MaxAnswer}
	exit, err := c.exec(ctx, "exec /bin/sh -s "+probeArg, false, strings.NewReader(probeScript(marker, ps)), f, &stderr)
	return f, stderr.String(), exit, err
}

// probeArg is the argument of the shell that executes a probe. A shell without it is one that a
// start-up file executed, which reads the script as its input too.
const probeArg = "aivm"

func newMarker() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// probeScript returns the script for all parts. It prints the line "MARKER -1 0" first and
// "MARKER index status" after each part. A part runs by eval in a subshell, which costs only a fork:
// a syntax error, an exit or a changed directory does not affect the other parts.
func probeScript(marker string, ps []Probe) string {
	var b strings.Builder
	b.WriteString("[ \"$1\" = " + probeArg + " ] || exit 1\n")
	b.WriteString("LC_ALL=C.UTF-8; export LC_ALL\n")
	fmt.Fprintf(&b, "printf '%%s\\n' '%s -1 0'\n", marker)
	for i, p := range ps {
		body := "( eval " + shellescape.Quote(p.Script) + " )"
		if p.Stdin == nil {
			b.WriteString(body + " </dev/null\n")
		} else {
			b.WriteString("printf " + printfFormat(p.Stdin) + " | " + body + "\n")
		}
		fmt.Fprintf(&b, "printf '%%s\\n' \"%s %d $?\"\n", marker, i)
	}
	return b.String()
}

// printfFormat returns a quoted format with which printf writes exactly data. printf is a builtin of
// every sh, so the size limit for arguments does not apply. A here-document can contain no NUL and
// always ends with a newline.
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

// frames splits the output of a probe script into the output of its parts as it arrives, and fails as
// soon as a part's output is too long or the markers are out of order.
type frames struct {
	marker   []byte
	ps       []Probe
	buf      []byte
	searched int // no marker starts in buf before this offset
	started  bool
	next     int // the part whose output is being read
	out      map[string][]byte
	failed   ProbeError
}

// current returns the name of the first part that has not ended, "" if all have.
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

// step processes one marker and reports whether there may be another one in buf.
func (f *frames) step() (bool, error) {
	if f.next == len(f.ps) {
		f.buf = nil // output after the last marker belongs to no part
		return false, nil
	}
	limit := MaxAnswer
	if !f.started {
		limit = maxNoise
	}
	i := bytes.Index(f.buf[f.searched:], f.marker)
	if i < 0 {
		f.searched = max(0, len(f.buf)-len(f.marker)+1)
		if f.searched > limit {
			return false, fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)
		}
		return false, nil
	}
	f.searched += i
	if f.searched > limit {
		return false, fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)
	}
	rest := f.buf[f.searched+len(f.marker):]
	end := bytes.IndexByte(rest, '\n')
	if end < 0 && len(rest) < 32 {
		return false, nil // the marker's line is not complete yet
	}
	if end < 0 || end > 32 {
		return false, errors.New("a marker is damaged")
	}
	fields := strings.Fields(string(rest[:end]))
	if len(fields) != 2 {
		return false, errors.New("a marker is damaged")
	}
	index, err1 := strconv.Atoi(fields[0])
	status, err2 := strconv.Atoi(fields[1])
	switch {
	case err1 != nil || err2 != nil:
		return false, errors.New("a marker is damaged")
	case !f.started && index == -1:
		f.started = true
	case f.started && index == f.next:
		name := f.ps[f.next].Name
		if status == 0 {
			f.out[name] = bytes.Clone(f.buf[:f.searched:f.searched])
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
		return false, errors.New("the markers are out of order")
	}
	f.buf = rest[end+1:]
	f.searched = 0
	return true, nil
}
