package state

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"aivm.dev/aivm/provision/share"
)

// cloneNote names a clone that was made in a VM. It outlives detach and a record
// that was taken out of the config, for the clone does too.
type cloneNote struct {
	Schema   int    `json:"schema"`
	Folder   string `json:"folder"`
	GuestDst string `json:"guest_dst"`
}

// cloneNotePath is the note of one clone: a repository can have several in a VM,
// one at each place.
func (d Dir) cloneNotePath(a share.Attachment) string {
	return filepath.Join(d.VM(a.VM), "clone-"+share.Token(a.HostPath+"\x00"+a.GuestDst)+".json")
}

// cloneNotes are the notes of a VM, also those of earlier versions, which named
// them after the repository alone.
func (d Dir) cloneNotes(vm string) []string {
	var out []string
	l, _ := os.ReadDir(d.VM(vm))
	for _, f := range l {
		if ok, _ := filepath.Match("clone-*.json", f.Name()); ok {
			out = append(out, filepath.Join(d.VM(vm), f.Name()))
		}
	}
	return out
}

// NoteClone writes down that the VM has a clone of the folder. Without the note
// only the records of the config name those that are attached, so a record is
// not removed before.
func (d Dir) NoteClone(a share.Attachment) error {
	path := d.cloneNotePath(a)
	b, err := json.Marshal(cloneNote{Schema: 1, Folder: a.HostPath, GuestDst: a.GuestDst})
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		err = replace(path, b)
	}
	return err
}

// Clones reads the notes of a VM. One that cannot be read is passed over.
func (d Dir) Clones(vm string) []share.Attachment {
	var out []share.Attachment
	for _, path := range d.cloneNotes(vm) {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(f, 64<<10))
		_ = f.Close()
		var n cloneNote
		if err != nil || json.Unmarshal(b, &n) != nil || !filepath.IsAbs(n.Folder) || !filepath.IsAbs(n.GuestDst) {
			continue
		}
		out = append(out, share.Attachment{HostPath: n.Folder, VM: vm, Mode: share.Git, GuestDst: n.GuestDst, Tag: share.Token(n.Folder)})
	}
	return out
}
