package writable

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"syscall"
)

// FileID identifies a file by device and inode.
type FileID struct{ dev, inode uint64 }

// LinkedFile returns the FileID of a regular file with more than one hard link.
func LinkedFile(st fs.FileInfo) (FileID, bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() || s.Nlink < 2 {
		return FileID{}, false
	}
	return FileID{s.Dev, s.Ino}, true
}

// ErrTooMany is the error of a Search that stopped at its limit.
var ErrTooMany = errors.New("too many files")

// Search looks in a folder for a hard link to one of the files, in the parts of the folder that are
// in the given file systems, since hard links cannot cross file systems. missed is why it may have
// overlooked one; after limit files it is ErrTooMany.
func (g *Folders) Search(folder string, files map[FileID]string, systems map[string]bool, limit int) (at string, missed error) {
	points := map[string]string{} // mounts inside the folder -> device
	for _, m := range g.mounts {
		if m.Point != folder && Within(m.Point, folder) {
			points[m.Point] = m.Dev
		}
	}
	var tops []string
	if s, known := g.locations[folder]; !known || systems[s.dev] || systems[""] {
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
			if _, mounted := points[p]; mounted && p != top { // searched as a top itself, or in another file system
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if n++; n > limit {
				missed = ErrTooMany
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
		if at != "" || errors.Is(missed, ErrTooMany) {
			break
		}
	}
	return at, missed
}
