// Package rootfile owns the files and directories that only root can change: where
// they are, how they are made, locked and written.
//
// It opens directories one step at a time, follows no link, puts a mode right
// that is wider than wanted, and replaces a file whole or not at all.
package rootfile

import (
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/lazyre"
)

// stateDir holds ExportBase; only what is below it is ours to make.
const stateDir = "/var/lib"

// ExportBase is the directory below which every VM has its export root
// (ExportBase/VMKEY) with one token directory per shared folder. It lies
// outside VM storage, so nothing done to disks can reach a shared folder.
const ExportBase = "/var/lib/aivm/export"

// ExportRoot is the directory the virtiofs device of the VM with this key
// serves. The key is the owner's uid and the VM's name (VMKey).
func ExportRoot(vmKey string) string { return filepath.Join(ExportBase, vmKey) }

// ResolvedExport is ExportRoot as the mount table names it: /var or /var/lib
// may be links on the administrator's machine.
func ResolvedExport(vmKey string) (string, error) {
	real, err := filepath.EvalSymlinks(stateDir)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(stateDir, ExportRoot(vmKey))
	if err != nil {
		return "", err
	}
	return filepath.Join(real, rel), nil
}

// VMKey names a VM machine-wide: two users may each have a VM called "a".
func VMKey(uid int, vm string) string { return strconv.Itoa(uid) + "-" + vm }

// ValidVMKey reports whether s has the form of a VM's key.
func ValidVMKey(s string) bool { return vmKeyRE.MatchString(s) }

var vmKeyRE = lazyre.New(`^[0-9]+-[a-z0-9-]{1,63}$`)

// ManifestDir holds what the libvirt hooks put back, one file a network or VM,
// written by the helper and owned by root. Everybody may read it: nothing in
// it is secret, and the comparison before a guest is used needs it.
const ManifestDir = "/var/lib/aivm/manifest"

// NetManifestPath is the manifest's path; the name was checked by Wall.Check or
// libvirt, and contains no slash.
func NetManifestPath(network string) string {
	return filepath.Join(ManifestDir, "net-"+network+".json")
}

// VMManifestPath is the path of a VM's manifest.
func VMManifestPath(vmKey string) string { return filepath.Join(ManifestDir, "vm-"+vmKey+".json") }

// DeviceGuardPath is the path of what was found about device nodes when the VM
// started last.
func DeviceGuardPath(vmKey string) string { return filepath.Join(ManifestDir, "devices-"+vmKey) }
