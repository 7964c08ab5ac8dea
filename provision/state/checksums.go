package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
)

// Seen is what was written down of the files that this machine's tools run of a
// folder, before a guest could reach it.
type Checksums struct {
	Schema   int             `json:"schema"`
	Folder   string          `json:"folder"`
	Attached time.Time       `json:"attached,omitzero"` // when the first of its lists was made; an older aivm did not write it
	Files    []hostexec.File `json:"files"`
	Cut      string          `json:"cut,omitempty"`
}

const checksumsSchema = 1

// SeenPath returns the file of that list.
func (d Dir) ChecksumsPath(a share.Attachment) string {
	return filepath.Join(d.VM(a.VM), "executed", share.Token(a.HostPath)+".json")
}

// Seen reads the list of a folder; fs.ErrNotExist if there is none.
func (d Dir) Checksums(a share.Attachment) (Checksums, error) {
	path := d.ChecksumsPath(a)
	b, err := os.ReadFile(path)
	if err != nil {
		return Checksums{}, err
	}
	var s Checksums
	if err := json.Unmarshal(b, &s); err != nil {
		return Checksums{}, fmt.Errorf("%s: %w", path, err)
	}
	if s.Schema > checksumsSchema {
		return Checksums{}, laterFormat("the list of files of "+ui.Clean(a.HostPath), path, s.Schema, checksumsSchema)
	}
	return s, nil
}

// SeenFiles reads only the files of that list.
func (d Dir) ChecksumFiles(a share.Attachment) (hostexec.List, error) {
	s, err := d.Checksums(a)
	return hostexec.List{Files: s.Files, Cut: s.Cut}, err
}

// AttachedAt returns when a folder was attached; zero if nothing was written
// down then. Where the list does not tell it, it is when it was written.
func (d Dir) AttachedAt(a share.Attachment) time.Time {
	if s, err := d.Checksums(a); err == nil && !s.Attached.IsZero() {
		return s.Attached
	}
	st, err := os.Stat(d.ChecksumsPath(a))
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// SaveSeen writes the list of a folder, with the time of its first list.
func (d Dir) SaveChecksums(a share.Attachment, l hostexec.List) error {
	if _, err := d.Checksums(a); errors.Is(err, ErrLater) {
		return err
	}
	s := Checksums{Schema: checksumsSchema, Folder: strings.ToValidUTF8(a.HostPath, "?"), Attached: d.AttachedAt(a), Files: l.Files, Cut: l.Cut}
	path := d.ChecksumsPath(a)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return err
	}
	defer f.Cleanup() //nolint:errcheck // after the rename there is nothing left to clean
	if s.Attached.IsZero() {
		// By the clock that files get their times from.
		st, err := f.Stat()
		if err != nil {
			return err
		}
		s.Attached = st.ModTime()
	}
	b, err := json.Marshal(s)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// ForgetSeen removes the list of a folder that is no longer attached.
func (d Dir) ForgetChecksums(a share.Attachment) {
	_ = os.Remove(d.ChecksumsPath(a))
	_ = os.Remove(filepath.Dir(d.ChecksumsPath(a)))
}

func (d Dir) forgetAllChecksums(vm string) {
	dir := filepath.Join(d.VM(vm), "executed")
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		_ = os.Remove(filepath.Join(dir, f.Name()))
	}
	_ = os.Remove(dir)
}
