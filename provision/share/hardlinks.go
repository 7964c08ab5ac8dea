package share

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"aivm.dev/aivm/internal/ui"
)

// inode identifies a file independent of its names.
type inode struct{ dev, ino uint64 }

// sameFiles finds start-up files of the home that have a hard link in the folder, as
// some dotfile managers make them. It walks the folder only if one of these files has
// several hard links at all.
func (l *leadFinder) sameFiles() {
	several := map[inode]string{}
	for _, home := range l.homes() {
		for _, s := range startupFiles {
			for _, path := range l.places(home, s) {
				if st, err := os.Lstat(l.follow(path).Path); err == nil && st.Mode().IsRegular() {
					if n, links := inodeOf(st); links > 1 {
						several[n] = l.displayName(path)
					}
				}
			}
		}
	}
	if len(several) == 0 {
		return
	}
	seen := 0
	_ = filepath.WalkDir(l.folder.Path, func(path string, d fs.DirEntry, err error) error {
		if seen++; seen > allEntries {
			return filepath.SkipAll
		}
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if st, err := d.Info(); err == nil {
			n, _ := inodeOf(st)
			if name, ok := several[n]; ok {
				l.add([]Lead{{Place: name, How: "is the same file as " + ui.Clean(path)}})
			}
		}
		return nil
	})
}

// inodeOf returns the inode of a file and its number of hard links.
func inodeOf(st fs.FileInfo) (n inode, links uint64) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, 0
	}
	return inode{uint64(s.Dev), s.Ino}, uint64(s.Nlink) //nolint:unconvert // the types differ between architectures
}
