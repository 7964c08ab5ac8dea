// Package state owns the files that aivm keeps about each VM in the user's state directory,
// next to the host key and known_hosts of sshcfg: how to reach the VM (instance.json), the
// checksums of host-executed files in its folders, the notes of its clones, the stamps that
// save a comparison, and the paths of the locks.
//
// It reads and writes files and makes no decisions. A file in a later format is never
// overwritten: the error wraps ErrLater. Stamps only save time; a missing or unreadable one
// is no error.
package state

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/sshcfg"
)

// Dir is the state directory of a user, $XDG_STATE_HOME/aivm.
type Dir struct{ Layout sshcfg.Layout }

// VM returns the directory of a VM; it may not exist.
func (d Dir) VM(vm string) string { return d.Layout.VMDir(vm) }

// LockPath returns the path of a VM's lock. Locks have their own directory because a VM may
// have the name of any other file in the state directory.
func (d Dir) LockPath(vm string) string {
	return filepath.Join(d.Layout.StateDir, "locks", vm+".lock")
}

// RepositoryLockPath returns the path of a repository's lock; token is that of the git common
// directory.
func (d Dir) RepositoryLockPath(token string) string {
	return filepath.Join(d.Layout.StateDir, "locks", "git-"+token+".lock")
}

// BrowserPath returns the file with the address under which a browser opens the VM's editor.
// Another VM of the same name, and the VM after a rollback, get another address: what a guest
// stored in the browser stays with the old one.
func (d Dir) BrowserPath(vm string) string { return filepath.Join(d.VM(vm), "browser.json") }

// DeletingPath returns the file that marks a deletion of the VM as confirmed and begun. It
// counts only while libvirt does not have the VM: an interrupted deletion is then finished
// without a second question.
func (d Dir) DeletingPath(vm string) string { return filepath.Join(d.VM(vm), "deleting") }

// OfferedPath returns the file that marks the sudoers line for reading a network's rules as
// shown to the user.
func (d Dir) OfferedPath(network string) string {
	return filepath.Join(d.Layout.StateDir, "offered", network)
}

// Forget removes the files of a deleted VM, and its directory if that is empty then; it
// removes nothing recursively. The caller removes instance.json, which its plan names.
func (d Dir) Forget(vm string) {
	d.forgetAllChecksums(vm)
	d.forgetStamps(vm)
	_ = os.Remove(d.BrowserPath(vm))
	for _, f := range slices.Concat(d.cloneNotes(vm), d.tempFiles(vm), []string{d.DeletingPath(vm)}) {
		_ = os.Remove(f)
	}
	_ = os.Remove(d.VM(vm))
}

// replace writes one of aivm's files by renaming a temporary file. That is in the same
// directory: renameio would otherwise try $TMPDIR first, where other security labels and ACLs
// may apply.
func replace(path string, b []byte, opts ...renameio.Option) error {
	return renameio.WriteFile(path, b, 0o600, append(opts, renameio.WithTempDir(filepath.Dir(path)))...)
}

// tempFiles returns the temporary files of runs that were killed while they wrote a file of
// the VM. renameio names them ".NAME" followed by digits.
func (d Dir) tempFiles(vm string) []string {
	var out []string
	l, _ := os.ReadDir(d.VM(vm))
	for _, f := range l {
		n := f.Name()
		if f.Type().IsRegular() && n[0] == '.' && strings.ContainsRune("0123456789", rune(n[len(n)-1])) {
			out = append(out, filepath.Join(d.VM(vm), f.Name()))
		}
	}
	return out
}
