package gitsync

import (
	"errors"
	"fmt"
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
// The search finds what somebody cloned without a thought. A guest that is at it
// already can hide a file from it: it moves it to where the search was, or holds
// it open without a name.

// linkedEntries bounds the search for the second names.
var linkedEntries = 300_000

// fileID is a file as the kernel knows it, by whichever of its names.
type fileID struct{ dev, inode uint64 }

// linkedFile is the file of st if it is one that has several names.
func linkedFile(st fs.FileInfo) (fileID, bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() || s.Nlink < 2 {
		return fileID{}, false
	}
	return fileID{s.Dev, s.Ino}, true
}

// ownObjects refuses a repository whose objects are files in a folder that a
// guest can write, or may be.
func (r Repo) ownObjects() error {
	if r.guests == nil || len(r.guests.infos) == 0 {
		return nil
	}
	linked, systems := r.linkedObjects()
	if len(linked) == 0 {
		return nil
	}
	for _, w := range slices.Sorted(maps.Keys(r.guests.infos)) {
		said, vm := "", r.guests.vms[w]
		switch at, err := r.guests.find(w, linked, systems); {
		case at != "":
			said = fmt.Sprintf("its objects are the same files as objects in %s (git clone makes hard links), where VM %s can write", ui.Clean(w), vm)
		case errors.Is(err, errMany):
			said = fmt.Sprintf("its objects have other names (git clone makes hard links), and whether one is in %s, where VM %s can write, was not searched for to the end: more than %d files are there", ui.Clean(w), vm, linkedEntries)
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
func ownHints(e *ui.Error, r Repo, linked map[fileID]string) *ui.Error {
	for _, store := range slices.Compact(slices.Sorted(maps.Values(linked))) {
		q := quote(filepath.Dir(store))
		if store == filepath.Join(r.CommonDir, "objects") {
			q = quote(r.Top)
		}
		e = e.Hint("give it files of its own: git -C " + q + " fsck --full && git -C " + q + " repack -a -d -q && git -C " + q + " prune-packed")
	}
	return e.Hint("then run the command again")
}

// linkedObjects are the objects that have several names, by the store they are
// in, those of the stores it borrows from too, and the file systems they lie in:
// "" for one that cannot be told.
func (r Repo) linkedObjects() (linked map[fileID]string, systems map[string]bool) {
	linked, systems = map[fileID]string{}, map[string]bool{}
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
					if f, ok := linkedFile(st); ok {
						linked[f] = store
						at, _ := r.guests.spotOf(dir)
						systems[at.dev] = true
					}
				}
			}
		}
	}
	return linked, systems
}

var errMany = errors.New("too many files")

// find searches a folder for a name of one of the files, in the parts of it that
// lie in the same file systems, where alone they can have names. The error says
// why it may have missed one.
func (g *guests) find(folder string, files map[fileID]string, systems map[string]bool) (at string, missed error) {
	points := map[string]string{} // what is mounted in it
	for _, m := range g.mounts {
		if m.Point != folder && within(m.Point, folder) {
			points[m.Point] = m.Dev
		}
	}
	var tops []string
	if s, known := g.spots[folder]; !known || systems[s.dev] || systems[""] {
		tops = append(tops, folder)
	}
	for _, p := range slices.Sorted(maps.Keys(points)) {
		if systems[points[p]] || systems[""] {
			tops = append(tops, p)
		}
	}
	n := 0
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if _, mounted := points[p]; mounted && p != top { // a top of its own, or another file system
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if n++; n > linkedEntries {
				missed = errMany
				return fs.SkipAll
			}
			var st fs.FileInfo
			if err == nil && d.Type().IsRegular() {
				st, err = d.Info()
			}
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				missed = err
			case st != nil:
				if f, ok := linkedFile(st); ok && files[f] != "" {
					at = p
					return fs.SkipAll
				}
			}
			return nil
		})
		if at != "" || errors.Is(missed, errMany) {
			break
		}
	}
	return at, missed
}
