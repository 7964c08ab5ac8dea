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

// Checksums is the record of a folder's host-executed files, made before the guest could
// write the folder.
type Checksums struct {
	Schema   int             `json:"schema"`
	Folder   string          `json:"folder"`
	Attached time.Time       `json:"attached,omitzero"` // when the folder's first record was written; older versions of aivm did not write this
	Files    []hostexec.File `json:"files"`
	Cut      string          `json:"cut,omitempty"`
}

const checksumsSchema = 1

// ChecksumsPath returns the path of a folder's record.
func (d Dir) ChecksumsPath(a share.Attachment) string {
	return filepath.Join(d.VM(a.VM), "executed", share.Token(a.HostPath)+".json")
}

// Checksums reads the record of a folder; fs.ErrNotExist if there is none.
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
		return Checksums{}, laterFormat("the record of checksums of "+ui.Clean(a.HostPath), path, s.Schema, checksumsSchema)
	}
	return s, nil
}

// ChecksumFiles reads only the list of files of a folder's record.
func (d Dir) ChecksumFiles(a share.Attachment) (hostexec.List, error) {
	s, err := d.Checksums(a)
	return hostexec.List{Files: s.Files, Cut: s.Cut}, err
}

// AttachedAt returns when a folder was attached: the time in its record or, if an older aivm
// wrote that, the record's modification time. Zero if there is no record.
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

// SaveChecksums writes the record of a folder and keeps the time of the first one.
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
	defer f.Cleanup() //nolint:errcheck // after the rename there is nothing to clean up
	if s.Attached.IsZero() {
		// The file system's clock: it is compared with the times of files.
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

// ForgetChecksums removes the record of a folder that is no longer attached.
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
