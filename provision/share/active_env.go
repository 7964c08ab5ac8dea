package share

import (
	"path/filepath"
	"slices"
	"strings"
)

// activeVars are environment variables that hold the root of an environment that is
// active in a shell (a Python one, direnv's, devbox's, pixi's); projectVars are those
// of them that hold the root of a project, in which the folder may lie.
var (
	activeVars  = []string{"VIRTUAL_ENV", "CONDA_PREFIX", "DIRENV_DIR", "DEVBOX_PROJECT_ROOT", "PIXI_PROJECT_ROOT"}
	projectVars = []string{"DIRENV_DIR", "DEVBOX_PROJECT_ROOT", "PIXI_PROJECT_ROOT"}
)

// active reports whether the directory is on a search path because an environment that
// belongs to the folder itself is active in this shell.
func (l *leadFinder) active(dir string) bool {
	dir = filepath.Clean(dir)
	way := l.follow(dir)
	if _, in := way.Through(l.folder); !in {
		return false
	}
	if project, ok := strings.CutSuffix(dir, "/node_modules/.bin"); ok && l.reaches(project) {
		return true
	}
	for _, v := range activeVars {
		root := strings.TrimPrefix(l.getenv(v), "-")
		if !filepath.IsAbs(root) {
			continue
		}
		root = filepath.Clean(root)
		at := l.follow(root)
		if !inside(dir, root) && !inside(way.Path, at.Path) {
			continue
		}
		// A home is not a project: an environment active there affects every folder in it.
		above := slices.Contains(projectVars, v) && inside(l.folder.Path, at.Path) &&
			!slices.ContainsFunc(l.homes(), func(h string) bool { return inside(h, root) || inside(l.follow(h).Path, at.Path) })
		if above || l.reaches(root) {
			return true
		}
	}
	return false
}

// reaches reports whether a path leads into the folder.
func (l *leadFinder) reaches(path string) bool {
	_, in := l.follow(path).Through(l.folder)
	return in
}

// inside reports whether path is top or lies below it.
func inside(path, top string) bool {
	return path == top || strings.HasPrefix(path, strings.TrimSuffix(top, "/")+"/")
}
