package target

import (
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

// The methods of Target return changed copies; the original does not change.
func TestTargetsAreCopied(t *testing.T) {
	store := &config.Store{Config: config.DefaultConfig()}
	w, err := NewVM(store, store.Config.Defaults.VM.Name)
	if err != nil {
		t.Fatal(err)
	}
	w = w.with(func(t *Target) { t.Folder = &share.Attachment{HostPath: "/p", VM: t.Name} })
	before, folder := *w, *w.Folder
	next := w.Renamed()
	if next.Name != w.Name+"-2" || next.Record.Name != next.Name || next.Record.VM.Name != next.Name || next.Folder.VM != next.Name {
		t.Errorf("renamed: %+v", next)
	}
	if third := next.Renamed(); third.Name != w.Name+"-3" {
		t.Errorf("renamed again: %s", third.Name)
	}
	if s := w.Sized(host.Size{CPUs: 3}); s.Size.CPUs != 3 || s.Size.RAMMB != w.Size.RAMMB {
		t.Errorf("sized: %+v", s.Size)
	}
	if s := w.Started(); !s.Boot || !s.Guest {
		t.Errorf("started: %+v", s)
	}
	if s, err := w.WithImage("debian-12"); err != nil || s.Image == "" || s.Record.Image.Name == w.Record.Image.Name {
		t.Errorf("image: %v %v", s.Image, err)
	}
	if s := w.WithGuest().WithoutSudo().AlreadyRecorded().AsActive().FetchedAgain().OpenedAt("/x").WithoutFolders(); !s.Guest || !s.NoSudo || s.NewVM || !s.SetActive || !s.RefetchImage || s.OpenAt != "/x" || s.Store != nil {
		t.Errorf("%+v", s)
	}
	if before.Name != w.Name || w.Boot || w.Guest || w.NoSudo || !w.NewVM || w.SetActive || w.RefetchImage || w.OpenAt != "" || w.Store == nil || *w.Folder != folder || w.Record.Image.Name != before.Record.Image.Name {
		t.Errorf("the original was changed: %+v", w)
	}
}
