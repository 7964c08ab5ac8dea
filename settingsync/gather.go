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

// Limits of one round: settings, not data.
const (
	maxFile     = 16 << 20
	maxTotal    = 64 << 20
	maxFiles    = 1000
	maxPaths    = 100 << 10 // of all their names together
	maxSettings = 256 << 10 // of an editor: it is also kept in the manifest
)

// Options say what a person wants brought into a guest.
type Options struct {
	Home        string   // the host home, absolute
	Paths       []string // "~/x", "/abs/below/home", "HOST=GUEST"
	Overwrite   bool
	AllowSecret []string // files that are sent whatever they hold
	Exclude     []string // patterns of editor settings
	Include     []string
	Editors     []EditorPlace
	Untrusted   []string // folders a guest can write: no link in them is followed
	Extensions  []string // ids to be there in the guest
	Recommended []string // ids the folder recommends
}

// EditorPlace is where an editor has its settings on both sides.
type EditorPlace struct {
	Name   string
	Dir    string // its settings folder on the host
	File   string // the settings.json in use, "" if it has none here
	Server string // its server's folder in the guest, below home
	Target string // the settings.json its server reads, below the guest home
	// Program is a pattern of the server's command in the guest, "" = where the
	// editors of Code's family put it.
	Program string
	InUse   bool
}

// Item is one file or link to be in the guest.
type Item struct {
	Host  string // where it was read
	Guest string // below the guest home, or absolute
	From  string // the listed path it comes from
	Mode  fs.FileMode
	Time  time.Time
	Link  string // the target of a link
	Data  []byte
	Sum   string // of Data; of a link "-> target"
	Plain bool   // filtered: its secrets are out already
}

// Dir is a directory on the way to an item.
type Dir struct {
	Guest string
	Mode  fs.FileMode
}

// Setting is an editor's settings.json.
type Setting struct {
	EditorPlace
	Filtered
	Err error // not valid, or not readable
}

// Problem is something that is not sent, and why.
type Problem struct {
	Path string `json:"path"`
	Line int    `json:"line,omitempty"`
	What string `json:"what"`
	// Hint is the next command, "" if there is none.
	Hint string `json:"-"`
}

func (p Problem) String() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", p.Path, p.Line, p.What)
	}
	return p.Path + ": " + p.What
}

// Wanted is what the host has to offer.
type Wanted struct {
	Options
	Items    []Item
	Dirs     []Dir
	Settings []Setting
	Missing  []string // listed and not there
	Problems []Problem
	Client   bool     // keybindings or snippets are listed
	GitLeft  []string // what the filter of git configurations left out
	Known    State    // what was read of the guest at an earlier time, if anything
	roots    []string // guest paths of what is listed
	total    int
	names    int
}

// Gather reads everything that is listed. It never fails: what cannot be read
// is a Problem of its own.
func Gather(o Options) *Wanted {
	w := &Wanted{Options: o}
	listed := map[string]bool{} // editors by Dir
	for _, entry := range o.Paths {
		host, guest, err := o.place(entry)
		if err != nil {
			w.problem(entry, err.Error())
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
	w.settings(listed)
	slices.SortFunc(w.Dirs, func(a, b Dir) int { return strings.Compare(a.Guest, b.Guest) })
	w.Dirs = slices.CompactFunc(w.Dirs, func(a, b Dir) bool { return a.Guest == b.Guest })
	return w
}

func (w *Wanted) problem(p, what string) {
	w.Problems = append(w.Problems, Problem{Path: p, What: what})
}

// place splits a listed path into its place here and there.
func (o Options) place(entry string) (host, guest string, err error) {
	host = entry
	if i := strings.LastIndexByte(entry, '='); i > 0 && i+1 < len(entry) && (entry[i+1] == '~' || entry[i+1] == '/') {
		host, guest = entry[:i], entry[i+1:]
	}
	if host == "~" || strings.HasPrefix(host, "~/") {
		host = o.Home + host[1:]
	}
	if strings.ContainsFunc(entry, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return "", "", errors.New("a path with control characters is not sent")
	}
	if !filepath.IsAbs(host) {
		return "", "", errors.New(`write it from "~/" or "/" on`)
	}
	host = filepath.Clean(host)
	rel, below := strings.CutPrefix(host, strings.TrimSuffix(o.Home, "/")+"/")
	switch {
	case guest == "" && host == filepath.Clean(o.Home):
		return "", "", errors.New("a whole home is not sent; list what you want of it")
	case guest == "" && !below:
		return "", "", errors.New("it lies outside your home; say where it goes: " + host + "=~/" + path.Base(host))
	case guest == "":
		guest = rel
	case strings.HasPrefix(guest, "~/"):
		guest = path.Clean(guest[2:])
	default:
		guest = path.Clean(guest)
	}
	if guest == "." || guest == "/" || guest == "~" || guest == ".." || strings.HasPrefix(guest, "../") {
		return "", "", errors.New("say which file it is to be in the guest")
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

// parents are the directories between the home and a listed path, with the
// modes they have here.
func (w *Wanted) parents(host, guest string) {
	for h, g := path.Dir(host), path.Dir(guest); g != "." && g != "/"; h, g = path.Dir(h), path.Dir(g) {
		mode := fs.FileMode(0o755)
		if st, err := os.Stat(h); err == nil && path.Base(h) == path.Base(g) {
			mode = st.Mode().Perm() | 0o700
		}
		w.Dirs = append(w.Dirs, Dir{g, mode})
	}
}

func isGitConfig(guest string) bool {
	return path.Base(guest) == ".gitconfig" || strings.HasSuffix("/"+guest, "/.config/git/config")
}

func (w *Wanted) filterGit(it *Item) bool {
	g, err := FilterGit(string(it.Data), it.Host, GitRules{
		Home: w.Home, AllowSecret: w.allowed(it.Host),
		Read: func(name string) (string, error) {
			real, err := resolve(name, w.Untrusted)
			if err != nil {
				return "", err
			}
			b, err := hostfile.Read(real, 1<<20)
			return string(b), err
		},
	})
	if err != nil {
		p := Problem{Path: it.Host, What: reason(err)}
		if se := new(SyntaxError); errors.As(err, &se) {
			p.Line, p.What = se.Line, fmt.Sprintf("column %d: %s", se.Column, se.What)
		}
		w.Problems = append(w.Problems, p)
		return false
	}
	for _, n := range g.Notes {
		w.problem(it.Host, n)
	}
	w.GitLeft = append(w.GitLeft, g.Left...)
	it.Data, it.Plain = []byte(g.Text), true
	for _, place := range slices.Sorted(keysOf(g.Extra)) {
		text := g.Extra[place]
		w.Items = append(w.Items, Item{Host: it.Host, Guest: place, From: it.From, Mode: 0o600, Time: it.Time, Data: []byte(text), Sum: sum([]byte(text)), Plain: true})
		w.roots = append(w.roots, place)
		w.parents(place, place)
	}
	return true
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

// settings reads the settings.json of the editor in use, or where none is, of
// those that are listed.
func (w *Wanted) settings(listed map[string]bool) {
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
				p.Line, p.What = se.Line, fmt.Sprintf("column %d: %s: the guest keeps what it has", se.Column, se.What)
			}
			w.Problems = append(w.Problems, p)
			continue
		}
		for _, f := range s.Found {
			w.Problems = append(w.Problems, secretProblem(file, f))
		}
		w.Settings = append(w.Settings, s)
	}
}

func secretProblem(file string, s Secret) Problem {
	return Problem{Path: file, Line: s.Line, What: s.Kind + " stands here, so it is not sent", Hint: "to send it all the same: --allow-secret " + file}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
