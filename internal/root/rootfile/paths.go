// Package rootfile owns the files and directories that only root can change: their
// paths, and how they are made, locked and written.
//
// It opens directories one path component at a time, follows no link, restricts a mode
// that is too permissive, and replaces files atomically.
package rootfile

import (
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/lazyre"
)

// stateDir contains ExportBase; aivm makes only directories below it.
const stateDir = "/var/lib"

// ExportBase is the directory below which every VM has its export root
// (ExportBase/VMKEY) with one token directory per shared folder. It is outside VM
// storage, so that operations on disks cannot affect a shared folder.
const ExportBase = "/var/lib/aivm/export"

// ExportRoot returns the directory that the virtiofs device of the VM with this key
// serves. The key is the owner's uid and the VM's name (VMKey).
func ExportRoot(vmKey string) string { return filepath.Join(ExportBase, vmKey) }

// ResolvedExport returns ExportRoot as the mount table names it: /var or /var/lib may
// be symbolic links.
func ResolvedExport(vmKey string) (string, error) {
	resolved, err := filepath.EvalSymlinks(stateDir)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(stateDir, ExportRoot(vmKey))
	if err != nil {
		return "", err
	}
	return filepath.Join(resolved, rel), nil
}

// VMKey returns the name of a VM that is unique on this machine: two users may each
// have a VM called "a".
func VMKey(uid int, vm string) string { return strconv.Itoa(uid) + "-" + vm }

// ValidVMKey reports whether s has the form of a VM key.
func ValidVMKey(s string) bool { return vmKeyRE.MatchString(s) }

var vmKeyRE = lazyre.New(`^[0-9]+-[a-z0-9-]{1,63}$`)

// ManifestDir is the directory of the manifests, from which the libvirt hooks restore
// rules and folders: one file per network or VM, written by the helper and owned by
// root. Everybody may read it: nothing in it is secret, and each run compares it with
// the actual state before it uses a VM.
const ManifestDir = "/var/lib/aivm/manifest"

// NetManifestPath returns the path of a network's manifest. Wall.Check or libvirt has
// checked the name, which contains no slash.
func NetManifestPath(network string) string {
	return filepath.Join(ManifestDir, "net-"+network+".json")
}

// VMManifestPath returns the path of a VM's manifest.
func VMManifestPath(vmKey string) string { return filepath.Join(ManifestDir, "vm-"+vmKey+".json") }

// DeviceGuardPath returns the path of the record about device nodes that the hook
// wrote at the VM's last start.
func DeviceGuardPath(vmKey string) string { return filepath.Join(ManifestDir, "devices-"+vmKey) }
