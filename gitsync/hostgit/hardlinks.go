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

// git clone on one file system makes hard links: both repositories then have the same object files.
// A guest that can write one of the two can change the objects of the other, and git does not check
// the hash of objects it reads from a pack. The search finds clones made without this in mind. A
// guest that is already attacking can hide a file from it, by moving the file to a folder that was
// already searched or by keeping it open without a name.

// linkedEntries bounds the number of files searched for other names of the objects.
const linkedEntries = 300_000

// refuseLinkedObjects refuses a repository whose objects are, or may be, hard links of files in a
// folder that a guest can write.
func (r Repo) refuseLinkedObjects() error {
	if r.guests == nil || len(r.guests.Existing()) == 0 {
		return nil
	}
	linked, systems := r.linkedObjects()
	if len(linked) == 0 {
		return nil
	}
	most := cmp.Or(r.maxLinkedSearch, linkedEntries)
	for _, w := range r.guests.Existing() {
		reason, vm := "", r.guests.VM(w)
		switch at, err := r.guests.Search(w, linked, systems, most); {
		case at != "":
			reason = fmt.Sprintf("its objects are hard links of files in %s (git clone makes hard links), which VM %s can write", ui.Clean(w), vm)
		case errors.Is(err, writable.ErrTooMany):
			reason = fmt.Sprintf("its objects are hard links (git clone makes them), and the search for their other names in %s, which VM %s can write, stopped after %d files", ui.Clean(w), vm, most)
		case err != nil:
			why := err.Error()
			if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
				why = ui.CleanTo(pe.Path, 300) + ": " + pe.Err.Error()
			}
			reason = fmt.Sprintf("its objects are hard links (git clone makes them), and searching for their other names in %s, which VM %s can write, failed: %s", ui.Clean(w), vm, ui.Clean(why))
		}
		if reason != "" {
			return unlinkHints(ui.Refused("not running git in %s: %s", ui.Clean(r.Top), reason), r, linked)
		}
	}
	return nil
}

// unlinkHints returns e with the commands that give the repository, and those it borrows objects
// from, object files with a single name.
func unlinkHints(e *ui.Error, r Repo, linked map[writable.FileID]string) *ui.Error {
	for _, store := range slices.Compact(slices.Sorted(maps.Values(linked))) {
		q := shellescape.Quote(filepath.Dir(store))
		if store == filepath.Join(r.CommonDir, "objects") {
			q = shellescape.Quote(r.Top)
		}
		e = e.Hint(ui.CmdFor("replace the hard links with copies", "git -C "+q+" fsck --full && git -C "+q+" repack -a -d -q && git -C "+q+" prune-packed"))
	}
	return e.Hint(ui.Remark("then run the command again"))
}

// linkedObjects returns the object files that have several names, by the object store they are in,
// including the stores the repository borrows from, and the file systems these are in ("" for one
// that cannot be determined).
func (r Repo) linkedObjects() (linked map[writable.FileID]string, systems map[string]bool) {
	linked, systems = map[writable.FileID]string{}, map[string]bool{}
	objects := filepath.Join(r.CommonDir, "objects")
	for _, store := range append([]string{objects}, alternates(objects)...) {
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
						systems[r.guests.FileSystem(dir)] = true
					}
				}
			}
		}
	}
	return linked, systems
}
