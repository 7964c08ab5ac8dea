package state

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"aivm.dev/aivm/provision/share"
)

// cloneNote records a clone that was created in a VM. It stays after a detach, and after the
// record was removed from the config, because the clone stays too.
type cloneNote struct {
	Schema   int    `json:"schema"`
	Folder   string `json:"folder"`
	GuestDst string `json:"guest_dst"`
}

// cloneNotePath returns the path of the note of one clone. A repository can have several
// clones in a VM, at different guest paths.
func (d Dir) cloneNotePath(a share.Attachment) string {
	return filepath.Join(d.VM(a.VM), "clone-"+share.Token(a.HostPath+"\x00"+a.GuestDst)+".json")
}

// cloneNotes returns the paths of a VM's notes, including those of earlier versions of aivm,
// whose names depend on the repository alone.
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

// NoteClone records that the VM has a clone of the folder. A record must not be removed from
// the config before: without the note, only the config names the clone.
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

// Clones reads the notes of a VM, and skips those that cannot be read.
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
