package loop

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// Progress is what a run has found and done that another look would not show: it
// goes from look to look. Actions and observations change it, plans do not.
type Progress struct {
	Skipped   Skipped        // saved folders this run goes on without
	Checksums *hostexec.List // what was written down of what this machine's tools run of a folder
	Clone     *Clone         // of the folder in mode git; nil: there is none
	Settings  *Settings      // nil: none are brought
}

// Begin is the progress of a run that has done nothing yet.
func NewProgress(w *target.Target) Progress {
	var p Progress
	if w.Clone != nil {
		p.Clone = &Clone{}
	}
	if w.Settings != nil {
		wanted := w.Settings.Wanted
		p.Settings = &Settings{Wanted: &wanted}
	}
	return p
}

// Left are folders that are left out, by their path here, and why.
type Skipped map[string]error

// And returns both together; neither is changed.
func (l Skipped) With(more Skipped) Skipped {
	if len(more) == 0 {
		return l
	}
	out := Skipped{}
	maps.Copy(out, l)
	maps.Copy(out, more)
	return out
}

// But returns all but one; l is not changed.
func (l Skipped) Without(folder string) Skipped {
	out := maps.Clone(l)
	delete(out, folder)
	return out
}

// Linked are those with a link on the way that is new, sorted.
func (l Skipped) Linked() []string {
	var out []string
	for folder, why := range l {
		if errors.Is(why, share.ErrLink) {
			out = append(out, folder)
		}
	}
	slices.Sort(out)
	return out
}

// Clone is what a run knows of a repository and its clone.
type Clone struct {
	Remote gitsync.Remote
	Host   plan.Known[gitsync.Host]
	Guest  gitsync.Guest

	Unchanged    bool // both sides are as they were when there was nothing to do
	HadWork      bool // there was something to do
	Stamp, Saved state.GitStamp
	Problem      error // what kept commits from moving
	Result       Moves
	Release      func() // gives the repository's lock back; nil: it is not held
}

// Moves is what a run moved.
type Moves struct {
	Cloned  bool
	Fetched []gitsync.Fetched
	Sent    gitsync.Sent
	Wip     string // what became of the uncommitted state
}

// Settings is what a run knows and does of settings.
type Settings struct {
	Wanted   *settingsync.Wanted // with what the guest is known to have
	Round    *settingsync.Round  // of the last look
	Done     *settingsync.Report // of what was sent; nil: nothing was
	Err      error               // why nothing, or not all, was done
	Receiver *Receiver           // if it is started already
}

// Report is what was done, or would be.
func (s *Settings) Report() settingsync.Report {
	switch {
	case s.Done != nil:
		return *s.Done
	case s.Round != nil:
		return s.Round.Report
	}
	return settingsync.Report{}
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
func (s *Settings) StopReceiver() bool {
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
func (r *Receiver) Send(ctx context.Context, archive []byte) (int, error) {
	defer context.AfterFunc(ctx, r.Cancel)()
	_, _ = r.In.Write(archive) // if nobody reads, the end says why
	_ = r.In.Close()
	<-r.Done
	return r.Code, r.Err
}
