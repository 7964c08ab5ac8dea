package gitsync

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"aivm.dev/aivm/internal/ui"
)

// A clone that git made on one file system has its objects as second names of
// the same files. A guest that can write one of the two repositories writes
// into the objects of the other, and git does not hash what it reads of a pack.

// linkedEntries bounds the search for the second names.
const linkedEntries = 300_000

// ownObjects refuses a repository whose objects are files in a folder that a
// guest can write.
func (r Repo) ownObjects() error {
	if r.guests == nil || len(r.guests.infos) == 0 {
		return nil
	}
	linked := map[[2]uint64]bool{}
	note := func(dir string) {
		es, _ := os.ReadDir(dir)
		for _, e := range es {
			if st, err := e.Info(); err == nil && st.Mode().IsRegular() {
				if s, ok := st.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
					linked[[2]uint64{s.Dev, s.Ino}] = true
				}
			}
		}
	}
	objects := filepath.Join(r.CommonDir, "objects")
	es, _ := os.ReadDir(objects)
	for _, e := range es {
		if e.IsDir() && (e.Name() == "pack" || len(e.Name()) == 2) {
			note(filepath.Join(objects, e.Name()))
		}
	}
	if len(linked) == 0 {
		return nil
	}
	for _, w := range slices.Sorted(maps.Keys(r.guests.infos)) {
		n, found := 0, false
		_ = filepath.WalkDir(w, func(_ string, d fs.DirEntry, err error) error {
			if n++; n > linkedEntries {
				found = true // it cannot be told in time
			}
			if found {
				return fs.SkipAll
			}
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if st, err := d.Info(); err == nil {
				if s, ok := st.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
					found = linked[[2]uint64{s.Dev, s.Ino}]
				}
			}
			return nil
		})
		if found {
			q := quote(r.Top)
			return ui.Refused("git on this machine is not started for %s: its objects are the same files as objects in %s (git clone makes hard links), where VM %s can write", ui.Clean(r.Top), ui.Clean(w), r.guests.vms[w]).
				Hint("give it files of its own: git -C "+q+" fsck --full && git -C "+q+" repack -a -d -q && git -C "+q+" prune-packed", "then run the command again")
		}
	}
	return nil
}
