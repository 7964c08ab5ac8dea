package writable

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"syscall"
)

// FileID is a file as the kernel knows it, by whichever of its names.
type FileID struct{ dev, inode uint64 }

// LinkedFile is the file of st if it is one that has several names.
func LinkedFile(st fs.FileInfo) (FileID, bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() || s.Nlink < 2 {
		return FileID{}, false
	}
	return FileID{s.Dev, s.Ino}, true
}

var ErrMany = errors.New("too many files")

// Search searches a folder for a name of one of the files, in the parts of it that
// lie in the same file systems, where alone they can have names. The error says
// why it may have missed one: after limit files it is ErrMany.
func (g *Folders) Search(folder string, files map[FileID]string, systems map[string]bool, limit int) (at string, missed error) {
	points := map[string]string{} // what is mounted in it
	for _, m := range g.mounts {
		if m.Point != folder && Within(m.Point, folder) {
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
			if n++; n > limit {
				missed = ErrMany
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
				if f, ok := LinkedFile(st); ok && files[f] != "" {
					at = p
					return fs.SkipAll
				}
			}
			return nil
		})
		if at != "" || errors.Is(missed, ErrMany) {
			break
		}
	}
	return at, missed
}
