package hostgit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/ui"
)

// A clone that git made on one file system has its objects as second names of
// the same files. A guest that can write one of the two repositories writes
// into the objects of the other, and git does not hash what it reads of a pack.
// The search finds what somebody cloned without a thought. A guest that is at it
// already can hide a file from it: it moves it to where the search was, or holds
// it open without a name.

// linkedEntries bounds the search for the second names.
const linkedEntries = 300_000

// ownObjects refuses a repository whose objects are files in a folder that a
// guest can write, or may be.
func (r Repo) ownObjects() error {
	if r.guests == nil || len(r.guests.Seen()) == 0 {
		return nil
	}
	linked, systems := r.linkedObjects()
	if len(linked) == 0 {
		return nil
	}
	most := cmp.Or(r.linkedMost, linkedEntries)
	for _, w := range r.guests.Seen() {
		said, vm := "", r.guests.VM(w)
		switch at, err := r.guests.Search(w, linked, systems, most); {
		case at != "":
			said = fmt.Sprintf("its objects are the same files as objects in %s (git clone makes hard links), where VM %s can write", ui.Clean(w), vm)
		case errors.Is(err, writable.ErrMany):
			said = fmt.Sprintf("its objects have other names (git clone makes hard links), and whether one is in %s, where VM %s can write, was not searched for to the end: more than %d files are there", ui.Clean(w), vm, most)
		case err != nil:
			why := err.Error()
			if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
				why = ui.CleanTo(pe.Path, 300) + ": " + pe.Err.Error()
			}
			said = fmt.Sprintf("its objects have other names (git clone makes hard links), and whether one is in %s, where VM %s can write, cannot be seen: %s", ui.Clean(w), vm, ui.Clean(why))
		}
		if said != "" {
			return ownHints(ui.Refused("git on this machine is not started for %s: %s", ui.Clean(r.Top), said), r, linked)
		}
	}
	return nil
}

// ownHints say how to give the repository, and those it borrows from, files of
// their own.
func ownHints(e *ui.Error, r Repo, linked map[writable.FileID]string) *ui.Error {
	for _, store := range slices.Compact(slices.Sorted(maps.Values(linked))) {
		q := shellescape.Quote(filepath.Dir(store))
		if store == filepath.Join(r.CommonDir, "objects") {
			q = shellescape.Quote(r.Top)
		}
		e = e.Hint(ui.CmdFor("give it files of its own", "git -C "+q+" fsck --full && git -C "+q+" repack -a -d -q && git -C "+q+" prune-packed"))
	}
	return e.Hint(ui.Remark("then run the command again"))
}

// linkedObjects are the objects that have several names, by the store they are
// in, those of the stores it borrows from too, and the file systems they lie in:
// "" for one that cannot be told.
func (r Repo) linkedObjects() (linked map[writable.FileID]string, systems map[string]bool) {
	linked, systems = map[writable.FileID]string{}, map[string]bool{}
	objects := filepath.Join(r.CommonDir, "objects")
	for _, store := range append([]string{objects}, borrowed(objects, 5)...) {
		es, _ := os.ReadDir(store)
		for _, e := range es {
			if e.Name() != "pack" && len(e.Name()) != 2 {
				continue
			}
			dir, err := filepath.EvalSymlinks(filepath.Join(store, e.Name()))
			if err != nil {
				continue
			}
			in, _ := os.ReadDir(dir)
			for _, o := range in {
				if st, err := o.Info(); err == nil {
					if f, ok := writable.LinkedFile(st); ok {
						linked[f] = store
						systems[r.guests.System(dir)] = true
					}
				}
			}
		}
	}
	return linked, systems
}
