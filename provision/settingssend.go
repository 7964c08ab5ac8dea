package provision

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/settingsync"
)

// receiver is the program in the guest that takes settings. It may be started
// while the guest still says what it has: then the shell and perl, a fifth of
// the whole in an emulated guest, start beside that and not after it. What it
// is not given before the connection ends it did not need.
type receiver struct {
	conn        guest.Conn
	in          *io.PipeWriter
	cancel      context.CancelFunc
	done        chan struct{} // closed at its end; only then the rest is read
	out, stderr capture.Head
	code        int
	err         error
}

// receive starts it; spare says that it is not needed yet. It outlives ctx, up
// to the end of the connection.
func receive(ctx context.Context, c guest.Conn, spare bool) *receiver {
	in, w := io.Pipe()
	r := &receiver{conn: c, in: w, done: make(chan struct{}), out: capture.Head{Limit: guestWords}, stderr: capture.Head{Limit: guestWords}}
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(r.done)
		defer r.cancel()
		r.code, r.err = c.Run(ctx, guest.Cmd{Argv: settingsync.Command(), Stdin: in, Stdout: &r.out, Stderr: &r.stderr, Spare: spare})
		_ = in.Close()
	}()
	return r
}

// ended reports whether it is of no use any more: a server may refuse a second
// session.
func (r *receiver) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// startEarly starts the receiver of a connection just made.
func (s *settings) startEarly(ctx context.Context, c guest.Conn) {
	if s == nil || !s.early {
		return
	}
	s.unneeded()
	s.receiver = receive(ctx, c, true)
}

// unneeded ends a receiver that was given nothing, and reports whether there
// was one.
func (s *settings) unneeded() bool {
	if s == nil || s.receiver == nil {
		return false
	}
	_ = s.receiver.in.Close()
	s.receiver.cancel()
	<-s.receiver.done
	s.receiver = nil
	return true
}

// give sends the archive and returns the program's status.
func (r *receiver) give(ctx context.Context, archive []byte) (int, error) {
	defer context.AfterFunc(ctx, r.cancel)()
	_, _ = r.in.Write(archive) // if nobody reads, the end says why
	_ = r.in.Close()
	<-r.done
	return r.code, r.err
}

// sendSettings sends the archive. If the guest changed something meanwhile, or
// could not write somewhere, it is looked at anew, once.
func (e *Env) sendSettings(ctx context.Context, w *want, f *facts) error {
	s := w.settings
	failed := map[string]bool{}
	var sent int64
	first := s.round
	for try := 0; ; try++ {
		b, err := s.round.Archive(failed)
		if err != nil {
			s.err = err
			return nil
		}
		sent += int64(len(b))
		r := s.receiver
		if s.receiver = nil; r == nil || r.conn != f.conn || r.ended() {
			r = receive(ctx, f.conn, false)
		}
		code, err := r.give(ctx, b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		places := settingsync.Failed(r.out.String())
		for _, p := range places {
			failed[p] = true
		}
		again := code == settingsync.StatusChanged || len(places) > 0
		switch {
		case err != nil:
			s.err = e.explainLost(ctx, w.name, err)
			return nil
		case code != settingsync.StatusDone && code != settingsync.StatusChanged:
			s.err = fmt.Errorf("the guest could not take them (status %d): %s", code, lastLine(r.stderr.String()))
			return nil
		case again && try == 2:
			s.err = errors.New("files in the guest keep changing while they are replaced")
			return nil
		case !again:
			s.report = first.Report
			s.report.Bytes = sent
			for p := range failed {
				s.report.Problems = append(s.report.Problems, settingsync.Problem{Path: p, What: "the guest's user cannot write there"})
			}
			s.report.Copied = slices.DeleteFunc(slices.Clone(s.report.Copied), func(t string) bool {
				return failed[filepath.Dir(strings.TrimPrefix(t, "~/"))]
			})
			return nil
		}
		was := s.round
		answer, err := f.conn.Probe(ctx, w.settingsProbe())
		if err != nil {
			s.err = e.explainLost(ctx, w.name, err)
			return nil
		}
		if e.readSettings(ctx, f.conn, w, answer["settings"]); s.round == nil {
			return nil
		}
		if len(places) == 0 {
			first = s.round
		}
		if s.round.Empty() {
			s.round, s.report = was, first.Report
			return nil
		}
	}
}
