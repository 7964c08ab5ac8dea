package settingsync

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"
)

// stateDir is aivm's directory in the guest, relative to its home. stateFile contains the manifest,
// a NUL, and find's output for each file of the manifest.
const (
	stateDir  = ".local/state/aivm"
	stateFile = stateDir + "/sync"
)

// Manifest is what was sent before, as the guest keeps it. The guest can change it, which affects
// only what this guest is sent.
type Manifest struct {
	Schema   int                        `json:"schema"`
	Files    map[string]Entry           `json:"files"`
	Settings map[string]json.RawMessage `json:"settings,omitempty"`   // target -> the settings sent last
	Told     []string                   `json:"told,omitempty"`       // ids of notes and problems already reported
	Ext      map[string][]string        `json:"extensions,omitempty"` // server folder -> installed ids
}

// State is the complete content of stateFile: the manifest, a NUL, and find's output for each file,
// each with a NUL. Its first line has a random id, under which the file also has a second name (a
// hard link): a host that has read the state with this id need not read it again.
type State string

// id returns the state's id, "" if it has none, as in states of earlier versions.
func (s State) id() string {
	head, rest, ok := strings.Cut(string(s), "\n")
	id, quoted := strings.CutPrefix(head, `{"id":"`)
	id, comma := strings.CutSuffix(id, `",`)
	if b, err := hex.DecodeString(id); !ok || !quoted || !comma || err != nil || len(b) != idSize || rest == "" {
		return ""
	}
	return id
}

// idSize is the size of a state's id in bytes.
const idSize = 16

// maxState bounds the bytes read of the state.
const maxState = 600000

// Entry is one file of the manifest.
type Entry struct {
	Sum  string `json:"sum,omitempty"`  // as sent; "" if never sent, since the guest has its own file
	Seen string `json:"seen,omitempty"` // of the guest's own file, if it was kept
	From string `json:"from"`
}

// GuestFile is the state of one path in the guest.
type GuestFile struct {
	Type byte // 'f', 'd', 'l', or another type letter of find
	Mode uint32
	Sum  string // of a file, "" if not computed; "-> target" for a link
	Stat string
}

// Guest is the parsed answer of a guest.
type Guest struct {
	Home       string
	Manifest   Manifest
	Files      map[string]GuestFile
	Texts      map[string]string // settings files, by target
	Servers    map[string]string // an editor's server command, by server folder
	Extensions map[string][]string
	HasServer  map[string]bool // server folders with an installed server
	Detailed   bool            // DetailProbe's answer: contents were read
	HasSSHKey  bool            // reported only if the git configuration needs one
	State      State           // if it was read and has an id
	stats      map[string]string
}

// maxText bounds the bytes read of a settings file in the guest.
const maxText = 300 << 10

// guestPath returns a path for the guest's shell, whose working directory is the guest home.
func guestPath(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return "./" + p
}

// Probe returns this package's part of the probe script. It never fails and never blocks: it does
// not open what a guest may have put in place of a file (a pipe, a link). Each program it starts
// costs an emulated guest 50 ms at every launch, so if something was sent before it starts only
// two: one that prints the state file, unless the host knows it, and find for the files. It reads
// contents only if nothing was ever sent.
func (w *Wanted) Probe() string {
	read := readState
	if id := w.Known.id(); id != "" {
		// -ef compares files. Every sh on Linux has it as a builtin, and POSIX.1-2024 requires it.
		read = "if [ " + quotedStateFile + " -ef " + quotedStateFile + "." + id + " ]; then printf 'known\\0'; else " + readState + "; fi"
	}
	return probeHead + "if [ -f " + quotedStateFile + " ]; then " + read + "\n" +
		w.servedScript() + w.keyScript() + w.findScript(false) + "else\n" + w.detailScript() + "fi\n" + probeTail
}

// DetailProbe returns the script that reads contents, for when the state is not enough.
func (w *Wanted) DetailProbe() string {
	return probeHead + "[ ! -f " + quotedStateFile + " ] || { " + readState + "; }\n" + w.detailScript() + probeTail
}

var (
	quotedStateFile = shellescape.Quote("./" + stateFile)
	readState       = fmt.Sprintf("printf 'state '; head -c %d %s; printf '\\0'", maxState, quotedStateFile)
)

const (
	probeHead = "cd || exit 0\nexec 2>/dev/null\nprintf 'aivm-sync 1\\0home %s\\0' \"$PWD\"\n"
	probeTail = "printf 'end\\0'\nexit 0\n"
)

func (w *Wanted) detailScript() string {
	var s strings.Builder
	s.WriteString("printf 'full\\0'\n")
	for i, t := range w.Settings {
		q := shellescape.Quote(guestPath(t.Target))
		fmt.Fprintf(&s, "[ ! -f %s ] || { printf 'text %d '; head -c %d %[1]s; printf '\\0'; }\n", q, i, maxText+1)
	}
	for i, e := range w.servers() {
		d := shellescape.Quote("./" + e.Server)
		patterns := fmt.Sprintf("%s/cli/servers/*/server/bin/*-server %[1]s/bin/*/bin/*-server %[1]s/bin/*-server", d)
		if e.Program != "" {
			patterns = "./" + e.Program
		}
		// The newest server is the one the editor uses.
		fmt.Fprintf(&s, "for f in $(ls -t -d %s); do [ -x \"$f\" ] && { printf 'server %d %%s\\0' \"$f\"; break; }; done\n", patterns, i)
		fmt.Fprintf(&s, "[ ! -d %s/extensions ] || { printf 'extensions %d '; ls %s/extensions | head -n 2000 | tr '\\n' ' '; printf '\\0'; }\n", d, i, d)
	}
	return s.String() + w.servedScript() + w.keyScript() + w.findScript(true)
}

// servedScript reports which editors have a server in the guest; it starts no program.
func (w *Wanted) servedScript() string {
	var s strings.Builder
	for i, e := range w.servers() {
		d := shellescape.Quote("./" + e.Server)
		if e.Program != "" {
			d = shellescape.Quote("./" + path.Dir(path.Dir(path.Dir(e.Program))))
			fmt.Fprintf(&s, "if [ -d %s ]; then printf 'served %d\\0'; fi\n", d, i)
			continue
		}
		fmt.Fprintf(&s, "if [ -d %s/cli/servers ] || [ -d %s/bin ]; then printf 'served %d\\0'; fi\n", d, d, i)
	}
	return s.String()
}

// keyScript reports whether the guest user has an SSH key, if that matters; it starts no program.
func (w *Wanted) keyScript() string {
	if len(w.GitSSH) == 0 {
		return ""
	}
	return "for f in ./.ssh/id_*; do case $f in *.pub) continue;; esac; if [ -f \"$f\" ]; then printf 'sshkey\\0'; break; fi; done\n"
}

// statFormat is find's format for what changes with every write: inode, size, times.
const statFormat = "%i:%s:%T@:%C@"

func (w *Wanted) findScript(sums bool) string {
	if len(w.Items)+len(w.Dirs)+len(w.Settings) == 0 {
		return ""
	}
	var s strings.Builder
	s.WriteString("set --")
	for _, it := range w.Items {
		s.WriteString(" " + shellescape.Quote(guestPath(it.Guest)))
	}
	for _, d := range w.Dirs {
		s.WriteString(" " + shellescape.Quote(guestPath(d.Guest)))
	}
	for _, t := range w.Settings {
		s.WriteString(" " + shellescape.Quote(guestPath(t.Target)))
	}
	s.WriteString("\n")
	if sums {
		// Often none of the files exists yet.
		s.WriteString("for f; do if [ -e \"$f\" ] || [ -L \"$f\" ]; then any=1; break; fi; done\n[ -z \"${any-}\" ] || ")
	}
	s.WriteString("find \"$@\" -maxdepth 0 -printf 'E%y %m " + statFormat + " %p\\0L%l\\0'")
	if sums {
		s.WriteString(" -type f -size -65536k -exec sha256sum -z -- {} +")
	}
	return s.String() + "\n"
}

// servers returns the editors whose extensions are synced.
func (w *Wanted) servers() []EditorPlace {
	if len(w.Extensions) == 0 {
		return nil
	}
	var out []EditorPlace
	for _, e := range w.Editors {
		if e.InUse && e.Server != "" {
			out = append(out, e)
		}
	}
	return out
}

// ParseGuest parses the output of Probe or DetailProbe.
func (w *Wanted) ParseGuest(answer []byte) (Guest, error) {
	g := Guest{
		Manifest: emptyManifest(), Files: map[string]GuestFile{}, Texts: map[string]string{}, Servers: map[string]string{},
		Extensions: map[string][]string{}, HasServer: map[string]bool{}, stats: map[string]string{},
	}
	records := strings.Split(string(answer), "\x00")
	if len(records) > 2 && records[2] == "known" {
		state := strings.Split("state "+strings.TrimSuffix(string(w.Known), "\x00"), "\x00")
		records = slices.Concat(records[:2], state, records[3:])
	}
	if len(records) < 3 || records[0] != "aivm-sync 1" {
		return g, errors.New("cannot parse the guest's report about its settings")
	}
	if records[len(records)-2] != "end" {
		return g, errors.New("the guest's report about its settings is incomplete")
	}
	last, state := "", false
	for _, r := range records[1 : len(records)-2] {
		if state = state && strings.HasPrefix(r, "S"); state {
			g.State += State(r + "\x00")
		}
		word, rest, _ := strings.Cut(r, " ")
		switch {
		case word == "home":
			g.Home = rest
		case word == "full":
			g.Detailed = true
		case word == "sshkey":
			g.HasSSHKey = true
		case word == "state":
			g.Manifest, g.State, state = readManifest(rest), State(rest+"\x00"), true
		case strings.HasPrefix(r, "S"):
			if stat, p, ok := strings.Cut(r[1:], " "); ok {
				g.stats[strings.TrimPrefix(p, "./")] = stat
			}
		case word == "text", word == "server", word == "extensions", word == "served":
			g.parseEditorRecord(w, word, rest)
		case strings.HasPrefix(r, "E"):
			last = g.parseFileRecord(r[1:])
		case strings.HasPrefix(r, "L"):
			if f, ok := g.Files[last]; ok && f.Type == 'l' {
				f.Sum = "-> " + r[1:]
				g.Files[last] = f
			}
		case len(r) > 66 && r[64:66] == "  ":
			p := strings.TrimPrefix(r[66:], "./")
			if f, ok := g.Files[p]; ok && f.Type == 'f' {
				f.Sum = r[:64]
				g.Files[p] = f
			}
		}
	}
	if g.Manifest.Schema > 1 {
		return g, fmt.Errorf("the guest's record of your settings was written by a later aivm (version %d, this one supports 1); nothing is sent", g.Manifest.Schema)
	}
	if !path.IsAbs(g.Home) {
		return g, errors.New("the guest did not report its home directory")
	}
	if g.State.id() == "" || g.State == w.Known || len(g.State) >= maxState {
		g.State = ""
	}
	// A file whose find output is unchanged still has the recorded checksum.
	for p, f := range g.Files {
		e, known := g.Manifest.Files[p]
		if known && f.Type == 'f' && f.Sum == "" && g.stats[p] == f.Stat {
			f.Sum = e.Sum
			if e.Seen != "" {
				f.Sum = e.Seen
			}
			g.Files[p] = f
		}
	}
	return g, nil
}

func emptyManifest() Manifest {
	return Manifest{Schema: 1, Files: map[string]Entry{}, Settings: map[string]json.RawMessage{}, Ext: map[string][]string{}}
}

// readManifest parses a manifest. A damaged one counts as empty: existing files are then kept
// beside what is sent. Nothing is sent over one of a later aivm.
func readManifest(text string) Manifest {
	m := emptyManifest()
	var later struct{ Schema int }
	if json.Unmarshal([]byte(text), &later) == nil && later.Schema > 1 {
		return Manifest{Schema: later.Schema}
	}
	if json.Unmarshal([]byte(text), &m) != nil || m.Schema != 1 || m.Files == nil || m.Settings == nil || m.Ext == nil {
		return emptyManifest()
	}
	return m
}

// parseEditorRecord parses "INDEX REST" of a settings file or a server.
func (g *Guest) parseEditorRecord(w *Wanted, word, rest string) {
	number, body, _ := strings.Cut(rest, " ")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 {
		return
	}
	if word == "text" {
		if i < len(w.Settings) {
			g.Texts[w.Settings[i].Target] = body
		}
		return
	}
	if i >= len(w.servers()) {
		return
	}
	dir := w.servers()[i].Server
	switch word {
	case "served":
		g.HasServer[dir] = true
	case "server":
		g.Servers[dir] = body
	case "extensions":
		g.Extensions[dir] = strings.Fields(body)
	}
}

// parseFileRecord parses "TYPE MODE STAT PATH" and returns the path.
func (g *Guest) parseFileRecord(s string) string {
	f := strings.SplitN(s, " ", 4)
	if len(f) != 4 || len(f[0]) != 1 {
		return ""
	}
	mode, err := strconv.ParseUint(f[1], 8, 32)
	if err != nil {
		return ""
	}
	p := strings.TrimPrefix(f[3], "./")
	g.Files[p] = GuestFile{Type: f[0][0], Mode: uint32(mode), Stat: f[2]}
	return p
}
