package manifest

import (
	"errors"
	"fmt"
	"slices"

	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
)

// VM is what of this machine a VM has: its folders, as they were last
// bound. Bind and Unbind write it; libvirt's hook puts back what it says before
// the VM starts. It belongs to a person through the VM's key and holds no
// secret.
type VM struct {
	Version int           `json:"version"`
	Folders []record.Bind `json:"folders"` // by token; Dev and Ino are of the day they were bound
}

// ReadVM reads a VM's manifest; fs.ErrNotExist when there is none. Any
// user may.
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
			return m, fmt.Errorf("%s is of VM %q", rootfile.VMManifestPath(vmKey), o.VMKey)
		}
		if err := record.Check(o, -1); err != nil {
			return m, fmt.Errorf("%s: %w", rootfile.VMManifestPath(vmKey), err)
		}
	}
	return m, nil
}

// NoteFolders changes a VM's manifest; nothing is written if that changes
// nothing. One that cannot be read is replaced: it is an aid, and what it said
// is said again by the next binds.
func NoteFolders(vmKey string, change func([]record.Bind) []record.Bind) error {
	release, err := Lock()
	if err != nil {
		return err
	}
	defer release()
	m, err := ReadVM(vmKey)
	if errors.Is(err, errNewer) {
		return err
	}
	was := slices.Clone(m.Folders)
	if err != nil {
		was, m = nil, VM{}
	}
	m.Version = Version
	m.Folders = change(m.Folders)
	if err == nil && slices.EqualFunc(was, m.Folders, sameBind) {
		return nil
	}
	return Write(rootfile.VMManifestPath(vmKey), m)
}

func sameBind(a, b record.Bind) bool {
	protect := slices.Equal(a.Protect, b.Protect)
	a.Protect, b.Protect = nil, nil
	return protect && a.Own == b.Own && a.Src == b.Src && a.VMKey == b.VMKey && a.Token == b.Token && a.RO == b.RO &&
		a.UID == b.UID && a.GID == b.GID && a.Dev == b.Dev && a.Ino == b.Ino
}
