package manifest

import (
	"errors"
	"fmt"
	"slices"

	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
)

// VM lists the shared folders of a VM, as they were last mounted. Bind and Unbind
// write it; libvirt's hook mounts the folders again before the VM starts. The uid in
// the VM's key is its owner. It contains no secret.
type VM struct {
	Version int           `json:"version"`
	Folders []record.Bind `json:"folders"` // by token; Dev and Ino as of the time of mounting
}

// ReadVM reads a VM's manifest; fs.ErrNotExist when there is none. Any
// user may call it.
func ReadVM(vmKey string) (VM, error) {
	var m VM
	if err := Read(rootfile.VMManifestPath(vmKey), &m); err != nil {
		return m, err
	}
	if m.Version != Version {
		return m, VersionError(rootfile.VMManifestPath(vmKey), m.Version)
	}
	for _, o := range m.Folders {
		if o.VMKey != vmKey {
			return m, fmt.Errorf("%s belongs to VM %q", rootfile.VMManifestPath(vmKey), o.VMKey)
		}
		if err := record.Check(o, -1); err != nil {
			return m, fmt.Errorf("%s: %w", rootfile.VMManifestPath(vmKey), err)
		}
	}
	return m, nil
}

// UpdateFolders changes the folders in a VM's manifest; it writes nothing if change
// returns the same list. It replaces a manifest that cannot be read: the next binds
// record the folders again.
func UpdateFolders(vmKey string, change func([]record.Bind) []record.Bind) error {
	release, err := Lock()
	if err != nil {
		return err
	}
	defer release()
	m, err := ReadVM(vmKey)
	if errors.Is(err, errNewer) {
		return err
	}
	before := slices.Clone(m.Folders)
	if err != nil {
		before, m = nil, VM{}
	}
	m.Version = Version
	m.Folders = change(m.Folders)
	if err == nil && slices.EqualFunc(before, m.Folders, sameBind) {
		return nil
	}
	return Write(rootfile.VMManifestPath(vmKey), m)
}

func sameBind(a, b record.Bind) bool {
	return slices.Equal(a.Protect, b.Protect) && slices.Equal(a.Groups, b.Groups) && a.Own == b.Own && a.Src == b.Src && a.VMKey == b.VMKey && a.Token == b.Token && a.RO == b.RO &&
		a.UID == b.UID && a.GID == b.GID && a.Dev == b.Dev && a.Ino == b.Ino
}
