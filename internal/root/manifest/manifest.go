// Package manifest reads and writes what libvirt's hooks put back: one file a
// network or VM in rootfile.ManifestDir, written by root, readable by all.
//
// It believes only files that nobody but root could have written, and leaves
// one of a later aivm as it is.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// Version is the format; a hook refuses one it does not know.
const Version = 1

// manifestLimit bounds what is read of one, in bytes.
const manifestLimit = 1 << 20

// errNewer is what a manifest of a later aivm is: it is left as it is.
var errNewer = errors.New("it was written by a later aivm")

// VersionError says that the manifest at path has a version that this aivm does
// not know.
func VersionError(path string, version int) error {
	err := fmt.Errorf("%s has version %d, which this aivm does not know", path, version)
	if version > Version {
		return ui.Refused("%w: %w", err, errNewer).Hint(ui.Remark("use the aivm that wrote it"))
	}
	return err
}

// Read believes only what root alone could have written.
func Read(path string, v any) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 || st.Size > manifestLimit {
		return ui.Refused("%s is not a file only root can write", path)
	}
	b := make([]byte, st.Size)
	if _, err := f.ReadAt(b, 0); err != nil && st.Size > 0 {
		return err
	}
	// The version alone first: what else is in a later one may be of any shape.
	var head struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(b, &head) == nil && head.Version > Version {
		return VersionError(path, head.Version)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// Write replaces a manifest, whole or not at all.
func Write(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return rootfile.WriteWhole(path, append(b, '\n'), 0o644)
}

// Lock makes the manifest directory if it is not there, and keeps everybody
// else who changes rules or manifests off until release.
func Lock() (release func(), err error) {
	fd, err := rootfile.StepDown(rootfile.ManifestDir, rootfile.ManifestMode)
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	return rootfile.Lock("manifest")
}
