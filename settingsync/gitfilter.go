package settingsync

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// GitRules is what a git configuration is filtered with.
type GitRules struct {
	Home        string // of the person on the host
	Read        func(path string) (string, error)
	AllowSecret bool
}

// GitFiltered is a git configuration as it may be sent.
type GitFiltered struct {
	Text   string
	Extra  map[string]string // files for conditional includes: path below the guest home -> text
	Left   []string          // names of variables left out
	Found  []Secret
	Notes  []string // includes that could not be read
	nested int
}

// maxIncludes is git's own limit on nesting, and ours on their number.
const maxIncludes = 10

// conditionalDir is where conditional includes go in the guest.
const conditionalDir = ".config/aivm/git/"

// FilterGit flattens a git configuration with its includes and leaves out what
// is the host's alone or could be used against it: credential helpers, tokens,
// signing keys, programs at places of the host. A conditional include stays
// conditional: it goes to a file of its own, "~/" in its condition meaning the
// host's home, since folders keep their path in the guest.
func FilterGit(text, file string, r GitRules) (GitFiltered, error) {
	g := GitFiltered{Extra: map[string]string{}}
	vars, err := g.flatten(text, file, r, 0)
	if err != nil {
		return GitFiltered{}, err
	}
	g.Text = writeGit(vars)
	return g, nil
}

func (g *GitFiltered) flatten(text, file string, r GitRules, depth int) ([]gitVar, error) {
	vars, err := parseGit(text)
	if err != nil {
		return nil, err
	}
	var out []gitVar
	for _, v := range vars {
		switch {
		case v.section == "include" && !v.hasSub && v.key == "path":
			if inner, ok := g.include(v, file, r, depth); ok {
				out = append(out, inner...)
			}
			continue
		case v.section == "includeif" && v.hasSub && v.key == "path":
			if c, ok := g.conditional(v, file, r, depth); ok {
				out = append(out, c)
			}
			continue
		case v.section == "include" || v.section == "includeif":
			continue
		}
		if !r.AllowSecret {
			if found := gitSecret(v); found != "" {
				g.Found = append(g.Found, Secret{Line: v.line, Kind: found})
				g.Left = append(g.Left, v.shown())
				continue
			}
		}
		v, keep := gitKeep(v, r.Home)
		if !keep {
			g.Left = append(g.Left, v.shown())
			continue
		}
		out = append(out, v)
	}
	return out, nil
}

// shown is a variable's name without a password in it.
func (v gitVar) shown() string {
	if urlWithPassword(v.sub) || len(Scan(v.sub)) > 0 {
		v.sub = "*"
	}
	return v.name()
}

// include reads what an include names and returns its variables.
func (g *GitFiltered) include(v gitVar, file string, r GitRules, depth int) ([]gitVar, bool) {
	g.nested++
	if depth >= maxIncludes || g.nested > 100 {
		g.Notes = append(g.Notes, "includes are nested too deep at "+v.value)
		return nil, false
	}
	name := hostPath(v.value, path.Dir(file), r.Home)
	text, err := r.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false // git passes over it as well
	}
	var vars []gitVar
	if err == nil {
		vars, err = g.flatten(text, name, r, depth+1)
	}
	if err != nil {
		g.Notes = append(g.Notes, fmt.Sprintf("the included %s: %v", name, err))
		return nil, false
	}
	return vars, true
}

func (g *GitFiltered) conditional(v gitVar, file string, r GitRules, depth int) (gitVar, bool) {
	vars, ok := g.include(v, file, r, depth)
	if !ok || len(vars) == 0 {
		return v, false
	}
	for _, kind := range []string{"gitdir:", "gitdir/i:"} {
		if rest, ok := strings.CutPrefix(v.sub, kind); ok {
			switch {
			case strings.HasPrefix(rest, "~/"):
				v.sub = kind + r.Home + rest[1:]
			case strings.HasPrefix(rest, "./"):
				v.sub = kind + path.Join(path.Dir(file), rest[2:]) + map[bool]string{true: "/"}[strings.HasSuffix(rest, "/")]
			}
		}
	}
	place := conditionalDir + strconv.Itoa(len(g.Extra)+1)
	g.Extra[place] = writeGit(vars)
	v.value = "~/" + place
	return v, true
}

func hostPath(p, dir, home string) string {
	switch {
	case strings.HasPrefix(p, "~/"):
		return path.Join(home, p[2:])
	case path.IsAbs(p):
		return path.Clean(p)
	}
	return path.Join(dir, p)
}

// gitLeft are variables that never leave the host: "section.key",
// "section.*.key" with anything between, "section." for all of a section.
var gitLeft = []string{
	"credential.", "gpg.", "user.signingkey", "commit.gpgsign", "tag.gpgsign", "tag.forcesignannotated", "push.gpgsign",
	"merge.verifysignatures", "pull.verifysignatures", "log.showsignature",
	"core.fsmonitor", "core.hookspath", "core.sshcommand", "core.askpass", "core.gitproxy", "core.worktree", "core.bare",
	"core.repositoryformatversion", "core.alternaterefscommand", "extensions.", "ssh.", "filter.", "trace2.", "maintenance.repo",
	"gui.recentrepo", "uploadpack.", "receive.", "http.extraheader", "http.*.extraheader", "http.cookiefile", "http.*.cookiefile",
	"http.sslkey", "http.*.sslkey", "http.sslcert", "http.*.sslcert", "http.sslcertpasswordprotected", "http.*.sslcertpasswordprotected",
	"http.sslcainfo", "http.*.sslcainfo", "http.sslcapath", "http.*.sslcapath", "http.proxyauthmethod", "http.*.proxyauthmethod",
	"http.proxysslcert", "http.proxysslkey", "http.delegation", "imap.", "sendemail.", "svn.", "svn-remote.", "github.", "gitlab.", "hub.",
	"diff.external", "gc.*.logexpiry", "instaweb.", "lfs.", "bugtraq.", "init.templatedir", "interactive.difffilter", "scalar.",
}

// gitPrograms hold a command; one at a place of the host is left out.
var gitPrograms = []string{
	"core.pager", "core.editor", "sequence.editor", "pager.", "diff.*.command", "diff.*.textconv", "difftool.", "mergetool.",
	"merge.*.driver", "browser.", "man.", "web.browser", "rebase.instructionformat", "gui.", "guitool.", "help.browser", "alias.", "trailer.",
	"ssh.variant", "merge.tool", "diff.tool",
}

func gitMatches(v gitVar, patterns []string) bool {
	for _, p := range patterns {
		section, rest, _ := strings.Cut(p, ".")
		if section != v.section {
			continue
		}
		switch {
		case rest == "":
			return true
		case strings.HasPrefix(rest, "*."):
			if v.hasSub && v.key == rest[2:] {
				return true
			}
		case !v.hasSub && v.key == rest:
			return true
		}
	}
	return false
}

// gitKeep decides about one variable, and rewrites a path below the home.
func gitKeep(v gitVar, home string) (gitVar, bool) {
	if strings.ContainsRune(v.value+v.sub, 0) || strings.ContainsRune(v.sub, '\n') || gitMatches(v, gitLeft) {
		return v, false
	}
	if v.section == "url" {
		return v, !urlWithPassword(v.sub) && !urlWithPassword(v.value)
	}
	if (v.section == "http" || v.section == "https" || v.section == "remote") && strings.Contains(v.key, "proxy") {
		return v, !loopback(v.value) && !urlWithPassword(v.value)
	}
	if urlWithPassword(v.value) || urlWithPassword(v.sub) {
		return v, false
	}
	if gitMatches(v, gitPrograms) && hostProgram(v.value, home) {
		return v, false
	}
	if rest, ok := strings.CutPrefix(v.value, home+"/"); ok && home != "" && v.section != "safe" {
		v.value = "~/" + rest
	}
	return v, true
}

// hostProgram reports whether a command names a program by a path of the host.
func hostProgram(command, home string) bool {
	for _, w := range strings.FieldsFunc(command, func(r rune) bool { return strings.ContainsRune(" \t\"'!;|&=()", r) }) {
		if path.IsAbs(w) && !guestHas(w) || strings.HasPrefix(w, "~/") || strings.HasPrefix(w, "$HOME/") || home != "" && strings.HasPrefix(w, home+"/") {
			return true
		}
	}
	return false
}

// guestHas are places every guest has.
func guestHas(p string) bool {
	switch p {
	case "/bin/sh", "/bin/bash", "/usr/bin/env", "/dev/null", "/bin/cat", "/usr/bin/less", "/usr/bin/vim", "/usr/bin/vi", "/usr/bin/nano":
		return true
	}
	return false
}

// urlWithPassword reports whether an URL carries more than a user name.
func urlWithPassword(s string) bool {
	u, err := url.Parse(s)
	if err == nil && u.User != nil {
		// A long name without a password is a token: https://TOKEN@host/.
		_, has := u.User.Password()
		return has || len(u.User.Username()) >= 20
	}
	// Not an URL as Go reads them, yet curl might: judge by its shape.
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		return false
	}
	authority, _, _ := strings.Cut(rest, "/")
	user, _, at := strings.Cut(authority, "@")
	return at && strings.Contains(user, ":")
}

// gitSecret looks at a variable's name and value.
func gitSecret(v gitVar) string {
	for _, word := range []string{"token", "password", "passwd", "secret", "apikey"} {
		if strings.Contains(v.key, word) && v.value != "" && v.section != "credential" {
			return "a value called " + v.key
		}
	}
	for _, s := range []string{v.value, v.sub, v.key + " = " + v.value} {
		if urlWithPassword(s) {
			continue // left out by gitKeep, and no reason to alarm anybody
		}
		if found := Scan(s); len(found) > 0 {
			return found[0].Kind
		}
	}
	return ""
}
