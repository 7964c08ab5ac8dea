package settingsync

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/hostfile"
)

// gitFiles are the variables whose value is a file (git_config_pathname in git's source). Without
// the file, git commit, git blame, git fsck and others fail, or ignored files are added. Those of
// keys, certificates and signatures are in gitHostOnly.
var gitFiles = []gitFile{
	{"commit.template", false},
	{"core.excludesfile", false},
	{"core.attributesfile", false},
	{"mailmap.file", false},
	{"blame.ignorerevsfile", true},
	{"diff.orderfile", false},
	{"format.signaturefile", false},
	{"fsck.skiplist", true},
	{"fetch.*.skiplist", true},
	{"http.pinnedpubkey", false},
	{"http.*.pinnedpubkey", false},
}

type gitFile struct {
	name string // as in gitHostOnly
	all  bool   // git uses all values, not only the last
}

// fileVariable returns the entry of gitFiles for a variable, and whether there is one.
func fileVariable(v gitVar) (gitFile, bool) {
	for _, f := range gitFiles {
		if gitMatches(v, []string{f.name}) {
			return f, true
		}
	}
	return gitFile{}, false
}

// errSecret means that a file contains a secret, which the caller reports or has reported.
var errSecret = errors.New("contains a secret")

// sendFile has the file sent that a variable names, and returns the variable with its path in the
// guest, or hidden if the file is not sent. The result is false if the value is not the path of a
// host file: it is relative to the work tree, empty, or another way to give the content.
func (g *GitFiltered) sendFile(v gitVar, file string, r GitRules) (gitVar, bool) {
	// The guest's git may be older than this prefix (2.52), so the guest gets the plain path.
	value, optional := strings.CutPrefix(v.value, ":(optional)")
	relative := !path.IsAbs(value) && !strings.HasPrefix(value, "~") && !strings.HasPrefix(value, "%(prefix)")
	if relative && !optional && !v.bare {
		return v, false
	}
	v.hidden = true
	if relative {
		g.LeftOut = append(g.LeftOut, v.nameWithoutPassword())
		return v, true
	}
	name, err := expandGitPath(value, r.Home)
	if err == nil && inEveryGuest(name) { // /dev/null
		v.value, v.hidden = name, false
		return v, true
	}
	var place string
	if err == nil {
		place, err = r.Send(name, file)
	}
	switch {
	case err == nil:
		v.value, v.hidden = tilde(place), false
		return v, true
	case errors.Is(err, fs.ErrNotExist):
		g.LeftOut = append(g.LeftOut, v.nameWithoutPassword()+" ("+value+" does not exist)")
		return v, true
	case !errors.Is(err, errSecret):
		p := Problem{Path: file, Line: v.line, What: fmt.Sprintf("%s is not sent: %s: %s", v.nameWithoutPassword(), value, reason(err))}
		if errors.Is(err, errOutside) {
			p.Hint = outsideHint(name, path.Base(name))
		}
		g.Problems = append(g.Problems, p)
	}
	g.LeftOut = append(g.LeftOut, v.nameWithoutPassword())
	return v, true
}

var errOutside = errors.New("outside your home directory")

func outsideHint(host, guest string) string {
	return fmt.Sprintf("to send it, add %q to sync.paths in the config: aivm config edit", host+"=~/"+guest)
}

// expandGitPath returns the absolute path that git on the host reads for a value. git in the guest
// fails in every command if it cannot expand one.
func expandGitPath(value, home string) (string, error) {
	user, rest, _ := strings.Cut(value, "/")
	switch {
	case strings.ContainsFunc(value, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return "", errors.New("paths with control characters are not sent")
	case user == "~":
		return path.Join(home, rest), nil
	case strings.HasPrefix(user, "~"):
		return "", fmt.Errorf("the guest has no user %s; if it is your home directory, write ~/%s", user[1:], rest)
	case user == "%(prefix)":
		return "", errors.New("part of git's installation on this machine")
	}
	return path.Clean(value), nil
}

// withoutHidden removes hidden variables, and the earlier values that each of them hides: the last
// value is the one that git uses, so an earlier one must not take its place.
func withoutHidden(vars []gitVar) []gitVar {
	hidden := map[string]bool{}
	var out []gitVar
	for i := len(vars) - 1; i >= 0; i-- {
		v := vars[i]
		if v.hidden {
			if f, _ := fileVariable(v); !f.all {
				hidden[v.name()] = true
			}
		} else if !hidden[v.name()] {
			out = append(out, v)
		}
	}
	slices.Reverse(out)
	return out
}

func isGitConfig(guest string) bool {
	return path.Base(guest) == ".gitconfig" || strings.HasSuffix("/"+guest, "/.config/git/config")
}

// gitDir is git's directory in the guest's home.
const gitDir = ".config/git/"

// gitDefaults are the files that git reads from its directory unless a variable names another one.
var gitDefaults = []struct{ name, variable string }{
	{"attributes", "core.attributesfile"},
	{"ignore", "core.excludesfile"},
}

// gitSender filters the git configurations of a round and adds the files that they need.
type gitSender struct {
	*Wanted
	entry string           // of the configuration in the guest's home, "" if none is wanted
	files map[string]*Item // files that are sent, by path on the host
	used  map[string]bool  // paths in the guest
	sent  map[string]error // files that configurations name, by path on the host
	set   map[string]bool  // variables of gitFiles that are set in the guest's home
	extra int              // files for conditional includes
}

// addGit replaces the git configurations of the round by filtered ones, and adds the files that they
// name and those that git reads besides them.
func (w *Wanted) addGit() {
	s := gitSender{Wanted: w, files: map[string]*Item{}, used: map[string]bool{}, sent: map[string]error{}, set: map[string]bool{}}
	for _, it := range w.Items {
		s.used[it.Guest] = true
	}
	s.findEntry()
	listed := w.Items
	for i, it := range listed {
		if it.Link == "" {
			s.files[it.Host] = &listed[i]
		}
	}
	w.Items = make([]Item, 0, len(listed))
	for _, it := range listed {
		if !it.git || s.filter(&it) {
			w.Items = append(w.Items, it)
		}
	}
	if s.entry != "" {
		s.addDefaults()
	}
}

// findEntry determines for which entry of the list the guest gets a git configuration in its home.
// With ~/.gitconfig comes the other file that git reads as the user's configuration.
func (s *gitSender) findEntry() {
	other := s.configHome() + "/git/config"
	for _, entry := range s.Paths {
		host, guest, err := s.parsePath(entry)
		switch {
		case err != nil:
			continue
		case guest == ".gitconfig" || guest == gitDir+"config":
			s.entry = entry
		}
		if guest == ".gitconfig" && host != other && !s.covers(gitDir+"config") {
			s.addOther(entry, other)
		}
	}
	for _, it := range s.Items {
		if it.git && it.Guest == gitDir+"config" && s.entry == "" {
			s.entry = it.From
		}
	}
}

// addOther adds the configuration in git's directory, if it exists.
func (s *gitSender) addOther(entry, host string) {
	if _, err := resolve(host, s.Untrusted); errors.Is(err, fs.ErrNotExist) {
		return
	}
	if !s.belowHome(host) {
		s.addOutside(host, gitDir+"config")
		return
	}
	s.roots = append(s.roots, gitDir+"config")
	s.add(entry, host, gitDir+"config")
}

func (s *gitSender) addOutside(host, guest string) {
	s.Problems = append(s.Problems, Problem{Path: host, What: errOutside.Error(), Hint: outsideHint(host, guest)})
}

func (w *Wanted) configHome() string {
	if filepath.IsAbs(w.ConfigHome) {
		return filepath.Clean(w.ConfigHome)
	}
	return path.Join(w.Home, ".config")
}

func (w *Wanted) belowHome(host string) bool {
	return strings.HasPrefix(host, strings.TrimSuffix(w.Home, "/")+"/")
}

// filter replaces the content of a git configuration by what may be sent. It returns false if the
// configuration is invalid.
func (s *gitSender) filter(it *Item) bool {
	g, err := FilterGit(string(it.Data), it.Host, GitRules{
		Home: s.Home, AllowSecret: s.allowed(it.Host), Read: s.readInclude, Extra: s.extra,
		Send: func(name, by string) (string, error) { return s.send(it.From, name, by) },
	})
	if err != nil {
		p := Problem{Path: it.Host, What: reason(err)}
		if se := new(SyntaxError); errors.As(err, &se) {
			p.Line, p.What = se.Line, fmt.Sprintf("column %d: %s", se.Column, se.What)
		}
		s.Problems = append(s.Problems, p)
		return false
	}
	for _, n := range g.Notes {
		s.addProblem(it.Host, n)
	}
	s.Problems = append(s.Problems, g.Problems...)
	s.GitLeftOut = append(s.GitLeftOut, g.LeftOut...)
	s.GitSSH = append(s.GitSSH, g.SSH...)
	if it.Guest == ".gitconfig" || it.Guest == gitDir+"config" {
		for name := range g.Files {
			s.set[name] = true
		}
	}
	it.Data, it.Plain, it.git = []byte(g.Text), true, false
	it.Sum = sum(it.Data)
	s.extra += len(g.Extra)
	for _, place := range slices.Sorted(keysOf(g.Extra)) {
		text := []byte(g.Extra[place])
		s.Items = append(s.Items, Item{Host: it.Host, Guest: place, From: it.From, Mode: 0o600, Time: it.Time, Data: text, Sum: sum(text), Plain: true})
		s.roots = append(s.roots, place)
		s.addParents(place, place)
	}
	return true
}

// readInclude reads a configuration that the file by includes.
func (s *gitSender) readInclude(name, by string) (string, error) {
	real, err := resolve(name, s.Untrusted)
	if err != nil {
		return "", err
	}
	if err := s.mayName(by, name); err != nil {
		return "", err
	}
	b, err := hostfile.Read(real, 1<<20)
	return string(b), err
}

// mayName returns an error if the configuration by is in a folder that a guest can write and name is
// not in that folder: the guest could have written the name to get a host file sent.
func (s *gitSender) mayName(by, name string) error {
	var t hostfile.Tracer
	from, to := t.Follow(by), t.Follow(name)
	for _, u := range s.Untrusted {
		f := t.Folder(u)
		if _, in := from.Through(f); !in {
			continue
		}
		if _, in := to.Through(f); !in {
			return fmt.Errorf("%s is in a folder that a guest can write, so it may only name files in that folder", by)
		}
	}
	return nil
}

// send adds the file name, which the configuration by names, to what is sent, unless it is listed,
// and returns its path in the guest.
func (s *gitSender) send(entry, name, by string) (string, error) {
	if it := s.files[name]; it != nil {
		return s.sendListed(it)
	}
	real, err := resolve(name, s.Untrusted)
	if err == nil {
		err = s.mayName(by, name)
	}
	if err != nil {
		return "", err
	}
	if it := s.files[real]; it != nil {
		return s.sendListed(it)
	}
	if !s.belowHome(name) {
		return "", errOutside
	}
	place := strings.TrimPrefix(name, strings.TrimSuffix(s.Home, "/")+"/")
	return place, s.addFile(entry, name, real, place)
}

// sendListed returns the path in the guest of a file that the list has. A file with a secret is
// reported when it would be sent.
func (s *gitSender) sendListed(it *Item) (string, error) {
	if !it.Plain && !s.allowed(it.Host) && scanFile(*it) != nil {
		return "", errSecret
	}
	return it.Guest, nil
}

// addFile adds the file host, whose path without links is real, under the limits for listed files.
// The result for a file is the same each time; a secret is reported once.
func (s *gitSender) addFile(entry, host, real, guest string) error {
	if err, done := s.sent[host]; done {
		return err
	}
	err := s.readNamed(entry, host, real, guest)
	s.sent[host] = err
	return err
}

func (s *gitSender) readNamed(entry, host, real, guest string) error {
	if strings.HasPrefix(guest, stateDir+"/") || strings.HasPrefix(guest, conditionalDir) {
		return errors.New("a file of aivm in the guest")
	}
	if s.used[guest] {
		return fmt.Errorf("another file is listed for %s in the guest", tilde(guest))
	}
	s.names += len(guest)
	if len(s.Items) > maxFiles || s.names > maxPaths {
		return errTooMany
	}
	h, err := hostfile.Open(real)
	if err != nil {
		return err
	}
	defer h.Close()
	it, err := s.readItem(entry, host, guest, h)
	if err != nil {
		return err
	}
	s.roots = append(s.roots, guest)
	if !s.allowed(host) {
		if found := scanFile(it); found != nil {
			s.Problems = append(s.Problems, found...)
			return errSecret
		}
	}
	it.Plain = true
	s.used[guest] = true
	s.addParents(host, guest)
	s.Items = append(s.Items, it)
	return nil
}

// addDefaults adds the files that git reads without being told to.
func (s *gitSender) addDefaults() {
	for _, d := range gitDefaults {
		host, guest := s.configHome()+"/git/"+d.name, gitDir+d.name
		if s.set[d.variable] || s.covers(guest) || s.files[host] != nil {
			continue
		}
		real, err := resolve(host, s.Untrusted)
		if err == nil && !s.belowHome(host) {
			s.addOutside(host, guest)
			continue
		}
		if err == nil {
			err = s.addFile(s.entry, host, real, guest)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errSecret) {
			s.addProblem(host, reason(err))
		}
	}
}
