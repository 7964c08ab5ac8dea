package share

import (
	"path/filepath"
	"slices"
	"strings"
)

// activeVars name the root of an environment that is active in a shell;
// projectVars name that of a project, which the folder may be a part of.
var (
	activeVars  = []string{"VIRTUAL_ENV", "CONDA_PREFIX", "DIRENV_DIR", "DEVBOX_PROJECT_ROOT", "PIXI_PROJECT_ROOT"}
	projectVars = []string{"DIRENV_DIR", "DEVBOX_PROJECT_ROOT", "PIXI_PROJECT_ROOT"}
)

// active reports whether the directory was put on a path because an environment
// of the folder itself is active in this shell: a Python one, or direnv's.
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
		// A home is no project: what is active there is on everything's path.
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

func inside(path, top string) bool {
	return path == top || strings.HasPrefix(path, strings.TrimSuffix(top, "/")+"/")
}
