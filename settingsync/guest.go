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

// stateDir is ours in the guest, below its home. stateFile there is the
// manifest, a NUL, and what find said of each file of it.
const (
	stateDir  = ".local/state/aivm"
	stateFile = stateDir + "/sync"
)

// Manifest is what was sent before, as the guest keeps it. It is the guest's
// own, so what it says can only change what the guest gets.
type Manifest struct {
	Schema   int                        `json:"schema"`
	Files    map[string]Entry           `json:"files"`
	Settings map[string]json.RawMessage `json:"settings,omitempty"`   // target -> what was sent last
	Told     []string                   `json:"told,omitempty"`       // said once already
	Ext      map[string][]string        `json:"extensions,omitempty"` // server -> ids that are there
}

// State is what the guest keeps, whole: the manifest, a NUL, and what find said
// of each file, each with a NUL. Its first line carries a number made for it,
// which is a further name of the file as well: who has read it once need not
// read it again.
type State string

// id is the state's number, "" if it has none, as those of earlier versions.
func (s State) id() string {
	head, rest, ok := strings.Cut(string(s), "\n")
	id, quoted := strings.CutPrefix(head, `{"id":"`)
	id, comma := strings.CutSuffix(id, `",`)
	if b, err := hex.DecodeString(id); !ok || !quoted || !comma || err != nil || len(b) != idSize || rest == "" {
		return ""
	}
	return id
}

// idSize is that of a state's number, in bytes.
const idSize = 16

// maxState is what is read of it.
const maxState = 600000

// Entry is one file as it was sent.
type Entry struct {
	Sum  string `json:"sum,omitempty"`  // "" = never: the guest's own is there
	Seen string `json:"seen,omitempty"` // of the guest's own, if that stays
	From string `json:"from"`
}

// GuestFile is what lies at a place in the guest.
type GuestFile struct {
	Type byte // 'f', 'd', 'l', or another of find's
	Mode uint32
	Sum  string // of a file, "" if nobody looked; of a link "-> target"
	Stat string
}

// Guest is what a guest says of itself.
type Guest struct {
	Home       string
	Manifest   Manifest
	Files      map[string]GuestFile
	Texts      map[string]string // settings files, by target
	Servers    map[string]string // an editor's server command, by server folder
	Extensions map[string][]string
	Served     map[string]bool // server folders that hold a server
	Full       bool            // contents were looked at
	State      State           // if it was read, and is worth keeping
	stats      map[string]string
}

// maxText is what is read of a settings file in the guest, and of the manifest.
const maxText = 300 << 10

// guestPath is a path as the guest's shell is given it, its home being the
// working directory.
func guestPath(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return "./" + p
}

// Probe is the guest's piece of the one probe script. It never fails and never
// waits: what a guest put in place of a file (a pipe, a link) is looked at, not
// opened. Each program it starts costs an emulated guest 50 ms at every launch,
// so where something was sent before it is two: the state we left there, unless
// it is known, and one look at the files. Contents are read only where nothing was ever sent.
func (w *Wanted) Probe() string {
	read := readState
	if id := w.Known.id(); id != "" {
		// -ef: the same file. Every sh of a Linux has it built in, and POSIX.1-2024.
		read = "if [ " + stateWord + " -ef " + stateWord + "." + id + " ]; then printf 'known\\0'; else " + readState + "; fi"
	}
	return probeHead + "if [ -f " + stateWord + " ]; then " + read + "\n" +
		w.servedScript() + w.find(false) + "else\n" + w.detail() + "fi\n" + probeTail
}

// DetailProbe asks for contents where the state is not enough.
func (w *Wanted) DetailProbe() string {
	return probeHead + "[ ! -f " + stateWord + " ] || { " + readState + "; }\n" + w.detail() + probeTail
}

var (
	stateWord = shellescape.Quote("./" + stateFile)
	readState = fmt.Sprintf("printf 'state '; head -c %d %s; printf '\\0'", maxState, stateWord)
)

const (
	probeHead = "cd || exit 0\nexec 2>/dev/null\nprintf 'aivm-sync 1\\0home %s\\0' \"$PWD\"\n"
	probeTail = "printf 'end\\0'\nexit 0\n"
)

func (w *Wanted) detail() string {
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
	return s.String() + w.servedScript() + w.find(true)
}

// servedScript says which editors have a server in the guest; it starts no
// program.
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

// statFormat tells one state of a file from the next: inode, size, times.
const statFormat = "%i:%s:%T@:%C@"

func (w *Wanted) find(sums bool) string {
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
		// Often none of it is there yet.
		s.WriteString("for f; do if [ -e \"$f\" ] || [ -L \"$f\" ]; then any=1; break; fi; done\n[ -z \"${any-}\" ] || ")
	}
	s.WriteString("find \"$@\" -maxdepth 0 -printf 'E%y %m " + statFormat + " %p\\0L%l\\0'")
	if sums {
		s.WriteString(" -type f -size -65536k -exec sha256sum -z -- {} +")
	}
	return s.String() + "\n"
}

// servers are the editors whose extensions matter.
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

// ParseGuest reads the answer to Probe or DetailProbe.
func (w *Wanted) ParseGuest(answer []byte) (Guest, error) {
	g := Guest{
		Manifest: emptyManifest(), Files: map[string]GuestFile{}, Texts: map[string]string{}, Servers: map[string]string{},
		Extensions: map[string][]string{}, Served: map[string]bool{}, stats: map[string]string{},
	}
	records := strings.Split(string(answer), "\x00")
	if len(records) > 2 && records[2] == "known" {
		state := strings.Split("state "+strings.TrimSuffix(string(w.Known), "\x00"), "\x00")
		records = slices.Concat(records[:2], state, records[3:])
	}
	if len(records) < 3 || records[0] != "aivm-sync 1" {
		return g, errors.New("the guest's answer about its settings makes no sense")
	}
	if records[len(records)-2] != "end" {
		return g, errors.New("the guest's answer about its settings is cut short")
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
			g.Full = true
		case word == "state":
			g.Manifest, g.State, state = readManifest(rest), State(rest+"\x00"), true
		case strings.HasPrefix(r, "S"):
			if stat, p, ok := strings.Cut(r[1:], " "); ok {
				g.stats[strings.TrimPrefix(p, "./")] = stat
			}
		case word == "text", word == "server", word == "extensions", word == "served":
			g.ofEditor(w, word, rest)
		case strings.HasPrefix(r, "E"):
			last = g.file(r[1:])
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
		return g, fmt.Errorf("what the guest keeps of your settings was written by a later aivm (version %d, this one knows 1): nothing is sent", g.Manifest.Schema)
	}
	if !path.IsAbs(g.Home) {
		return g, errors.New("the guest does not say where its home is")
	}
	if g.State.id() == "" || g.State == w.Known || len(g.State) >= maxState {
		g.State = ""
	}
	// A file nobody touched since is what it was then.
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

// readManifest: one that is damaged is none: what is there is kept beside what
// is sent then. Over one of a later aivm nothing is sent.
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

// ofEditor reads "INDEX REST" of a settings file or a server.
func (g *Guest) ofEditor(w *Wanted, word, rest string) {
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
		g.Served[dir] = true
	case "server":
		g.Servers[dir] = body
	case "extensions":
		g.Extensions[dir] = strings.Fields(body)
	}
}

// file reads "TYPE MODE STAT PATH" and returns the path.
func (g *Guest) file(s string) string {
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
