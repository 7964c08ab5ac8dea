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

// Before git is run in a repository its configuration is read: which files it
// comes from, and which programs it names. A file that a guest can write is
// refused. Filters are switched off by name, whoever configured them: which of
// them runs on what is decided by .gitattributes, and so by a commit.

// setting is one line of `git config --list`.
type setting struct {
	scope, file, key, value string // file: as git opens it, absolute, not cleaned
}

// settings are a repository's configuration as git reads it, checked.
type settings struct {
	all   []setting
	reads []source
	off   []string // settings that switch off what the configuration would run
	print string
}

// source is a file that git obeys, there or not, and what names it.
type source struct {
	path, why string
	trail     []string
	idle      bool // git does not read it for this repository
}

// memo keeps the settings of a repository while the files they come from stay
// as they are. Copies of a Repo have one in common.
type memo struct {
	mu sync.Mutex
	s  *settings
}

// settings reads and checks the configuration, if it is not the one that was
// checked last.
func (r Repo) settings(ctx context.Context) (*settings, error) {
	if r.memo == nil {
		return r.readSettings(ctx)
	}
	r.memo.mu.Lock()
	defer r.memo.mu.Unlock()
	if s := r.memo.s; s != nil && s.print == fingerprint(s.reads) {
		return s, nil
	}
	r.memo.s = nil
	s, err := r.readSettings(ctx)
	if err != nil {
		return nil, err
	}
	r.memo.s = s
	return s, nil
}

func (r Repo) readSettings(ctx context.Context) (*settings, error) {
	if err := r.trustedProgram(); err != nil {
		return nil, err
	}
	if err := r.ownObjects(); err != nil {
		return nil, err
	}
	// With the system's settings: the person's own git has its filters from
	// there, too.
	b, err := launch(ctx, Call{Repo: r, Env: []string{"GIT_CONFIG_NOSYSTEM=0"}, Args: []string{"config", "--list", "--show-scope", "--show-origin", "--includes", "-z"}}, nil)
	if err != nil {
		return nil, ReadError(r, err)
	}
	s := &settings{}
	f := strings.Split(string(b), "\x00")
	for i := 0; i+2 < len(f); i += 3 {
		file, isFile := strings.CutPrefix(f[i+1], "file:")
		if !isFile {
			continue // ours, from the command line
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
	s.print = fingerprint(s.reads)
	return s, nil
}

// findSources lists the files that git reads or would read if they were there.
func (s *settings) findSources(r Repo) {
	seen, idle := map[string]int{}, false
	add := func(path, why string) {
		if i, ok := seen[path]; ok || path == "" {
			if ok && !idle {
				s.reads[i].idle = false
			}
			return
		}
		seen[path] = len(s.reads)
		t, err := writable.Trail(path)
		if err != nil && len(t) == 0 {
			t = []string{path}
		}
		s.reads = append(s.reads, source{path, why, t, idle})
	}
	for _, v := range s.all {
		idle = false
		section, name := sectionOf(v.key)
		switch {
		case (section == "include" || section == "includeif") && name == "path":
			idle = section == "includeif" && r.elsewhere(subsectionOf(v.key))
			add(expand(v.value, dirOf(v.file)), v.key)
		case v.key == "core.attributesfile", v.key == "core.excludesfile":
			add(expand(v.value, r.Top), v.key)
		}
	}
	idle = false
	for _, v := range s.all { // one that git did read is not idle
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

// dirOf is the directory of a file by its name alone, as git has it for what an
// include names.
func dirOf(file string) string { return file[:strings.LastIndexByte(file, '/')+1] }

// expand is the file a path of the configuration names (git-config(1)).
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

// sectionOf splits a key: "filter.a.b.clean" is of section filter and named clean.
func sectionOf(key string) (section, name string) {
	i, j := strings.IndexByte(key, '.'), strings.LastIndexByte(key, '.')
	if i < 0 {
		return key, ""
	}
	return strings.ToLower(key[:i]), strings.ToLower(key[j+1:])
}

// subsectionOf is what stands between section and name, "" without one.
func subsectionOf(key string) string {
	i, j := strings.IndexByte(key, '.'), strings.LastIndexByte(key, '.')
	if i == j {
		return ""
	}
	return key[i+1 : j]
}

// subsected reports whether a key has a subsection, which may be empty: that of
// [filter ""] is, and the attribute "filter=" names it.
func subsected(key string) bool { return strings.Count(key, ".") > 1 }

// fingerprint tells whether the files, or a link on the way to one, changed.
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

// Identity tells a file, and what every write changes of it.
func Identity(st fs.FileInfo) string {
	return fmt.Sprintf("%d %d %s", st.Size(), st.ModTime().UnixNano(), inode(st))
}

func inode(st fs.FileInfo) string {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(s.Dev, " ", s.Ino, " ", s.Ctim.Nano())
	}
	return ""
}
