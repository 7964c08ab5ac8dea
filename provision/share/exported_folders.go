package share

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// An ExportedFolder is a folder that is mounted in the VM's export directory. Guest
// root can access it whether or not the guest has mounted it, and whatever the config
// says.
type ExportedFolder struct {
	Token string
	Point string // where it is mounted on the host
	Path  string // the host folder if the mount table shows it (Found), else Point
	Found bool   // Path is the host folder
	RO    bool
}

// ExportedFolders returns the folders in the VM's export directory, sorted by token.
func (f HostFacts) ExportedFolders() []ExportedFolder {
	var out []ExportedFolder
	for _, token := range slices.Sorted(maps.Keys(f.Tokens)) {
		for _, m := range f.Tokens[token] {
			r := ExportedFolder{Token: token, Point: m.Point, Path: m.Point, RO: m.Has("ro")}
			if p, ok := f.pathOf(m, token); ok {
				r.Path, r.Found = p, true
			}
			out = append(out, r)
		}
	}
	return out
}

// pathOf finds the host path of a token's folder through another mount of the same file
// system. The token is derived from the path the folder was shared by, which identifies
// the right one of several. For a folder that was renamed since none fits, and the
// first path to it is returned.
func (f HostFacts) pathOf(m mountinfo.Mount, token string) (string, bool) {
	if strings.HasSuffix(m.Root, "//deleted") {
		return "", false
	}
	base := filepath.Dir(f.ExportPath)
	first := ""
	for _, c := range f.mounts {
		if c.Dev != m.Dev || c.Point == base || below(c.Point, base) {
			continue
		}
		rel, ok := strings.CutPrefix(m.Root, strings.TrimSuffix(c.Root, "/"))
		if !ok || rel != "" && !strings.HasPrefix(rel, "/") {
			continue
		}
		p := filepath.Join(c.Point, rel)
		if !liesOn(p, c.ID) {
			continue
		}
		if Token(p) == token {
			return p, true
		}
		if first == "" {
			first = p
		}
	}
	return first, first != ""
}

// liesOn reports whether path is on the mount with this id and not hidden by another
// mount. A path this user may not access counts as being there.
func liesOn(path string, id int) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	if err != nil {
		return errors.Is(err, fs.ErrPermission)
	}
	return st.Mask&unix.STATX_MNT_ID == 0 || int(st.Mnt_id) == id
}
