package settings

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
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// receive starts settingsync's receiver in the guest; spare means that it is not needed yet. It
// continues after ctx ends, until the connection closes.
func receive(ctx context.Context, c guest.Conn, spare bool) *loop.Receiver {
	in, w := io.Pipe()
	r := &loop.Receiver{Conn: c, In: w, Done: make(chan struct{}), Out: capture.Head{Limit: session.GuestOutputLimit}, Stderr: capture.Head{Limit: session.GuestOutputLimit}}
	ctx, r.Cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(r.Done)
		defer r.Cancel()
		r.Code, r.Err = c.Run(ctx, guest.Cmd{Argv: settingsync.Command(), Stdin: in, Stdout: &r.Out, Stderr: &r.Stderr, Spare: spare})
		_ = in.Close()
	}()
	return r
}

// StartEarly starts the receiver on a new connection, before it is known what to send.
func StartEarly(ctx context.Context, w *target.Target, f *loop.Facts, c guest.Conn) {
	s := f.Settings
	if s == nil || !w.Settings.Early {
		return
	}
	s.StopReceiver()
	s.Receiver = receive(ctx, c, true)
}

// Send sends the archive. If the guest changed a file during the run, or could not write somewhere,
// it probes again and sends the rest, at most twice.
func (e Part) Send(ctx context.Context, w *target.Target, f *loop.Facts) error {
	s := f.Settings
	failed := map[string]bool{}
	var sent int64
	first := s.Round
	for try := 0; ; try++ {
		b, err := s.Round.Archive(failed)
		if err != nil {
			s.Err = err
			return nil
		}
		sent += int64(len(b))
		r := s.Receiver
		if s.Receiver = nil; r == nil || r.Conn != f.Conn || r.Ended() {
			r = receive(ctx, f.Conn, false)
		}
		code, err := r.Send(ctx, b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		places := settingsync.FailedDirs(r.Out.String())
		for _, p := range places {
			failed[p] = true
		}
		again := code == settingsync.StatusChanged || len(places) > 0
		switch {
		case err != nil:
			s.Err = e.ExplainLost(ctx, w.Name, err)
			return nil
		case code != settingsync.StatusDone && code != settingsync.StatusChanged:
			s.Err = fmt.Errorf("the guest could not receive them (status %d): %s", code, session.LastLine(r.Stderr.String()))
			return nil
		case again && try == 2:
			s.Err = errors.New("files in the guest keep changing while they are replaced")
			return nil
		case !again:
			done := first.Report
			done.Bytes, done.Problems = sent, slices.Clone(done.Problems)
			for p := range failed {
				done.Problems = append(done.Problems, settingsync.Problem{Path: p, What: "the guest user cannot write to it"})
			}
			done.Copied = slices.DeleteFunc(slices.Clone(done.Copied), func(t string) bool {
				return failed[filepath.Dir(strings.TrimPrefix(t, "~/"))]
			})
			s.Done = &done
			return nil
		}
		before := s.Round
		answer, err := f.Conn.Probe(ctx, Probe(f))
		if err != nil {
			s.Err = e.ExplainLost(ctx, w.Name, err)
			return nil
		}
		if e.Read(ctx, f.Conn, w, f, answer["settings"]); s.Round == nil {
			return nil
		}
		if len(places) == 0 {
			first = s.Round
		}
		if s.Round.Empty() {
			s.Round, s.Done = before, &first.Report
			return nil
		}
	}
}
