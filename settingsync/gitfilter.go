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

// GitRules are the parameters of FilterGit.
type GitRules struct {
	Home string // the host home
	// Read returns the content of a configuration that the file by includes.
	Read func(name, by string) (string, error)
	// Send arranges for a file that a variable in the file by names to be sent, and returns its path
	// in the guest. The variable is left out on an error; errSecret is one that was reported.
	Send        func(name, by string) (string, error)
	Extra       int // how many files for conditional includes other configurations have
	AllowSecret bool
}

// GitFiltered is a git configuration with only what may be sent.
type GitFiltered struct {
	Text    string
	Extra   map[string]string // files for conditional includes: path relative to the guest home -> text
	LeftOut []string          // names of removed variables
	Found   []Secret
	Notes   []string // includes that could not be read
	// Problems are files that a variable names and that exist, but are not sent.
	Problems []Problem
	// Files are the variables that name a file, sent or not, without those of conditional includes.
	Files map[string]bool
	// SSH are the addresses that git replaces by one of ssh.
	SSH    []string
	extra  int // GitRules.Extra
	nested int
}

// maxIncludes bounds the nesting of includes, as git does.
const maxIncludes = 10

// conditionalDir is the directory for conditional includes in the guest.
const conditionalDir = ".config/aivm/git/"

// FilterGit replaces includes in a git configuration by their content, and removes what belongs to
// the host or could be used against it: credential helpers, tokens, signing keys, programs at host
// paths, sections of unknown tools. Files that variables name are sent by r.Send. A conditional include
// stays conditional: its content goes to a separate file, and "~/" in its condition becomes the host
// home, since folders keep their path in the guest.
func FilterGit(text, file string, r GitRules) (GitFiltered, error) {
	g := GitFiltered{Extra: map[string]string{}, Files: map[string]bool{}, extra: r.Extra}
	vars, err := g.resolveIncludes(text, file, r, 0)
	if err != nil {
		return GitFiltered{}, err
	}
	for _, v := range vars {
		if _, ok := fileVariable(v); ok {
			g.Files[v.name()] = true
		}
	}
	g.Text = writeGit(withoutHidden(vars))
	return g, nil
}

func (g *GitFiltered) resolveIncludes(text, file string, r GitRules, depth int) ([]gitVar, error) {
	vars, err := parseGit(text)
	if err != nil {
		return nil, err
	}
	var out []gitVar
	for _, v := range vars {
		switch {
		case v.section == "include" && !v.hasSub && v.key == "path":
			if inner, ok := g.readInclude(v, file, r, depth); ok {
				out = append(out, inner...)
			}
			continue
		case v.section == "includeif" && v.hasSub && v.key == "path":
			if c, ok := g.writeConditional(v, file, r, depth); ok {
				out = append(out, c)
			}
			continue
		case v.section == "include" || v.section == "includeif":
			continue
		}
		if _, ok := fileVariable(v); ok {
			sent, done := g.sendFile(v, file, r)
			if done {
				out = append(out, sent)
				continue
			}
		}
		if !r.AllowSecret {
			if found := gitSecret(v); found != "" {
				g.Found = append(g.Found, Secret{Line: v.line, Kind: found})
				g.LeftOut = append(g.LeftOut, v.nameWithoutPassword())
				continue
			}
		}
		v, keep := keepGitVar(v, r.Home)
		if !keep {
			g.LeftOut = append(g.LeftOut, v.nameWithoutPassword())
			continue
		}
		if v.section == "url" && sshAddress(v.sub) && (v.key == "insteadof" || v.key == "pushinsteadof") {
			g.SSH = append(g.SSH, v.value)
		}
		out = append(out, v)
	}
	return out, nil
}

// nameWithoutPassword returns a variable's name with a subsection that contains a password replaced
// by "*".
func (v gitVar) nameWithoutPassword() string {
	if urlWithPassword(v.sub) || len(Scan(v.sub)) > 0 {
		v.sub = "*"
	}
	return v.name()
}

// readInclude reads the file of an include and returns its variables.
func (g *GitFiltered) readInclude(v gitVar, file string, r GitRules, depth int) ([]gitVar, bool) {
	g.nested++
	if depth >= maxIncludes || g.nested > 100 {
		g.Notes = append(g.Notes, "includes are nested too deep at "+v.value)
		return nil, false
	}
	name := hostPath(v.value, path.Dir(file), r.Home)
	var text string
	var err error
	if strings.HasPrefix(v.value, "~") || strings.HasPrefix(v.value, "%(prefix)") {
		if name, err = expandGitPath(v.value, r.Home); err != nil {
			name = v.value
		}
	}
	if err == nil {
		text, err = r.Read(name, file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false // git ignores it too
	}
	var vars []gitVar
	if err == nil {
		vars, err = g.resolveIncludes(text, name, r, depth+1)
	}
	if err != nil {
		g.Notes = append(g.Notes, fmt.Sprintf("included file %s: %v", name, err))
		return nil, false
	}
	return vars, true
}

func (g *GitFiltered) writeConditional(v gitVar, file string, r GitRules, depth int) (gitVar, bool) {
	vars, ok := g.readInclude(v, file, r, depth)
	if vars = withoutHidden(vars); !ok || len(vars) == 0 {
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
	place := conditionalDir + strconv.Itoa(g.extra+len(g.Extra)+1)
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

// gitHostOnly are variables that are never sent: "section.key", "section.*.key" with any
// subsection, "section." for an entire section.
var gitHostOnly = []string{
	"credential.", "gpg.", "user.signingkey", "commit.gpgsign", "tag.gpgsign", "tag.forcesignannotated", "push.gpgsign",
	"merge.verifysignatures", "pull.verifysignatures", "log.showsignature",
	"core.fsmonitor", "core.hookspath", "core.sshcommand", "core.askpass", "core.gitproxy", "core.worktree", "core.bare",
	"core.repositoryformatversion", "core.alternaterefscommand", "extensions.", "ssh.", "filter.", "trace2.", "maintenance.repo",
	"gui.recentrepo", "uploadpack.", "receive.", "http.extraheader", "http.*.extraheader", "http.cookiefile", "http.*.cookiefile",
	"http.sslkey", "http.*.sslkey", "http.sslcert", "http.*.sslcert", "http.sslcertpasswordprotected", "http.*.sslcertpasswordprotected",
	"http.sslcainfo", "http.*.sslcainfo", "http.sslcapath", "http.*.sslcapath", "http.proxyauthmethod", "http.*.proxyauthmethod",
	"http.proxysslcert", "http.*.proxysslcert", "http.proxysslkey", "http.*.proxysslkey", "http.proxysslcainfo", "http.*.proxysslcainfo", "http.delegation", "http.*.delegation", "fsmonitor.", "imap.", "sendemail.", "svn.", "svn-remote.", "github.", "gitlab.", "hub.",
	"diff.external", "gc.*.logexpiry", "instaweb.", "lfs.", "bugtraq.", "init.templatedir", "interactive.difffilter", "scalar.",
}

// gitPrograms are variables that contain a command; one with a host path is removed.
var gitPrograms = []string{
	"core.pager", "core.editor", "sequence.editor", "pager.", "diff.*.command", "diff.*.textconv", "difftool.", "mergetool.",
	"merge.*.driver", "browser.", "man.", "web.browser", "rebase.instructionformat", "gui.", "guitool.", "help.browser", "alias.", "trailer.",
	"ssh.variant", "merge.tool", "diff.tool", "help.htmlpath", "tar.*.command",
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

// keepGitVar reports whether a variable is sent, and rewrites a path below the home directory to
// ~/.
func keepGitVar(v gitVar, home string) (gitVar, bool) {
	if strings.ContainsRune(v.value+v.sub, 0) || strings.ContainsRune(v.sub, '\n') || gitMatches(v, gitHostOnly) || !gitSectionKnown(v) {
		return v, false
	}
	if v.section == "url" {
		return v, !urlWithPassword(v.sub) && !urlWithPassword(v.value) && !hostAddress(v.sub)
	}
	if v.section == "safe" && strings.HasPrefix(v.value, "~") {
		// Folders keep their path, so "~/" is the host home. git cannot expand the name of a user that
		// the guest does not have, and then refuses every command.
		rest, own := strings.CutPrefix(v.value, "~/")
		v.value = home + "/" + rest
		return v, own
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

// hostAddress reports whether a repository's address is a path of this machine or a server on it.
func hostAddress(s string) bool {
	return path.IsAbs(s) || strings.HasPrefix(strings.ToLower(s), "file://") || loopback(s)
}

// sshAddress reports whether git uses ssh for a repository's address, as git decides it: by its
// scheme, or by a colon before the first slash.
func sshAddress(s string) bool {
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		scheme = strings.ToLower(scheme)
		return scheme == "ssh" || scheme == "git+ssh" || scheme == "ssh+git"
	}
	host, _, _ := strings.Cut(s, "/")
	return strings.Contains(host, ":")
}

// hostProgram reports whether a command contains a path of the host.
func hostProgram(command, home string) bool {
	for _, w := range strings.FieldsFunc(command, func(r rune) bool { return strings.ContainsRune(" \t\"'!;|&=()", r) }) {
		if path.IsAbs(w) && !inEveryGuest(w) || strings.HasPrefix(w, "~/") || strings.HasPrefix(w, "$HOME/") || home != "" && strings.HasPrefix(w, home+"/") {
			return true
		}
	}
	return false
}

// inEveryGuest reports whether a path exists in every guest.
func inEveryGuest(p string) bool {
	switch p {
	case "/bin/sh", "/bin/bash", "/usr/bin/env", "/dev/null", "/bin/cat", "/usr/bin/less", "/usr/bin/vim", "/usr/bin/vi", "/usr/bin/nano":
		return true
	}
	return false
}

// urlWithPassword reports whether a URL contains a password or a token.
func urlWithPassword(s string) bool {
	u, err := url.Parse(s)
	if err == nil && u.User != nil {
		// A long name without a password is a token: https://TOKEN@host/.
		_, has := u.User.Password()
		return has || len(u.User.Username()) >= 20
	}
	// Go cannot parse it as a URL, but curl might: check its shape.
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		return false
	}
	authority, _, _ := strings.Cut(rest, "/")
	user, _, at := strings.Cut(authority, "@")
	return at && strings.Contains(user, ":")
}
