package target

import (
	"context"
	"io"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/settingsync"
)

// SyncOptions are the flags that concern settings.
type SyncOptions struct {
	Sync        *bool    // nil: as configured
	Paths       []string // instead of the configured ones
	Overwrite   *bool
	AllowSecret []string
	Extensions  []string
	Profile     string // of the editor
	DataDir     string // its --user-data-dir
}

// Settings is what a run does about settings.
type Settings struct {
	Wanted *settingsync.Wanted
	Round  *settingsync.Round // of the last look
	Report settingsync.Report // of what was done
	Err    error              // why nothing, or not all, was done
	// early: there is most likely something to send.
	Early    bool
	Receiver *Receiver // if it is started already
}

// Receiver is the program in the guest that takes settings. It may be started
// while the guest still says what it has: then the shell and perl, a fifth of
// the whole in an emulated guest, start beside that and not after it. What it
// is not given before the connection ends it did not need.
type Receiver struct {
	Conn        guest.Conn
	In          *io.PipeWriter
	Cancel      context.CancelFunc
	Done        chan struct{} // closed at its end; only then the rest is read
	Out, Stderr capture.Head
	Code        int
	Err         error
}

// Ended reports whether it is of no use any more: a server may refuse a second
// session.
func (r *Receiver) Ended() bool {
	select {
	case <-r.Done:
		return true
	default:
		return false
	}
}

// Unneeded ends a receiver that was given nothing, and reports whether there
// was one.
func (s *Settings) Unneeded() bool {
	if s == nil || s.Receiver == nil {
		return false
	}
	_ = s.Receiver.In.Close()
	s.Receiver.Cancel()
	<-s.Receiver.Done
	s.Receiver = nil
	return true
}

// Give sends the archive and returns the program's status.
func (r *Receiver) Give(ctx context.Context, archive []byte) (int, error) {
	defer context.AfterFunc(ctx, r.Cancel)()
	_, _ = r.In.Write(archive) // if nobody reads, the end says why
	_ = r.In.Close()
	<-r.Done
	return r.Code, r.Err
}
