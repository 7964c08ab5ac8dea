package hostgit

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"aivm.dev/aivm/gitsync/writable"
)

// Before git runs in a repository, aivm reads its configuration: which files it comes from, and
// which programs it names. It refuses a file that a guest can write. Filters are switched off by
// name, whoever configured them, since .gitattributes, and so a commit, decides which filter runs
// on which file.

// setting is one entry of `git config --list`.
type setting struct {
	scope, file, key, value string // file: the absolute path git opens, not cleaned
}

// settings is a repository's configuration as git reads it, after the checks.
type settings struct {
	all         []setting
	reads       []source
	off         []string // KEY=VALUE settings that switch off what the configuration would run
	fingerprint string
}

// source is a file that git reads, or would read if it existed, and the setting that names it.
type source struct {
	path, why string
	trail     []string
	inactive  bool // its include condition is false for this repository
}

// settingsCache keeps the settings of a repository while the files they come from are unchanged.
// Copies of a Repo share it.
type settingsCache struct {
	mu sync.Mutex
	s  *settings
}

// settings returns the checked configuration, from the cache if its files are unchanged.
func (r Repo) settings(ctx context.Context) (*settings, error) {
	if r.cache == nil {
		return r.readSettings(ctx)
	}
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	if s := r.cache.s; s != nil && s.fingerprint == fingerprint(s.reads) {
		return s, nil
	}
	r.cache.s = nil
	s, err := r.readSettings(ctx)
	if err != nil {
		return nil, err
	}
	r.cache.s = s
	return s, nil
}

func (r Repo) readSettings(ctx context.Context) (*settings, error) {
	if err := r.trustedProgram(); err != nil {
		return nil, err
	}
	if err := r.refuseLinkedObjects(); err != nil {
		return nil, err
	}
	// System settings are included: the user's own git has filters from there, too.
	b, err := launch(ctx, Call{Repo: r, Env: []string{"GIT_CONFIG_NOSYSTEM=0"}, Args: []string{"config", "--list", "--show-scope", "--show-origin", "--includes", "-z"}}, nil)
	if err != nil {
		return nil, ReadError(r, err)
	}
	s := &settings{}
	f := strings.Split(string(b), "\x00")
	for i := 0; i+2 < len(f); i += 3 {
		file, isFile := strings.CutPrefix(f[i+1], "file:")
		if !isFile {
			continue // from aivm's command line
		}
		if !filepath.IsAbs(file) {
			file = r.Top + "/" + file
		}
		key, value, has := strings.Cut(f[i+2], "\n")
		if !has {
			value = "true"
		}
		s.all = append(s.all, setting{f[i], file, key, value})
	}
	s.findSources(r)
	if err := r.trusted(s); err != nil {
		return nil, err
	}
	if err := s.switchOff(r); err != nil {
		return nil, err
	}
	s.fingerprint = fingerprint(s.reads)
	return s, nil
}

// FsckSettings returns the user's own settings fetch.fsck.ID of how grave a fault of a fetched object
// is, by the ID in lower case. Of several values the last one counts, as in git.
func (r Repo) FsckSettings(ctx context.Context) (map[string]string, error) {
	s, err := r.settings(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, v := range s.all {
		if id, ok := strings.CutPrefix(v.key, "fetch.fsck."); ok {
			out[strings.ToLower(id)] = v.value
		}
	}
	return out, nil
}

// findSources lists the files that git reads, or would read if they existed.
func (s *settings) findSources(r Repo) {
	seen, inactive := map[string]int{}, false
	add := func(path, why string) {
		if i, ok := seen[path]; ok || path == "" {
			if ok && !inactive {
				s.reads[i].inactive = false
			}
			return
		}
		seen[path] = len(s.reads)
		t, err := writable.Trail(path)
		if err != nil && len(t) == 0 {
			t = []string{path}
		}
		s.reads = append(s.reads, source{path, why, t, inactive})
	}
	for _, v := range s.all {
		inactive = false
		section, name := sectionOf(v.key)
		switch {
		case (section == "include" || section == "includeif") && name == "path":
			inactive = section == "includeif" && r.includeNeverApplies(subsectionOf(v.key))
			add(expand(v.value, dirOf(v.file)), v.key)
		case v.key == "core.attributesfile", v.key == "core.excludesfile":
			add(expand(v.value, r.Top), v.key)
		}
	}
	inactive = false
	for _, v := range s.all { // a file git has read is not inactive
		add(v.file, "its configuration")
	}
	home := os.Getenv("HOME")
	xdg := os.Getenv("XDG_CONFIG_HOME")
	if xdg == "" && home != "" {
		xdg = home + "/.config"
	}
	if home != "" {
		add(home+"/.gitconfig", "its configuration")
	}
	if xdg != "" {
		for _, n := range []string{"config", "attributes", "ignore"} {
			add(xdg+"/git/"+n, "its configuration")
		}
	}
	for _, p := range []string{r.CommonDir + "/config", r.GitDir + "/config.worktree", r.CommonDir + "/info/attributes"} {
		add(p, "its configuration")
	}
}

// dirOf returns the directory part of a path without resolving anything, as git does for the paths
// of includes.
func dirOf(file string) string { return file[:strings.LastIndexByte(file, '/')+1] }

// expand returns the file that a path in the configuration names (git-config(1)).
func expand(value, base string) string {
	switch rest, ok := strings.CutPrefix(value, "~"); {
	case value == "":
		return ""
	case strings.HasPrefix(value, "%(prefix)/"):
		return "/usr/" + value[len("%(prefix)/"):]
	case ok:
		name, below, _ := strings.Cut(rest, "/")
		if name == "" {
			return os.Getenv("HOME") + "/" + below
		}
		u, err := user.Lookup(name)
		if err != nil {
			return ""
		}
		return u.HomeDir + "/" + below
	case filepath.IsAbs(value):
		return value
	}
	return strings.TrimSuffix(base, "/") + "/" + value
}

// sectionOf splits a key: "filter.a.b.clean" has section filter and name clean.
func sectionOf(key string) (section, name string) {
	i, j := strings.IndexByte(key, '.'), strings.LastIndexByte(key, '.')
	if i < 0 {
		return key, ""
	}
	return strings.ToLower(key[:i]), strings.ToLower(key[j+1:])
}

// subsectionOf returns the part of a key between section and name, "" if there is none.
func subsectionOf(key string) string {
	i, j := strings.IndexByte(key, '.'), strings.LastIndexByte(key, '.')
	if i == j {
		return ""
	}
	return key[i+1 : j]
}

// hasSubsection reports whether a key has a subsection, which may be empty: [filter ""] has an
// empty one, and the attribute "filter=" selects it.
func hasSubsection(key string) bool { return strings.Count(key, ".") > 1 }

// fingerprint returns a string that changes when one of the files, or a link on the path to one,
// changes.
func fingerprint(files []source) string {
	var b strings.Builder
	for _, f := range files {
		t, _ := writable.Trail(f.path)
		for _, p := range t {
			b.WriteString(p + "\x00")
		}
		if st, err := os.Stat(f.path); err == nil {
			b.WriteString(Identity(st))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Identity returns a string that identifies a file and changes with every write.
func Identity(st fs.FileInfo) string {
	return fmt.Sprintf("%d %d %s", st.Size(), st.ModTime().UnixNano(), inode(st))
}

func inode(st fs.FileInfo) string {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(s.Dev, " ", s.Ino, " ", s.Ctim.Nano())
	}
	return ""
}
