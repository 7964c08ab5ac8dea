package share

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/ui"
)

const (
	placeDepth   = 3         // levels of directories read below one path of a list
	placeEntries = 3000      // directories and links read below one path
	allEntries   = 60000     // the same for all paths together
	placesShown  = 4         // leads named in a message
	maxStartup   = 256 << 10 // bytes read of a shell start-up file
)

// A Person is the user whose session a folder could affect.
type Person struct {
	Home   string
	Login  string // the home in the password database, if HOME differs
	Getenv func(string) string
	Self   string // the path of the running aivm; "" if it does not matter
}

// A Lead is one path on the host that leads into a folder.
type Lead struct {
	Place string // "~/.bashrc", "/x/bin on PATH"
	How   string // "leads to /home/u/dotfiles/rc", "lies in it", "holds it"
}

func (l Lead) String() string { return l.Place + " " + l.How }

// Leads are the paths on the host that lead into one folder.
type Leads struct {
	HostExecuted []Lead // programs on the host run or obey them by themselves
	Keys         []Lead // credentials
	Active       []Lead // this shell runs them, because an environment of the folder is active in it
	Self         string // the path of the running aivm, if it lies in the folder
	Cut          string // a path with too many entries to be searched completely, "" if there is none
}

// leadFinder finds the leads into one folder.
type leadFinder struct {
	*placeReader
	folder  hostfile.Folder
	person  Person
	entries int
	out     Leads
	seen    map[string]bool
}

// placeReader reads each path of the host once, for several folders.
type placeReader struct {
	tracer  hostfile.Tracer
	ways    map[string]hostfile.Trace
	dirs    map[string][]fs.DirEntry
	long    map[string]bool // directories with more entries than were read
	sources map[string][]string
}

func newPlaceReader() *placeReader {
	return &placeReader{ways: map[string]hostfile.Trace{}, dirs: map[string][]fs.DirEntry{}, long: map[string]bool{}, sources: map[string][]string{}}
}

// FindLeads finds the paths on the host that lead into the folder, following links:
// whoever can write the folder controls what they do. With keysOnly it finds only
// credentials.
func FindLeads(folder string, p Person, keysOnly bool) Leads {
	return newPlaceReader().find(folder, p, keysOnly)
}

// FindAllLeads works like FindLeads for several folders and returns the leads by folder.
func FindAllLeads(folders []string, p Person) map[string]Leads {
	r, out := newPlaceReader(), map[string]Leads{}
	for _, f := range folders {
		out[f] = r.find(f, p, false)
	}
	return out
}

func (r *placeReader) find(folder string, p Person, keysOnly bool) Leads {
	l := &leadFinder{placeReader: r, person: p, seen: map[string]bool{}}
	l.folder = l.tracer.Folder(folder)
	l.keys()
	if keysOnly {
		l.out.HostExecuted = nil
		return l.out
	}
	if p.Self != "" {
		if _, in := l.follow(p.Self).Through(l.folder); in {
			l.out.Self = p.Self
		}
	}
	l.environment()
	for _, home := range l.homes() {
		for _, s := range startupFiles {
			for _, path := range l.places(home, s) {
				l.place(&l.out.HostExecuted, l.displayName(path), path, true)
			}
		}
		for _, s := range programDirs {
			l.programs(l.displayName(filepath.Join(home, s)), filepath.Join(home, s))
		}
		l.followSourced(home)
	}
	for _, path := range l.xdg("autostart", "applications", "systemd/user", "dbus-1/services") {
		l.place(&l.out.HostExecuted, path, path, true)
	}
	for _, s := range systemDirs {
		if way := l.follow(s); way.Exists && way.Holds(l.folder) {
			l.out.HostExecuted = append(l.out.HostExecuted, Lead{Place: s, How: "holds it"})
		}
	}
	l.sameFiles()
	return l.out
}

// homes returns the person's homes, and that of another user in which the folder lies.
func (l *leadFinder) homes() []string {
	var out []string
	for _, h := range []string{l.person.Home, l.person.Login} {
		if h != "" && !slices.Contains(out, filepath.Clean(h)) {
			out = append(out, filepath.Clean(h))
		}
	}
	for _, f := range pathVariants(l.folder.Path) {
		other := "/root"
		if parts := strings.Split(f, "/"); len(parts) > 3 && parts[1] == "home" {
			other = "/home/" + parts[2]
		} else if !strings.HasPrefix(f, "/root/") {
			continue
		}
		if !slices.Contains(out, other) {
			out = append(out, other)
		}
	}
	return out
}

func (l *leadFinder) getenv(name string) string {
	if l.person.Getenv == nil {
		return ""
	}
	return l.person.Getenv(name)
}

// places returns the paths of a list's entry: below the home, and where the XDG variables
// move it.
func (l *leadFinder) places(home, entry string) []string {
	out := []string{filepath.Join(home, entry)}
	if home != filepath.Clean(l.person.Home) {
		return out
	}
	for prefix, name := range map[string]string{".config/": "XDG_CONFIG_HOME", ".local/share/": "XDG_DATA_HOME", ".local/state/": "XDG_STATE_HOME"} {
		if rest, ok := strings.CutPrefix(entry, prefix); ok {
			if dir := l.getenv(name); filepath.IsAbs(dir) && filepath.Clean(dir) != filepath.Join(home, prefix) {
				out = append(out, filepath.Join(dir, rest))
			}
		}
	}
	return out
}

// xdg returns subdirectories of the directories in XDG_CONFIG_DIRS and XDG_DATA_DIRS.
func (l *leadFinder) xdg(below ...string) []string {
	var out []string
	for _, name := range []string{"XDG_CONFIG_DIRS", "XDG_DATA_DIRS"} {
		for _, dir := range filepath.SplitList(l.getenv(name)) {
			for _, b := range below {
				if filepath.IsAbs(dir) {
					out = append(out, filepath.Join(dir, b))
				}
			}
		}
	}
	return out
}

// displayName returns a path with the person's home written as "~".
func (l *leadFinder) displayName(path string) string {
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(filepath.Clean(l.person.Home), "/")+"/"); ok && l.person.Home != "" {
		return "~/" + rest
	}
	return path
}

// place adds a lead to to if the path leads into the folder, lies in it, or holds it. In
// a directory outside of the folder the links are followed too; with deep, those in the
// directories below it as well.
func (l *leadFinder) place(to *[]Lead, name, path string, deep bool) {
	if l.seen[path] {
		return
	}
	l.seen[path] = true
	way := l.follow(path)
	if l.leads(to, name, path, way) {
		return
	}
	if way.Exists && way.Holds(l.folder) {
		*to = append(*to, Lead{Place: name, How: "holds it"})
		return
	}
	depth := 0
	if deep {
		depth = placeDepth
	}
	l.links(to, name, path, depth)
}

// programs works like place for a directory of programs that are run by name: its
// subdirectories do not count.
func (l *leadFinder) programs(name, dir string) {
	var found []Lead
	if !l.leads(&found, name, dir, l.follow(dir)) {
		l.links(&found, l.displayName(dir), dir, 0)
	}
	l.add(found)
}

// leads adds a lead and reports true if the path passes through the folder.
func (l *leadFinder) leads(to *[]Lead, name, path string, way hostfile.Trace) bool {
	e, in := way.Through(l.folder)
	if !in {
		return false
	}
	end := e.Path
	if strings.HasPrefix(way.Path, l.folder.Path+"/") || way.Path == l.folder.Path {
		end = way.Path
	}
	lead := Lead{Place: name, How: "leads to " + ui.Clean(end)}
	switch path = filepath.Clean(path); {
	case path == l.folder.Path:
		lead.How = "is this folder"
	case strings.HasPrefix(path, l.folder.Path+"/"):
		lead.How = "lies in it"
	case end == l.folder.Path:
		lead.How = "leads to it"
	}
	*to = append(*to, lead)
	return true
}

// links follows the links in the directory at path and, down to depth levels, in the
// directories below it, the nearest first.
func (l *leadFinder) links(to *[]Lead, name, path string, depth int) {
	type dir struct{ name, path string }
	budget := placeEntries
	for level := []dir{{name, path}}; len(level) > 0; depth-- {
		var next []dir
		for _, d := range level {
			for _, e := range l.list(d.path) {
				child := filepath.Join(d.path, e.Name())
				switch {
				case e.Type()&fs.ModeSymlink != 0:
					l.leads(to, d.name+"/"+e.Name(), child, l.follow(child))
				case depth == 0:
				case budget == 0 || l.entries == allEntries:
					l.out.Cut = name
				default:
					budget--
					l.entries++
					next = append(next, dir{d.name + "/" + e.Name(), child})
				}
			}
			if l.long[d.path] {
				l.out.Cut = d.name
			}
		}
		level = next
	}
}

func (r *placeReader) follow(path string) hostfile.Trace {
	way, ok := r.ways[path]
	if !ok {
		way = r.tracer.Follow(path)
		r.ways[path] = way
	}
	return way
}

// list returns the directories and links in the directory at path; nil if path is not a
// directory.
func (r *placeReader) list(path string) []fs.DirEntry {
	if ents, ok := r.dirs[path]; ok {
		return ents
	}
	r.dirs[path] = nil
	h, err := hostfile.OpenFollowed(path)
	if err != nil {
		return nil
	}
	defer h.Close()
	if st, err := h.Stat(); err != nil || !st.IsDir() {
		return nil
	}
	ents, _ := hostfile.Entries(h, placeEntries*3+1)
	r.long[path] = len(ents) > placeEntries*3
	r.dirs[path] = slices.DeleteFunc(ents, func(e fs.DirEntry) bool { return e.Type()&(fs.ModeDir|fs.ModeSymlink) == 0 })
	return r.dirs[path]
}

// environment checks the paths in the environment variables of this run.
func (l *leadFinder) environment() {
	for _, v := range startupVars {
		if path := l.getenv(v); filepath.IsAbs(path) {
			to := &l.out.HostExecuted
			if l.active(path) {
				to = &l.out.Active
			}
			l.place(to, v+"="+path, path, true)
			if to == &l.out.Active {
				delete(l.seen, path) // a list may have the path too
			}
		}
	}
	for v, below := range belowVars {
		if dir := l.getenv(v); filepath.IsAbs(dir) {
			for _, b := range below {
				l.place(&l.out.HostExecuted, l.displayName(filepath.Join(dir, b)), filepath.Join(dir, b), true)
			}
		}
	}
	for _, v := range programVars {
		if f := strings.Fields(strings.TrimPrefix(l.getenv(v), "|")); len(f) > 0 && filepath.IsAbs(f[0]) {
			l.leads(&l.out.HostExecuted, v+"="+f[0], f[0], l.follow(f[0]))
		}
	}
	if dir := l.getenv("GOBIN"); filepath.IsAbs(dir) {
		l.programs("GOBIN="+dir, dir)
	}
	for _, v := range pathVars {
		for _, dir := range filepath.SplitList(l.getenv(v)) {
			name := dir + " on " + v
			switch {
			case !filepath.IsAbs(dir):
				// A relative path means the working directory: any folder, not this one in
				// particular.
				if v == "PATH" {
					l.out.Active = append(l.out.Active, Lead{Place: "\"" + dir + "\" on PATH", How: "is any folder you enter"})
				}
			case v == "PATH" && !l.active(dir):
				l.programs(name, dir)
			case strings.HasPrefix(v, "LD_") && !l.active(dir):
				l.leads(&l.out.HostExecuted, name, dir, l.follow(dir))
			default:
				l.leads(&l.out.Active, name, dir, l.follow(dir))
			}
		}
	}
}

// add adds the leads whose place is not in the list yet.
func (l *leadFinder) add(found []Lead) {
	for _, f := range found {
		if !slices.ContainsFunc(l.out.HostExecuted, func(a Lead) bool { return a.Place == f.Place }) {
			l.out.HostExecuted = append(l.out.HostExecuted, f)
		}
	}
}

// shellFiles are shell start-up files; sourceLine matches a line "source FILE" or ". FILE"
// in one, and captures FILE.
var (
	shellFiles = []string{".profile", ".bash_profile", ".bash_login", ".bashrc", ".bash_aliases", ".zshenv", ".zprofile", ".zshrc", ".zlogin", ".kshrc", ".cshrc", ".tcshrc", ".login", ".xprofile", ".xsessionrc", ".xinitrc", ".config/fish/config.fish"}
	sourceLine = lazyre.New(`^[ \t]*(?:(?:then|do|else|if|\{|\(|\[\[? .* \]\]?)[ \t]+)*(?:source|\.)[ \t]+(?:"([^"]+)"|'([^']+)'|([^\s)"']+))`)
)

// followSourced follows the files that the home's shell files source by an absolute path
// or one below the home. Paths the shell would have to compute are not found.
func (l *leadFinder) followSourced(home string) {
	for _, s := range shellFiles {
		file := filepath.Join(home, s)
		for _, path := range l.sourcedFiles(file, home) {
			l.leads(&l.out.HostExecuted, path+", which "+l.displayName(file)+" sources,", path, l.follow(path))
		}
	}
}

// sourcedFiles returns the paths that a shell file sources.
func (r *placeReader) sourcedFiles(file, home string) []string {
	if paths, ok := r.sources[file]; ok {
		return paths
	}
	r.sources[file] = nil
	b, err := hostfile.ReadFollowed(file, maxStartup)
	if err != nil {
		return nil
	}
	for _, command := range strings.FieldsFunc(string(b), func(r rune) bool { return strings.ContainsRune("\n;&|", r) }) {
		m := sourceLine.FindStringSubmatch(command)
		if m == nil {
			continue
		}
		path := m[1] + m[2] + m[3]
		for _, h := range []string{"~/", "$HOME/", "${HOME}/"} {
			if rest, ok := strings.CutPrefix(path, h); ok {
				path = filepath.Join(home, rest)
			}
		}
		if filepath.IsAbs(path) && !strings.ContainsAny(path, "$`*?") {
			r.sources[file] = append(r.sources[file], path)
		}
	}
	return r.sources[file]
}

// NameLeads lists leads for a message, at most placesShown of them.
func NameLeads(ls []Lead) string {
	more := ""
	if n := len(ls) - placesShown; n > 0 {
		ls, more = ls[:placesShown], fmt.Sprintf(", and %d more", n)
	}
	var out []string
	for _, l := range ls {
		out = append(out, ui.Clean(l.String()))
	}
	return strings.Join(out, ", ") + more
}

// RefuseLeads refuses a folder with credentials, and, if writable, one whose files
// programs on the host run by themselves: a guest that can only read the folder changes
// none of them. For a folder that is not refused, the caller reports Active and Cut.
// allow has the values of --allow-sensitive, as for Refuse.
func RefuseLeads(hostPath string, p Person, writable bool, allow []string) (Leads, error) {
	found := FindLeads(hostPath, p, !writable)
	q := quote(hostPath)
	if found.Self != "" {
		return found, ui.Refused("%s is not shared for writing: the running aivm lies in it (%s), and this machine runs it as root", ui.Clean(hostPath), ui.Clean(found.Self)).
			Hint(ui.CmdFor("install aivm where no guest can write", "sudo install -m 755 "+quote(found.Self)+" /usr/local/bin/aivm"), ui.CmdFor("then", "/usr/local/bin/aivm attach "+q))
	}
	if allowed(hostPath, allow) {
		return found, nil
	}
	yes := ui.Remark("if the guest may have it, repeat the command with: --allow-sensitive " + q)
	if len(found.Keys) > 0 {
		return found, ui.Refused("%s is not shared: it holds keys or tokens: %s", ui.Clean(hostPath), NameLeads(found.Keys)).
			Hint(yes, ui.Remark("or attach the project's own folder"))
	}
	if len(found.HostExecuted) > 0 {
		return found, ui.Refused("%s is not shared for writing: programs on this machine run or obey its files by themselves: %s", ui.Clean(hostPath), NameLeads(found.HostExecuted)).
			Hint(ui.CmdFor("to let the guest only read it", "aivm attach "+q+" --access ro"), yes)
	}
	return found, nil
}

// allowed reports whether --allow-sensitive names exactly this folder.
func allowed(hostPath string, allow []string) bool {
	folder := pathVariants(hostPath)
	return slices.ContainsFunc(allow, func(a string) bool {
		return slices.ContainsFunc(pathVariants(filepath.Clean(a)), func(p string) bool { return slices.Contains(folder, p) })
	})
}
