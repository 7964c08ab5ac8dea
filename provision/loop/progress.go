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
	"aivm.dev/aivm/internal/ownership"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// Progress holds what a run found and did that another observation would not show; it is
// carried from one observation to the next. Actions and observations change it, plans do not.
type Progress struct {
	Skipped   Skipped        // recorded folders that this run does without
	Checksums *hostexec.List // the recorded checksums of a folder's host-executed files
	Clone     *Clone         // of the folder in mode git; nil: there is none
	// Unmapped are the files of a new folder that the VM cannot change; nil: not searched.
	Unmapped *plan.Known[ownership.List]
	Settings *Settings // nil: none are sent
}

// NewProgress returns the Progress of a run that has done nothing yet.
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

// Skipped maps the host paths of skipped folders to the reasons.
type Skipped map[string]error

// With returns l and more together; neither is changed.
func (l Skipped) With(more Skipped) Skipped {
	if len(more) == 0 {
		return l
	}
	out := Skipped{}
	maps.Copy(out, l)
	maps.Copy(out, more)
	return out
}

// Without returns l without one folder; l is not changed.
func (l Skipped) Without(folder string) Skipped {
	out := maps.Clone(l)
	delete(out, folder)
	return out
}

// Linked returns the folders whose path now contains a symbolic link, sorted.
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

// Clone holds what a run knows about a repository and its clone in the VM.
type Clone struct {
	Remote gitsync.Remote
	Host   plan.Known[gitsync.Host]
	Guest  gitsync.Guest

	Unchanged    bool // both sides are as they were when there was nothing to do
	HadWork      bool // there was something to do
	Stamp, Saved state.GitStamp
	Problem      error // why commits were not pushed or fetched
	Result       Moves
	Release      func() // releases the repository's lock; nil: it is not held
}

// Moves lists what a run cloned, fetched and pushed.
type Moves struct {
	Cloned  bool
	Fetched []gitsync.Fetched
	Sent    gitsync.Sent
	Wip     string // what became of the uncommitted state
}

// Settings holds the state of copying settings into the guest.
type Settings struct {
	Wanted   *settingsync.Wanted // with what the guest is known to have
	Round    *settingsync.Round  // of the last observation
	Done     *settingsync.Report // of what was sent; nil: nothing was sent
	Err      error               // why nothing, or not everything, was sent
	Receiver *Receiver           // if it is started already
}

// Report returns the report of what was sent or, before that, of what would be sent.
func (s *Settings) Report() settingsync.Report {
	switch {
	case s.Done != nil:
		return *s.Done
	case s.Round != nil:
		return s.Round.Report
	}
	return settingsync.Report{}
}

// Receiver is the program in the guest that unpacks settings. It may be started while the
// probe still runs: the start of the shell and perl, a fifth of the time of a sync in an
// emulated guest, then overlaps with the probe. If nothing is sent to it before the
// connection ends, it does nothing.
type Receiver struct {
	Conn        guest.Conn
	In          *io.PipeWriter
	Cancel      context.CancelFunc
	Done        chan struct{} // closed when it has ended; only then the fields below are read
	Out, Stderr capture.Head
	Code        int
	Err         error
}

// Ended reports whether the program has ended. It may end at once: a server may refuse a
// second session.
func (r *Receiver) Ended() bool {
	select {
	case <-r.Done:
		return true
	default:
		return false
	}
}

// StopReceiver ends a receiver that nothing was sent to, and reports whether there was one.
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

// Send sends the archive and returns the program's exit status.
func (r *Receiver) Send(ctx context.Context, archive []byte) (int, error) {
	defer context.AfterFunc(ctx, r.Cancel)()
	_, _ = r.In.Write(archive) // if the program does not read, its exit status tells why
	_ = r.In.Close()
	<-r.Done
	return r.Code, r.Err
}
