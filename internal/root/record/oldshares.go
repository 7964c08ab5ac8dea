package record

import (
	"path/filepath"
)

// OldShares unmounts the folders that aivm 0.3 mounted below the storage of a VM,
// BaseDir/VM/shared-root, and then removes the directories that are empty. It
// unmounts one by one, never lazily, and removes only empty directories.
type OldShares struct {
	BaseDir string `json:"base_dir"`
	VM      string `json:"vm"`
}

// OldSharesDir returns the directory below which aivm 0.3 mounted a VM's folders.
func OldSharesDir(baseDir, vm string) string { return filepath.Join(baseDir, vm, "shared-root") }

// Kind implements Op.
func (OldShares) Kind() string { return "old-shares" }

func (OldShares) sealed() {}

// Shows implements Op.
func (o OldShares) Shows() []string {
	d := OldSharesDir(o.BaseDir, o.VM)
	return []string{"umount " + quote(d) + "/*", "rmdir " + quote(d) + "/* " + quote(d)}
}
