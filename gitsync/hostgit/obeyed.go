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

// obeyedNames are files that git or git-lfs obeys anywhere in a work tree without being configured
// to.
var obeyedNames = []string{".gitattributes", ".gitmodules", ".lfsconfig"}

// Obeyed holds the files of the work tree that git obeys, and why.
type Obeyed struct {
	traversed map[string]string // every path passed when git opens one: path relative to the work tree -> reason
	targets   map[string]string // a file, or a folder whose entire content counts -> reason
}

// Obeyed collects the files that the settings of the repository and of its checked-out submodules
// name.
func (r Repo) Obeyed(ctx context.Context) (Obeyed, error) {
	o := Obeyed{traversed: map[string]string{}, targets: map[string]string{}}
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
			for _, w := range commandFiles(v.value, at.Top) {
				if w.path && mayNameFile(v.key) {
					o.add(r, w.file, "git uses it: "+v.key, true)
				} else if isCommand(v) {
					o.add(r, w.file, "git uses it: "+v.key, false)
				}
			}
			if isPathKey(v.key) {
				o.add(r, expand(v.value, at.Top), "git uses it: "+v.key, true)
			}
		}
	}
	o.addLinks(r)
	return o, nil
}

// homeDirs are folders in the home directory whose files programs on the host obey, and where
// dotfile managers put symbolic links.
var homeDirs = []string{"", ".config", ".ssh", ".local/bin", "bin", ".config/autostart", ".config/systemd/user", ".config/fish", ".config/git", ".claude", ".codex"}

// addLinks adds the targets of symbolic links in the home directory: the shell reads a ~/.bashrc
// that is a link into a repository.
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
				o.add(r, filepath.Join(home, link), "~/"+link+" is a link to it", true)
			}
		}
	}
}

// add adds the file that a setting names, and everything below it if it may be a folder.
func (o Obeyed) add(r Repo, file, why string, folder bool) {
	if file == "" {
		return
	}
	t, _ := writable.Trail(file)
	in := r.inWorkTree(t)
	for _, p := range in {
		o.traversed[p] = cmp.Or(o.traversed[p], why)
	}
	if len(t) > 0 && len(in) > 0 && folder && len(r.inWorkTree(t[len(t)-1:])) == 1 {
		end := in[len(in)-1]
		o.targets[end] = cmp.Or(o.targets[end], why)
	}
}

// Why returns the reason that git obeys the file p of a commit, "" if it does not.
func (o Obeyed) Why(p string) string {
	if w := o.traversed[p]; w != "" {
		return w
	}
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if w := o.targets[d]; w != "" {
			return w
		}
	}
	return ""
}

// isPathKey reports whether the entire value of a setting is a path.
func isPathKey(key string) bool {
	return slices.Contains([]string{"core.hookspath", "init.templatedir", "commit.template", "mailmap.file", "gpg.ssh.allowedsignersfile", "gpg.ssh.revocationfile"}, key)
}

// mayNameFile reports whether a slash in a setting's value may belong to a file's path: it does not
// in names of remotes, branches and persons.
func mayNameFile(key string) bool {
	section, name := sectionOf(key)
	switch section {
	case "branch", "url", "submodule", "user", "author", "committer", "include", "includeif", "blame", "safe":
		return false
	case "remote":
		return !slices.Contains([]string{"url", "pushurl", "fetch", "push"}, name)
	}
	return true
}

// isCommand reports whether a setting's value is a command.
func isCommand(v setting) bool {
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

// commandFile is a file that a command may name.
type commandFile struct {
	file string // absolute
	path bool   // it is written with a slash
}

// commandFiles lists the files that a command may name. Relative paths start at dir, the top of the
// work tree, where git starts its programs.
func commandFiles(command, dir string) []commandFile {
	var out []commandFile
	split := func(r rune) bool { return strings.ContainsRune(" \t\n\"'`!;|&=()<>{}$,", r) }
	for _, w := range strings.FieldsFunc(command, split) {
		name, rest, slash := strings.Cut(w, "/")
		switch {
		case slash && name == "~":
			out = append(out, commandFile{os.Getenv("HOME") + "/" + rest, true})
		case slash && (name == "HOME" || name == "PWD"):
			out = append(out, commandFile{os.Getenv("HOME") + "/" + rest, true}, commandFile{dir + "/" + rest, true})
		case slash && name == "":
			// It may follow "$(git rev-parse --show-toplevel)".
			out = append(out, commandFile{w, true}, commandFile{dir + w, true})
		case !strings.HasPrefix(w, "-"):
			out = append(out, commandFile{dir + "/" + w, slash})
		}
	}
	return out
}

// ObeyedName reports whether git obeys a file of this name in any directory.
func ObeyedName(p string) bool {
	return slices.ContainsFunc(obeyedNames, func(n string) bool { return strings.EqualFold(n, path.Base(p)) })
}
