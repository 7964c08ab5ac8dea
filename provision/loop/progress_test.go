package loop

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// Skipped is copied, not changed: a folder skipped later is not in the set of earlier facts.
func TestSkipped(t *testing.T) {
	gone, link := errors.New("gone"), fmt.Errorf("it %w", share.ErrLink)
	var none Skipped
	one := none.With(Skipped{"/b": link})
	two := one.With(Skipped{"/c": gone, "/a": link})
	if len(none) != 0 || len(one) != 1 || len(two) != 3 {
		t.Errorf("%v %v %v", none, one, two)
	}
	if got := two.Linked(); !slices.Equal(got, []string{"/a", "/b"}) {
		t.Errorf("linked: %v", got)
	}
	if less := two.Without("/a"); len(less) != 2 || len(two) != 3 || len(none.Without("/a")) != 0 {
		t.Errorf("%v of %v", less, two)
	}
	f, g := &Facts{Progress: Progress{Skipped: one}}, &Facts{Progress: Progress{Skipped: one}}
	f.Skip(Skipped{"/d": gone})
	if len(f.Skipped) != 2 || len(g.Skipped) != 1 {
		t.Errorf("%v %v", f.Skipped, g.Skipped)
	}
}

// NewProgress starts from what the target wants, and changing it does not change the target.
func TestNewProgress(t *testing.T) {
	if p := NewProgress(&target.Target{}); p.Clone != nil || p.Settings != nil {
		t.Errorf("%+v", p)
	}
	w := (&target.Target{}).WithClone(target.Clone{Push: true}).WithSettings(target.Settings{Wanted: settingsync.Wanted{Known: "then"}})
	p := NewProgress(w)
	if p.Clone == nil || p.Settings == nil {
		t.Fatalf("%+v", p)
	}
	p.Settings.Wanted.Known = "now"
	p.Clone.Guest = gitsync.Guest{State: gitsync.Clone}
	if w.Settings.Wanted.Known != "then" {
		t.Error("the target was changed")
	}
}

// Report returns what was sent or, before that, what would be sent.
func TestSettingsReport(t *testing.T) {
	s := &Settings{}
	if r := s.Report(); len(r.Copied) != 0 {
		t.Errorf("%+v", r)
	}
	s.Round = &settingsync.Round{Report: settingsync.Report{Copied: []string{"a", "b"}}}
	if r := s.Report(); len(r.Copied) != 2 {
		t.Errorf("%+v", r)
	}
	s.Done = &settingsync.Report{Copied: []string{"a"}}
	if r := s.Report(); len(r.Copied) != 1 {
		t.Errorf("%+v", r)
	}
}

// An adopted VM has no device for folders until its next stop.
func TestFoldersOfAnAdoptedVM(t *testing.T) {
	w := &target.Target{Name: "t", Folder: &share.Attachment{HostPath: "/p", VM: "t", Mode: share.SharedRoot, Access: "rw", GuestDst: "/p", Tag: share.Token("/p")}}
	for _, c := range []struct {
		inst *state.Instance
		want int
	}{{nil, 1}, {&state.Instance{}, 1}, {&state.Instance{Adopted: true}, 0}, {&state.Instance{Adopted: true, HasFolderDevice: true}, 1}} {
		if got := (&Facts{Inst: c.inst}).Atts(w); len(got) != c.want {
			t.Errorf("%+v: %v", c.inst, got)
		}
	}
}
