package hostgit

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/gitsync/writable"
)

// obeyedNames are files of a work tree that git or git-lfs obeys by themselves.
var obeyedNames = []string{".gitattributes", ".gitmodules", ".lfsconfig"}

// Obeyed tells which files of the work tree git obeys, and why.
type Obeyed struct {
	parts map[string]string // passed on the way to one: path in the work tree -> why
	ends  map[string]string // a file, or a folder with all in it
}

// Obeyed finds them in the settings of the repository and of the submodules
// that are checked out.
func (r Repo) Obeyed(ctx context.Context) (Obeyed, error) {
	o := Obeyed{parts: map[string]string{}, ends: map[string]string{}}
	subs, err := r.submodules(ctx, MaxDepth)
	if err != nil {
		return o, err
	}
	for _, at := range append([]Repo{r}, subs...) {
		s, err := at.settings(ctx)
		if err != nil {
			return o, err
		}
		for _, f := range s.reads {
			o.add(r, f.path, "git reads it: "+f.why, true)
		}
		for _, v := range s.all {
			for _, w := range words(v.value, at.Top) {
				if w.path && names(v.key) {
					o.add(r, w.file, "git uses it: "+v.key, true)
				} else if command(v) {
					o.add(r, w.file, "git uses it: "+v.key, false)
				}
			}
			if pathKey(v.key) {
				o.add(r, expand(v.value, at.Top), "git uses it: "+v.key, true)
			}
		}
	}
	o.addLinks(r)
	return o, nil
}

// homeDirs are folders of a home whose files programs of this machine obey, and
// where dotfile managers put links.
var homeDirs = []string{"", ".config", ".ssh", ".local/bin", "bin", ".config/autostart", ".config/systemd/user", ".config/fish", ".config/git", ".claude", ".codex"}

// addLinks notes what links in the home lead to: a ~/.bashrc that is kept in a
// repository is what the shell reads.
func (o Obeyed) addLinks(r Repo) {
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
func (o Obeyed) add(r Repo, file, why string, folder bool) {
	if file == "" {
		return
	}
	t, _ := writable.Trail(file)
	in := r.below(t)
	for _, p := range in {
		o.parts[p] = cmp.Or(o.parts[p], why)
	}
	if len(t) > 0 && len(in) > 0 && folder && len(r.below(t[len(t)-1:])) == 1 {
		end := in[len(in)-1]
		o.ends[end] = cmp.Or(o.ends[end], why)
	}
}

// Why says what makes git obey the file p of a commit, "" if nothing does.
func (o Obeyed) Why(p string) string {
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

// ObeyedName reports whether git obeys a file of that name wherever it lies.
func ObeyedName(p string) bool {
	return slices.ContainsFunc(obeyedNames, func(n string) bool { return strings.EqualFold(n, path.Base(p)) })
}
