package gitsync

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// obeyedNames are files of a work tree that git or git-lfs obeys by themselves.
var obeyedNames = []string{".gitattributes", ".gitmodules", ".lfsconfig"}

// obeyed tells which files of the work tree git obeys, and why.
type obeyed struct {
	parts map[string]string // passed on the way to one: path in the work tree -> why
	ends  map[string]string // a file, or a folder with all in it
}

// obeyedFiles finds them in the settings of the repository and of the submodules
// that are checked out.
func (h Host) obeyedFiles(ctx context.Context) (obeyed, error) {
	o := obeyed{parts: map[string]string{}, ends: map[string]string{}}
	subs, err := h.Repo.submodules(ctx, maxDepth)
	if err != nil {
		return o, err
	}
	for _, r := range append([]Repo{h.Repo}, subs...) {
		s, err := r.settings(ctx)
		if err != nil {
			return o, err
		}
		for _, f := range s.reads {
			o.add(h.Repo, f.path, "git reads it: "+f.why, true)
		}
		for _, v := range s.all {
			for _, w := range words(v.value, r.Top) {
				if w.path && names(v.key) {
					o.add(h.Repo, w.file, "git uses it: "+v.key, true)
				} else if command(v) {
					o.add(h.Repo, w.file, "git uses it: "+v.key, false)
				}
			}
			if pathKey(v.key) {
				o.add(h.Repo, expand(v.value, r.Top), "git uses it: "+v.key, true)
			}
		}
	}
	o.addLinks(h.Repo)
	return o, nil
}

// homeDirs are folders of a home whose files programs of this machine obey, and
// where dotfile managers put links.
var homeDirs = []string{"", ".config", ".ssh", ".local/bin", "bin", ".config/autostart", ".config/systemd/user", ".config/fish", ".config/git", ".claude", ".codex"}

// addLinks notes what links in the home lead to: a ~/.bashrc that is kept in a
// repository is what the shell reads.
func (o obeyed) addLinks(r Repo) {
	home := os.Getenv("HOME")
	if home == "" {
		return
	}
	for _, d := range homeDirs {
		es, _ := os.ReadDir(filepath.Join(home, d))
		for _, e := range es {
			if e.Type()&fs.ModeSymlink != 0 {
				link := filepath.Join(d, e.Name())
				o.add(r, filepath.Join(home, link), "~/"+link+" leads to it", true)
			}
		}
	}
}

// add notes a file that is named; all below it too, if it may be a folder.
func (o obeyed) add(r Repo, file, why string, folder bool) {
	if file == "" {
		return
	}
	t, _ := trail(file)
	in := r.below(t)
	for _, p := range in {
		o.parts[p] = cmp.Or(o.parts[p], why)
	}
	if len(t) > 0 && len(in) > 0 && folder && len(r.below(t[len(t)-1:])) == 1 {
		end := in[len(in)-1]
		o.ends[end] = cmp.Or(o.ends[end], why)
	}
}

// why says what makes git obey the file p of a commit, "" if nothing does.
func (o obeyed) why(p string) string {
	if w := o.parts[p]; w != "" {
		return w
	}
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if w := o.ends[d]; w != "" {
			return w
		}
	}
	return ""
}

// pathKey are settings whose value is a path as a whole.
func pathKey(key string) bool {
	return slices.Contains([]string{"core.hookspath", "init.templatedir", "commit.template", "mailmap.file", "gpg.ssh.allowedsignersfile", "gpg.ssh.revocationfile"}, key)
}

// names reports whether a value with a slash may be a file's: not where it is a
// remote's, a branch's or a person's.
func names(key string) bool {
	section, name := sectionOf(key)
	switch section {
	case "branch", "url", "submodule", "user", "author", "committer", "include", "includeif", "blame", "safe":
		return false
	case "remote":
		return !slices.Contains([]string{"url", "pushurl", "fetch", "push"}, name)
	}
	return true
}

// command reports whether a setting's value is a command.
func command(v setting) bool {
	section, name := sectionOf(v.key)
	switch section {
	case "alias":
		return strings.HasPrefix(v.value, "!")
	case "core":
		return slices.Contains([]string{"editor", "pager", "sshcommand", "fsmonitor", "askpass", "gitproxy", "alternaterefscommand"}, name)
	case "filter":
		return name != "required"
	case "remote":
		return name == "uploadpack" || name == "receivepack"
	case "diff", "merge", "difftool", "mergetool", "trailer", "hook", "browser", "man", "guitool":
		return slices.Contains([]string{"command", "textconv", "external", "driver", "cmd"}, name)
	case "gpg":
		return name == "program" || name == "defaultkeycommand"
	case "credential", "pager", "sequence", "sendemail", "interactive", "uploadpack", "ssh":
		return true
	}
	return false
}

// word is a file that a command may name.
type word struct {
	file string // absolute
	path bool   // it is written with a slash
}

// words are the files that a command may name. Relative ones are taken from
// dir, the top of the work tree, where git starts its programs.
func words(command, dir string) []word {
	var out []word
	split := func(r rune) bool { return strings.ContainsRune(" \t\n\"'`!;|&=()<>{}$,", r) }
	for _, w := range strings.FieldsFunc(command, split) {
		name, rest, slash := strings.Cut(w, "/")
		switch {
		case slash && name == "~":
			out = append(out, word{os.Getenv("HOME") + "/" + rest, true})
		case slash && (name == "HOME" || name == "PWD"):
			out = append(out, word{os.Getenv("HOME") + "/" + rest, true}, word{dir + "/" + rest, true})
		case slash && name == "":
			// It may follow "$(git rev-parse --show-toplevel)".
			out = append(out, word{w, true}, word{dir + w, true})
		case !strings.HasPrefix(w, "-"):
			out = append(out, word{dir + "/" + w, slash})
		}
	}
	return out
}

// obeyedName reports whether git obeys a file of that name wherever it lies.
func obeyedName(p string) bool {
	return slices.ContainsFunc(obeyedNames, func(n string) bool { return strings.EqualFold(n, path.Base(p)) })
}

// A Filter is a program of git's configuration that git would start for files
// of a commit, and that aivm does not start by itself.
type Filter struct {
	Name    string   `json:"name"`
	Command string   `json:"command"`
	From    string   `json:"from"` // the configuration file
	Files   []string `json:"files"`
	values  map[string]string
}

// Filters are those that the person's own git would start to take over changes:
// the commit's .gitattributes choose among the filters that are configured here.
func Filters(ctx context.Context, h Host, to string, cs []Change) ([]Filter, error) {
	var names []string
	for _, c := range cs {
		if c.What != "D" && strings.HasPrefix(c.Mode, "100") {
			names = append(names, c.Path)
		}
	}
	s, err := h.Repo.settings(ctx)
	if err != nil || len(s.drivers()) == 0 || len(names) == 0 {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "aivm-attributes-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // ours; nothing is mounted there
	env := []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	lim := Limits{}.or(DefaultLimits)
	if _, err := run(ctx, call{repo: h.Repo, env: env, memory: lim.Memory, args: []string{"read-tree", to}}); err != nil {
		return nil, readError(h.Repo, err)
	}
	return h.Repo.filters(ctx, s, names, env, "--cached")
}

// filters groups files by the configured filter that their attributes choose.
func (r Repo) filters(ctx context.Context, s *settings, names, env []string, options ...string) ([]Filter, error) {
	drivers := s.drivers()
	found := map[string]*Filter{}
	var file string
	field := 0 // FILE, "filter", VALUE
	_, err := run(ctx, call{
		repo: r, env: env, stdin: strings.NewReader(strings.Join(names, "\x00") + "\x00"),
		stdout: &strand{each: func(f string) {
			switch field++; field {
			case 1:
				file = f
			case 3:
				field = 0
				if d, ok := drivers[f]; ok {
					if found[f] == nil {
						found[f] = &Filter{Name: f, Command: cmp.Or(d["process"], d["smudge"], d["clean"]), From: s.from(f), values: d}
					}
					found[f].Files = append(found[f].Files, file)
				}
			}
		}},
		args: slices.Concat([]string{"check-attr", "-z", "--stdin"}, options, []string{"filter"}),
	})
	if err != nil {
		return nil, readError(r, err)
	}
	var out []Filter
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[name])
	}
	return out, nil
}

// strand hands on what NUL bytes end.
type strand struct {
	rest []byte
	each func(string)
}

func (s *strand) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		i := bytes.IndexByte(s.rest, 0)
		if i < 0 {
			return len(p), nil
		}
		s.each(string(s.rest[:i]))
		s.rest = s.rest[i+1:]
	}
}

// from is the file that has the last word on a filter.
func (s *settings) from(filter string) string {
	at := ""
	for _, v := range s.all {
		if section, _ := sectionOf(v.key); section == "filter" && subsectionOf(v.key) == filter {
			at = v.file
		}
	}
	return at
}

// Agreement is a name for what a pull brings and would run: who repeats it has
// seen that list and no other.
func Agreement(from, to string, hazards []string, fs []Filter) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q\n", from, to, hazards)
	for _, f := range fs {
		fmt.Fprintf(sum, "%q %q %q\n", f.Name, f.From, f.Files)
		for _, k := range slices.Sorted(maps.Keys(f.values)) {
			fmt.Fprintf(sum, "%q %q\n", k, f.values[k])
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}

// submodules are those that git looks into by itself: gitlinks of the index
// with a repository in their place, and theirs, as deep as depth.
func (r Repo) submodules(ctx context.Context, depth int) ([]Repo, error) {
	if depth == 0 {
		return nil, nil
	}
	var links []string
	_, err := run(ctx, call{repo: r, args: []string{"ls-files", "--stage", "-z"}, stdout: &strand{each: func(l string) {
		if meta, p, ok := strings.Cut(l, "\t"); ok && strings.HasPrefix(meta, "160000 ") {
			links = append(links, p)
		}
	}}})
	if err != nil {
		return nil, readError(r, err)
	}
	var out []Repo
	for _, p := range links {
		top := filepath.Join(r.Top, p)
		sub, err := open(top, filepath.Join(top, ".git"))
		if err != nil {
			continue // not checked out
		}
		sub.guests = r.guests
		below, err := sub.submodules(ctx, depth-1)
		if err != nil {
			return nil, err
		}
		out = append(append(out, sub), below...)
	}
	return out, nil
}

// quiet are the arguments that keep git from starting what submodules would
// have it start, where it looks into them.
func (r Repo) quiet(ctx context.Context) ([]string, error) {
	subs, err := r.submodules(ctx, maxDepth)
	var out []string
	for _, sub := range subs {
		s, err := sub.settings(ctx)
		if err != nil {
			return nil, err
		}
		off, err := s.arguments(nil)
		if err != nil {
			return nil, err
		}
		out = append(out, off...)
	}
	return out, err
}
