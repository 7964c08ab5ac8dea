// Package manifest reads and writes manifests, from which libvirt's hooks restore
// firewall rules and folders: one file per network or VM in rootfile.ManifestDir,
// written by root, readable by all.
//
// It trusts only files that no user but root can write, and never changes a
// manifest of a later aivm.
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

// Version is the version of the format; a hook refuses a version it does not know.
const Version = 1

// manifestLimit is the largest accepted manifest, in bytes.
const manifestLimit = 1 << 20

// errNewer is in the error for a manifest of a later aivm, which is never changed.
var errNewer = errors.New("it was written by a later aivm")

// VersionError returns the error for the manifest at path, whose version this aivm
// does not know.
func VersionError(path string, version int) error {
	err := fmt.Errorf("%s has version %d, which this aivm does not know", path, version)
	if version > Version {
		return ui.Refused("%w: %w", err, errNewer).Hint(ui.Remark("use the aivm that wrote it"))
	}
	return err
}

// Read reads the manifest at path into v. It refuses a file that users other than
// root can write, and a later version.
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
		return ui.Refused("%s is not a file that only root can write, or is larger than %d bytes", path, manifestLimit)
	}
	b := make([]byte, st.Size)
	if _, err := f.ReadAt(b, 0); err != nil && st.Size > 0 {
		return err
	}
	// Read only the version first: the other keys of a later version may have other
	// types.
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

// Write replaces a manifest atomically.
func Write(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return rootfile.WriteAtomic(path, append(b, '\n'), 0o644)
}

// Lock makes the manifest directory if it is missing, and takes the lock for changes
// of rules and manifests.
func Lock() (release func(), err error) {
	fd, err := rootfile.StepDown(rootfile.ManifestDir, rootfile.ManifestMode)
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	return rootfile.Lock("manifest")
}
