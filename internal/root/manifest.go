package root

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

// ManifestDir holds what the libvirt hooks put back, one file a network or VM,
// written by the helper and owned by root. Everybody may read it: nothing in
// it is secret, and the comparison before a guest is used needs it.
const ManifestDir = "/var/lib/aivm/manifest"

// manifestVersion is the format; a hook refuses one it does not know.
const manifestVersion = 1

// NetManifest is the wall of one libvirt network as it was last put up.
type NetManifest struct {
	Version int            `json:"version"`
	Owner   int            `json:"owner"`          // uid
	UUID    string         `json:"uuid,omitempty"` // libvirt's, of this network and no later one of its name
	Wall    wall.Wall      `json:"wall"`
	Local   []netip.Prefix `json:"local"`  // directly connected subnets, then
	Script  string         `json:"script"` // digest of the rules that were loaded: another aivm makes others of the same wall
	Digest  string         `json:"digest"` // of the tables as the kernel held them right after
}

// netManifest is the manifest's path; the name was checked by Wall.Check or
// libvirt, and contains no slash.
func netManifest(network string) string { return filepath.Join(ManifestDir, "net-"+network+".json") }

// ReadNetManifest reads a network's manifest; fs.ErrNotExist when there is
// none. Any user may.
func ReadNetManifest(network string) (NetManifest, error) {
	var m NetManifest
	if err := readManifest(netManifest(network), &m); err != nil {
		return m, err
	}
	if m.Version != manifestVersion {
		return m, versionError(netManifest(network), m.Version)
	}
	if err := m.Wall.Check(); err != nil {
		return m, fmt.Errorf("%s: %w", netManifest(network), err)
	}
	if m.Wall.Network != network {
		return m, fmt.Errorf("%s is of network %q", netManifest(network), m.Wall.Network)
	}
	return m, nil
}

// errNewer is what a manifest of a later aivm is: it is left as it is.
var errNewer = errors.New("it was written by a later aivm")

func versionError(path string, version int) error {
	err := fmt.Errorf("%s has version %d, which this aivm does not know", path, version)
	if version > manifestVersion {
		return ui.Refused("%w: %w", err, errNewer).Hint("use the aivm that wrote it")
	}
	return err
}

// readManifest believes only what root alone could have written.
func readManifest(path string, v any) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 || st.Size > maxLine {
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
	if json.Unmarshal(b, &head) == nil && head.Version > manifestVersion {
		return versionError(path, head.Version)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// writeManifest replaces a manifest, whole or not at all.
func writeManifest(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(path, append(b, '\n'), 0o644)
}

// writeWhole writes a file of root's by a temporary one beside it.
func writeWhole(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".aivm-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// manifests makes the manifest directory if it is not there, and keeps everybody
// else who changes rules or manifests off until release.
func manifests() (release func(), err error) {
	fd, err := stepDown(ManifestDir, manifestMode)
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	return lockRoot("manifest")
}

// manifestMode lets everybody read the manifests.
const manifestMode = 0o755

// owns refuses a network whose manifest is another user's.
func owns(network string, caller int) error {
	m, err := ReadNetManifest(network)
	switch {
	case errors.Is(err, errNewer):
		return err
	case errors.Is(err, fs.ErrNotExist), caller <= 0:
		return nil // root may mend a damaged one by replacing it
	case err != nil:
		return ui.Refused("%w", err).Hint("sudo rm " + netManifest(network))
	case m.Owner != caller:
		return ui.Refused("the wall of network %q belongs to uid %d, not to %d who asks", network, m.Owner, caller)
	}
	return nil
}
