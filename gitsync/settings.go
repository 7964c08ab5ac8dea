package gitsync

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"aivm.dev/aivm/internal/ui"
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

// arguments switch off what the configuration would run, but for the filters
// of allow, which are given as they were seen.
func (s *settings) arguments(allow []Filter) ([]string, error) {
	drivers := s.drivers()
	skip := map[string]bool{}
	var out []string
	for _, f := range allow {
		if !maps.Equal(f.values, drivers[f.Name]) {
			return nil, ui.Refused("the filter %s was set otherwise meanwhile", ui.Clean(f.Name)).Hint("run the command again")
		}
		for _, kv := range filterKeys(f.Name) {
			skip[kv] = true
		}
		for _, k := range slices.Sorted(maps.Keys(f.values)) {
			out = append(out, "-c", "filter."+f.Name+"."+k+"="+f.values[k])
		}
	}
	for _, kv := range s.off {
		if !skip[kv] {
			out = append(out, "-c", kv)
		}
	}
	return out, nil
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
	b, err := launch(ctx, call{repo: r, env: []string{"GIT_CONFIG_NOSYSTEM=0"}, args: []string{"config", "--list", "--show-scope", "--show-origin", "--includes", "-z"}}, nil)
	if err != nil {
		return nil, readError(r, err)
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
		t, err := trail(path)
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

// startable are settings whose programs no option of ours keeps from running
// where they are needed: to check a signature that the person asks for, or to
// get the objects of a partial clone.
func startable(key string) bool {
	section, name := sectionOf(key)
	switch section {
	case "gpg", "credential", "ssh":
		return true
	case "core":
		return name == "sshcommand" || name == "gitproxy" || name == "askpass"
	case "remote":
		return name == "uploadpack" || name == "receivepack" || name == "vcs"
	}
	return false
}

// trusted refuses a configuration that a guest can write, or that sends git's
// own connection elsewhere.
func (r Repo) trusted(s *settings) error {
	for _, f := range s.reads {
		if f.idle {
			continue
		}
		for _, p := range f.trail {
			if w, vm, yes := r.guests.writes(p); yes {
				return r.refuse(f.path, p, w, vm)
			}
		}
		if w, vm, yes := r.guests.shares(f.path); yes {
			q := quote(f.path)
			return ui.Refused("git on this machine is not started for %s: it reads %s, a file with another name, which may lie in %s, where VM %s can write", ui.Clean(r.Top), ui.Clean(f.path), ui.Clean(w), vm).
				Hint("give it a single name: cp -p "+q+" "+quote(f.path+".new")+" && mv "+quote(f.path+".new")+" "+q, detachHint(w, vm))
		}
	}
	inTree := map[string]bool{}
	for _, f := range s.reads {
		if len(r.below(f.trail)) > 0 {
			inTree[f.path] = true
		}
	}
	partial := slices.ContainsFunc(s.all, func(v setting) bool {
		_, name := sectionOf(v.key)
		return name == "partialclone" || name == "promisor" && v.value != "false"
	})
	for _, v := range s.all {
		if startable(v.key) {
			for _, w := range words(v.value, r.Top) {
				t, _ := trail(w.file)
				for _, p := range t {
					if dir, vm, yes := r.guests.writes(p); yes {
						return ui.Refused("git on this machine is not started for %s: its setting %s runs %s, and VM %s can write %s", ui.Clean(r.Top), ui.Clean(v.key), ui.Clean(w.file), vm, ui.Clean(dir)).
							Hint(detachHint(dir, vm), unsetHint(v))
					}
				}
			}
		}
		if section, _ := sectionOf(v.key); inTree[v.file] && partial && (startable(v.key) || slices.Contains([]string{"remote", "url", "http", "protocol", "extensions"}, section)) {
			return ui.Refused("git on this machine is not started for %s: objects of this partial clone are fetched as %s says, a file of the work tree, which a commit can change (%s)", ui.Clean(r.Top), ui.Clean(v.file), ui.Clean(v.key)).
				Hint(unsetHint(v))
		}
	}
	return nil
}

// straight refuses a configuration that rewrites the address by which git is
// told of a connection that is open.
func (r Repo) straight(ctx context.Context) error {
	s, err := r.settings(ctx)
	if err != nil {
		return err
	}
	for _, v := range s.all {
		section, name := sectionOf(v.key)
		if section == "url" && (name == "insteadof" || name == "pushinsteadof") && strings.HasPrefix(openConnection, v.value) {
			return ui.Refused("git on this machine is not started for %s: its setting %s rewrites the address of the VM's clone", ui.Clean(r.Top), ui.Clean(v.key)).Hint(unsetHint(v))
		}
	}
	return nil
}

// openConnection is the address of the clone for git's "fd" transport.
const openConnection = "fd::3,4/guest"

func (r Repo) refuse(file, at, folder, vm string) error {
	e := ui.Refused("git on this machine is not started for %s: it reads %s, and VM %s can write %s, so that VM could have any program run here", ui.Clean(r.Top), ui.Clean(file), vm, ui.Clean(folder)).
		Hint(detachHint(folder, vm), "and, if that VM needs it, share it to be read only: aivm attach "+quote(folder)+" --vm "+vm+" --access ro")
	if st, err := os.Lstat(file); err == nil && st.Mode()&os.ModeSymlink != 0 && !within(filepath.Clean(file), folder) {
		e = e.Hint("or, once you have read it, make it a file of its own: cp --remove-destination \"$(readlink -f " + quote(file) + ")\" " + quote(file))
	}
	return e
}

func detachHint(folder, vm string) string {
	return "take the share away: aivm detach " + quote(folder) + " --vm " + vm
}

func unsetHint(v setting) string {
	return "or take the setting away: git config --file " + quote(v.file) + " --unset-all " + quote(v.key)
}

// trustedProgram refuses a git that a guest can write, or whose place in PATH
// comes after one where a guest could put another.
func (r Repo) trustedProgram() error {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue // Go starts nothing from there
		}
		path := dir + "/git"
		t, _ := trail(path)
		for _, p := range t {
			if w, vm, yes := r.guests.writes(p); yes {
				return ui.Refused("git on this machine is not started: PATH leads to %s, and VM %s can write %s", ui.Clean(path), vm, ui.Clean(w)).
					Hint(detachHint(w, vm), "or take the folder out of PATH: echo $PATH")
			}
		}
		if _, err := exec.LookPath(path); err == nil {
			return nil
		}
	}
	return nil
}

// below are the places of a trail that lie in the work tree, where a commit can
// change them, relative to it.
func (r Repo) below(places []string) []string {
	var out []string
	for _, p := range places {
		if p == r.Top || !within(p, r.Top) || within(p, r.GitDir) || within(p, r.CommonDir) || within(p, filepath.Join(r.Top, ".git")) {
			continue
		}
		out = append(out, strings.TrimPrefix(p, strings.TrimSuffix(r.Top, "/")+"/"))
	}
	return out
}

// switchOff makes the arguments that keep git from starting what the
// configuration names and no option of a command switches off.
func (s *settings) switchOff(r Repo) error {
	done := map[string]bool{}
	for _, v := range s.all {
		section, name := sectionOf(v.key)
		sub := subsectionOf(v.key)
		var set []string
		switch {
		case section == "filter" && subsected(v.key):
			set = filterKeys(sub)
		case section == "hook" && subsected(v.key): // git 2.54 and newer
			set = []string{"hook." + sub + ".enabled=false"}
		case section == "branch" && name == "mergeoptions":
			set = []string{"branch." + sub + ".mergeOptions="}
		case v.key == "fetch.bundleuri":
			set = []string{"fetch.bundleURI="}
		}
		if len(set) == 0 || done[set[0]] {
			continue
		}
		done[set[0]] = true
		what := ""
		switch {
		case strings.ContainsRune(sub, '='):
			what = "a name that cannot be switched off"
		case sub == "" && (section == "filter" || section == "hook"):
			what = "an empty name, by which it cannot be told from none"
		}
		if what != "" {
			return ui.Refused("git on this machine is not started for %s: %s of %s has %s", ui.Clean(r.Top), ui.Clean(v.key), ui.Clean(v.file), what).
				Hint("rename it: git config --file " + quote(v.file) + " --rename-section " + quote(section+"."+sub) + " " + quote(section+"."+cmp.Or(strings.ReplaceAll(sub, "=", "-"), "unnamed")))
		}
		s.off = append(s.off, set...)
	}
	return nil
}

// filterKeys set all of a filter to nothing.
func filterKeys(name string) []string {
	f := "filter." + name + "."
	return []string{f + "clean=", f + "smudge=", f + "process=", f + "required=false"}
}

// drivers are the filters that have a program, with their values.
func (s *settings) drivers() map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, v := range s.all {
		if section, name := sectionOf(v.key); section == "filter" && subsectionOf(v.key) != "" {
			sub := subsectionOf(v.key)
			if out[sub] == nil {
				out[sub] = map[string]string{}
			}
			out[sub][name] = v.value
		}
	}
	for name, d := range out {
		if d["clean"] == "" && d["smudge"] == "" && d["process"] == "" {
			delete(out, name)
		}
	}
	return out
}

// fingerprint tells whether the files, or a link on the way to one, changed.
func fingerprint(files []source) string {
	var b strings.Builder
	for _, f := range files {
		t, _ := trail(f.path)
		for _, p := range t {
			b.WriteString(p + "\x00")
		}
		if st, err := os.Stat(f.path); err == nil {
			fmt.Fprintf(&b, "%d %d %s", st.Size(), st.ModTime().UnixNano(), inode(st))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
