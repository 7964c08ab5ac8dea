package settingsync

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/internal/hostfile"
)

// Limits of one round, in bytes and files: it is for settings, not for data.
const (
	maxFile     = 16 << 20
	maxTotal    = 64 << 20
	maxFiles    = 1000
	maxPaths    = 100 << 10 // the total length of all names
	maxSettings = 256 << 10 // of one settings.json, which is also kept in the manifest
)

// Options select what is copied into a guest.
type Options struct {
	Home        string   // the host home, absolute
	ConfigHome  string   // $XDG_CONFIG_HOME of the host, "" for Home/.config
	Paths       []string // "~/x", "/abs/below/home", "HOST=GUEST"
	Overwrite   bool
	AllowSecret []string // files that are sent even if they contain secrets
	Exclude     []string // patterns of editor settings
	Include     []string
	Editors     []EditorPlace
	Untrusted   []string // folders a guest can write: no symbolic link in them is followed
	Extensions  []string // ids to install in the guest
	Recommended []string // ids the folder recommends
}

// EditorPlace has the paths of an editor's settings on the host and in the guest.
type EditorPlace struct {
	Name   string
	Dir    string // its settings folder on the host
	File   string // the settings.json in use, "" if there is none on the host
	Server string // its server's folder in the guest, below home
	Target string // the settings.json its server reads, relative to the guest home
	// Program is a pattern of the server's command in the guest, "" for the path that VS Code and
	// its forks use.
	Program string
	InUse   bool
}

// Item is one file or symbolic link to create in the guest.
type Item struct {
	Host  string // where it was read
	Guest string // relative to the guest home, or absolute
	From  string // the entry of Options.Paths it comes from
	Mode  fs.FileMode
	Time  time.Time
	Link  string // the target, if it is a symbolic link
	Data  []byte
	Sum   string // SHA-256 of Data in hex; "-> target" for a link
	Plain bool   // its secrets were already removed by a filter, or it has none
	git   bool   // a git configuration, not filtered yet
}

// Dir is a parent directory of an item.
type Dir struct {
	Guest string
	Mode  fs.FileMode
}

// Setting is an editor's settings.json.
type Setting struct {
	EditorPlace
	Filtered
	Err error // the file is invalid or unreadable
}

// Problem describes something that is not sent, and why.
type Problem struct {
	Path string `json:"path"`
	Line int    `json:"line,omitempty"`
	What string `json:"what"`
	// Hint says what the user can do, "" if there is nothing.
	Hint string `json:"-"`
}

func (p Problem) String() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", p.Path, p.Line, p.What)
	}
	return p.Path + ": " + p.What
}

// Wanted is what the host has to send.
type Wanted struct {
	Options
	Items      []Item
	Dirs       []Dir
	Settings   []Setting
	Missing    []string // listed but do not exist
	Problems   []Problem
	Client     bool     // keybindings or snippets are listed
	GitLeftOut []string // git variables that the filter removed
	GitSSH     []string // addresses that git replaces by one of ssh
	Known      State    // the guest's state as last read, if any
	roots      []string // guest paths of the listed paths
	total      int
	names      int
}

// Gather reads everything that is listed. It never fails: what cannot be read becomes a Problem.
func Gather(o Options) *Wanted {
	w := &Wanted{Options: o}
	listed := map[string]bool{} // editors by Dir
	for _, entry := range o.Paths {
		host, guest, err := o.parsePath(entry)
		if err != nil {
			w.addProblem(entry, err.Error())
			continue
		}
		if e := o.editorOf(host); e != nil {
			rel := strings.TrimPrefix(strings.TrimPrefix(host, e.Dir), "/")
			if rel == "" || rel == "settings.json" {
				listed[e.Dir] = true
			}
			if rel != "settings.json" {
				w.Client = true
			}
			continue
		}
		w.roots = append(w.roots, guest)
		w.add(entry, host, guest)
	}
	w.addGit()
	w.readSettings(listed)
	slices.SortFunc(w.Dirs, func(a, b Dir) int { return strings.Compare(a.Guest, b.Guest) })
	w.Dirs = slices.CompactFunc(w.Dirs, func(a, b Dir) bool { return a.Guest == b.Guest })
	return w
}

func (w *Wanted) addProblem(p, what string) {
	w.Problems = append(w.Problems, Problem{Path: p, What: what})
}

// parsePath splits an entry of Options.Paths into its paths on the host and in the guest.
func (o Options) parsePath(entry string) (host, guest string, err error) {
	host = entry
	if i := strings.LastIndexByte(entry, '='); i > 0 && i+1 < len(entry) && (entry[i+1] == '~' || entry[i+1] == '/') {
		host, guest = entry[:i], entry[i+1:]
	}
	if host == "~" || strings.HasPrefix(host, "~/") {
		host = o.Home + host[1:]
	}
	if strings.ContainsFunc(entry, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return "", "", errors.New("paths with control characters are not sent")
	}
	if !filepath.IsAbs(host) {
		return "", "", errors.New("the path must start with ~/ or /")
	}
	host = filepath.Clean(host)
	rel, below := strings.CutPrefix(host, strings.TrimSuffix(o.Home, "/")+"/")
	switch {
	case guest == "" && host == filepath.Clean(o.Home):
		return "", "", errors.New("the entire home directory is not sent; list the files you want")
	case guest == "" && !below:
		return "", "", errors.New("it is outside your home directory; give a path in the guest: " + host + "=~/" + path.Base(host))
	case guest == "":
		guest = rel
	case strings.HasPrefix(guest, "~/"):
		guest = path.Clean(guest[2:])
	default:
		guest = path.Clean(guest)
	}
	if guest == "." || guest == "/" || guest == "~" || guest == ".." || strings.HasPrefix(guest, "../") {
		return "", "", errors.New("the path in the guest must name a file")
	}
	return host, guest, nil
}

func (o Options) editorOf(host string) *EditorPlace {
	for i, e := range o.Editors {
		if e.Dir != "" && (host == e.Dir || strings.HasPrefix(host, e.Dir+"/")) {
			return &o.Editors[i]
		}
	}
	return nil
}

// addParents adds the directories between the home directory and a listed path, with their modes on
// the host.
func (w *Wanted) addParents(host, guest string) {
	for h, g := path.Dir(host), path.Dir(guest); g != "." && g != "/"; h, g = path.Dir(h), path.Dir(g) {
		mode := fs.FileMode(0o755)
		if st, err := os.Stat(h); err == nil && path.Base(h) == path.Base(g) {
			mode = st.Mode().Perm() | 0o700
		}
		w.Dirs = append(w.Dirs, Dir{g, mode})
	}
}

// allowed reports whether a file was named with --allow-secret.
func (w *Wanted) allowed(host string) bool {
	for _, a := range w.AllowSecret {
		if strings.HasPrefix(a, "~/") {
			a = w.Home + a[1:]
		}
		if abs, err := filepath.Abs(a); err == nil && (abs == host || sameFile(abs, host)) {
			return true
		}
	}
	return false
}

// readSettings reads the settings.json of the editor in use, or of all listed editors if none is in
// use.
func (w *Wanted) readSettings(listed map[string]bool) {
	if len(listed) == 0 {
		return
	}
	inUse := slices.ContainsFunc(w.Editors, func(e EditorPlace) bool { return e.InUse })
	for _, e := range w.Editors {
		if inUse != e.InUse || !inUse && !listed[e.Dir] || e.Target == "" {
			continue
		}
		file := e.File
		if file == "" {
			file = path.Join(e.Dir, "settings.json")
		}
		s := Setting{EditorPlace: e}
		s.File = file
		real, err := resolve(file, w.Untrusted)
		var b []byte
		if err == nil {
			b, err = hostfile.Read(real, maxSettings)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			w.Missing = append(w.Missing, file)
			continue
		case err == nil:
			s.Filtered, err = FilterSettings(string(b), SettingsRules{Exclude: w.Exclude, Include: w.Include, Home: w.Home, AllowSecret: w.allowed(file)})
		}
		if err != nil {
			p := Problem{Path: file, What: reason(err)}
			if se := new(SyntaxError); errors.As(err, &se) {
				p.Line, p.What = se.Line, fmt.Sprintf("column %d: %s; the guest's settings stay unchanged", se.Column, se.What)
			}
			w.Problems = append(w.Problems, p)
			continue
		}
		w.Problems = append(w.Problems, secretProblems(file, s.Found)...)
		w.Settings = append(w.Settings, s)
	}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
