// Package state owns the files that aivm keeps about each VM in the person's
// state directory, beside the host key and the known_hosts of sshcfg: what has
// to be known to reach the VM, the lists of files seen in its folders, the notes
// of its clones, the stamps that save a look, and the paths of the locks.
//
// It reads and writes; it decides nothing. A file in a later format is never
// written over: ErrLater is in the chain of the error. What a file only saves
// the cost of (a stamp) may be missing or unreadable without an error.
package state

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/sshcfg"
)

// Dir is the state directory of a person, $XDG_STATE_HOME/aivm.
type Dir struct{ Layout sshcfg.Layout }

// VM returns the directory of a VM; it may not exist.
func (d Dir) VM(vm string) string { return d.Layout.VMDir(vm) }

// LockPath returns the lock of a VM. It lies in a directory of its own: a VM may
// be called like any other file of the state directory.
func (d Dir) LockPath(vm string) string {
	return filepath.Join(d.Layout.StateDir, "locks", vm+".lock")
}

// RepositoryLockPath returns the lock of a repository, by the token of its
// common directory.
func (d Dir) RepositoryLockPath(token string) string {
	return filepath.Join(d.Layout.StateDir, "locks", "git-"+token+".lock")
}

// BrowserPath returns the file with the address that a browser knows the VM's
// editor by. Another VM of the same name, and the VM at an earlier snapshot, get
// another address: what a guest has left in the browser stays with the old one.
func (d Dir) BrowserPath(vm string) string { return filepath.Join(d.VM(vm), "browser.json") }

// DeletingPath returns the file that says that the deletion of the VM was agreed
// to and has begun. It counts while libvirt does not have the VM: a deletion
// that was killed is finished, and is not asked about again because half of it
// is done.
func (d Dir) DeletingPath(vm string) string { return filepath.Join(d.VM(vm), "deleting") }

// OfferedPath returns the mark that the line of sudoers for reading a network's
// rules was offered.
func (d Dir) OfferedPath(network string) string {
	return filepath.Join(d.Layout.StateDir, "offered", network)
}

// Forget removes the files of a VM that is gone, and its directory if nothing
// else is in it: never recursively. The instance is removed by the caller, whose
// plan names it.
func (d Dir) Forget(vm string) {
	d.forgetAllChecksums(vm)
	d.forgetStamps(vm)
	_ = os.Remove(d.BrowserPath(vm))
	for _, f := range slices.Concat(d.cloneNotes(vm), d.tempFiles(vm), []string{d.DeletingPath(vm)}) {
		_ = os.Remove(f)
	}
	_ = os.Remove(d.VM(vm))
}

// replace writes a file of ours in one rename. The temporary file is in the same
// directory: renameio would otherwise try $TMPDIR first, where other security
// labels and ACLs may apply.
func replace(path string, b []byte, opts ...renameio.Option) error {
	return renameio.WriteFile(path, b, 0o600, append(opts, renameio.WithTempDir(filepath.Dir(path)))...)
}

// leftovers returns the temporary files of runs that were killed while they
// wrote a file of the VM. renameio names them ".NAME" and digits.
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
