package settingsync

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Report describes what a round does, for people and as JSON.
type Report struct {
	Copied     []string  `json:"copied"`
	Unchanged  int       `json:"unchanged"`
	Missing    []string  `json:"skipped_missing"`
	Kept       []string  `json:"skipped_exists"` // changed in the guest, so not replaced
	Backups    []string  `json:"kept_beside"`    // where the guest's own files were kept
	Merged     []string  `json:"merged"`
	Conflicts  []string  `json:"settings_kept"` // keys both sides changed
	LeftOut    []string  `json:"settings_left_out"`
	GitLeftOut []string  `json:"git_left_out"`      // variables of the git configuration
	GitSSH     []string  `json:"git_needs_ssh_key"` // addresses that git replaces by one of ssh, if the guest has no key
	Dropped    []string  `json:"no_longer_listed"`
	Problems   []Problem `json:"problems"`
	Bytes      int64     `json:"bytes"`
}

// Round is what has to be sent, given what the guest has.
type Round struct {
	Report      Report
	Notes       []string  // reported only once
	NewProblems []Problem // problems that were not reported before
	Install     []Install // extensions, by the server's own command
	NeedsDetail bool      // contents must be read first, by DetailProbe
	files       []send
	dirs        []Dir
	merges      []merge
	manifest    Manifest
	changed     bool // the manifest must be written
	now         time.Time
	stamp       string
}

type send struct {
	Item
	existing *GuestFile // the file that is replaced, nil if there is none
	backup   bool
	same     bool // only the mode differs
}

type merge struct {
	target, text string
	previous     string // "" = no file
	exists       bool
}

// Empty reports whether there is nothing to send.
func (r *Round) Empty() bool {
	return len(r.files) == 0 && len(r.merges) == 0 && !r.changed && !r.NeedsDetail
}

// Install lists extensions that an editor's server in the guest has to install.
type Install struct {
	Editor, Program string
	IDs             []string
}

// Targets lists the paths in the guest that change.
func (r *Round) Targets() []string {
	var out []string
	for _, f := range r.files {
		out = append(out, tilde(f.Guest))
	}
	for _, m := range r.merges {
		out = append(out, tilde(m.target))
	}
	return out
}

func tilde(guest string) string {
	if path.IsAbs(guest) {
		return guest
	}
	return "~/" + guest
}

// NewRound compares what is wanted with what the guest has. It has no side effects.
func NewRound(w *Wanted, g Guest, now time.Time) *Round {
	r := &Round{now: now, stamp: now.UTC().Format("20060102T150405Z")}
	r.Report.Missing, r.Report.Problems = w.Missing, slices.Clone(w.Problems)
	r.manifest = emptyManifest()
	r.manifest.Told = g.Manifest.Told
	maps.Copy(r.manifest.Settings, g.Manifest.Settings)
	maps.Copy(r.manifest.Ext, g.Manifest.Ext)
	for k, v := range g.Manifest.Files {
		if w.covers(k) {
			r.manifest.Files[k] = v
			continue
		}
		r.Report.Dropped = append(r.Report.Dropped, tilde(k))
		r.changed = true
	}
	slices.Sort(r.Report.Dropped)
	for _, it := range w.Items {
		r.addItem(w, g, it)
	}
	for _, d := range w.Dirs {
		if f, ok := g.Files[d.Guest]; !ok {
			if slices.ContainsFunc(r.files, func(s send) bool { return strings.HasPrefix(s.Guest, d.Guest+"/") }) {
				r.dirs = append(r.dirs, d)
			}
		} else if f.Type != 'd' && f.Type != 'l' {
			r.Report.Problems = append(r.Report.Problems, Problem{Path: tilde(d.Guest), What: "exists in the guest and is not a directory"})
			r.files = slices.DeleteFunc(r.files, func(s send) bool { return strings.HasPrefix(s.Guest, d.Guest+"/") })
		}
	}
	for _, s := range w.Settings {
		r.addSetting(g, s)
	}
	r.extensions(w, g)
	r.selectNewProblems()
	if w.Client {
		r.noteOnce("client", "keybindings and snippets are not sent: the editor on this machine applies them in the guest too")
	}
	r.Report.GitLeftOut = slices.Compact(slices.Sorted(slices.Values(w.GitLeftOut)))
	if names := r.Report.GitLeftOut; len(names) > 0 && len(r.files) > 0 {
		r.noteOnce("git "+strings.Join(names, ","), "not sent from the git configuration: "+strings.Join(names, ", "))
	}
	r.noteSSH(w, g)
	return r
}

// noteSSH notes that git in the guest uses ssh without a key.
func (r *Round) noteSSH(w *Wanted, g Guest) {
	isKey := func(s send) bool { return strings.HasPrefix(s.Guest, ".ssh/id_") && path.Ext(s.Guest) != ".pub" }
	if len(w.GitSSH) == 0 || g.HasSSHKey || slices.ContainsFunc(r.files, isKey) {
		return
	}
	names := slices.Compact(slices.Sorted(slices.Values(w.GitSSH)))
	r.Report.GitSSH = names
	shown := strings.Join(names[:min(len(names), 5)], ", ")
	if n := len(names) - 5; n > 0 {
		shown += fmt.Sprintf(" and %d more", n)
	}
	r.noteOnce("git ssh "+shown, "git in the guest uses ssh for "+shown+" (url.*.insteadOf in your git configuration), and the guest has no SSH key")
}

// selectNewProblems adds problems that were not reported before to NewProblems, and forgets those
// that no longer exist.
func (r *Round) selectNewProblems() {
	now := map[string]bool{}
	for _, p := range r.Report.Problems {
		id := "problem " + sum([]byte(p.String()))[:16]
		now[id] = true
		if !slices.Contains(r.manifest.Told, id) {
			r.manifest.Told = append(slices.Clone(r.manifest.Told), id)
			r.NewProblems = append(r.NewProblems, p)
			r.changed = true
		}
	}
	r.manifest.Told = slices.DeleteFunc(slices.Clone(r.manifest.Told), func(id string) bool { return strings.HasPrefix(id, "problem ") && !now[id] })
}

// covers reports whether a guest path still belongs to a listed path.
func (w *Wanted) covers(guest string) bool {
	return slices.ContainsFunc(w.roots, func(root string) bool { return guest == root || strings.HasPrefix(guest, root+"/") })
}

func (r *Round) noteOnce(id, text string) {
	if slices.Contains(r.manifest.Told, id) {
		return
	}
	r.manifest.Told = append(slices.Clone(r.manifest.Told), id)
	if len(r.manifest.Told) > 50 {
		r.manifest.Told = r.manifest.Told[len(r.manifest.Told)-50:]
	}
	r.Notes = append(r.Notes, text)
	r.changed = true
}

func (r *Round) addItem(w *Wanted, g Guest, it Item) {
	have, there := g.Files[it.Guest]
	sent, known := g.Manifest.Files[it.Guest]
	if there && have.Type == 'f' && have.Sum == "" && !g.Detailed {
		r.NeedsDetail = true
		return
	}
	same := there && have.Sum == it.Sum && have.Sum != "" && (it.Link == "") == (have.Type == 'f')
	if same && (it.Link != "" || have.Mode&0o777 == uint32(it.Mode.Perm())) {
		r.Report.Unchanged++
		// Record an unchanged file, so that the next probe need not read it.
		if it.Link == "" && (sent.Sum != it.Sum || sent.Seen != "" || g.stats[it.Guest] != have.Stat) {
			r.manifest.Files[it.Guest] = Entry{Sum: it.Sum, From: it.From}
			r.changed = true
		}
		return
	}
	s := send{Item: it, same: same}
	if there {
		s.existing = &have
	}
	switch {
	case there && have.Type == 'd':
		r.Report.Problems = append(r.Report.Problems, Problem{Path: tilde(it.Guest), What: "exists in the guest as a directory"})
		return
	case same:
	case there && (!known || have.Sum != sent.Sum || have.Sum == ""):
		if !w.Overwrite {
			r.Report.Kept = append(r.Report.Kept, tilde(it.Guest))
			if have.Type == 'f' && (sent.Seen != have.Sum || g.stats[it.Guest] != have.Stat) {
				r.manifest.Files[it.Guest] = Entry{Sum: sent.Sum, Seen: have.Sum, From: it.From}
				r.changed = true
			}
			return
		}
		s.backup = true
	case !there && known && !w.Overwrite:
		r.Report.Kept = append(r.Report.Kept, tilde(it.Guest)+" (removed in the guest)")
		return
	}
	if !it.Plain && !w.allowed(it.Host) {
		if found := scanFile(it); found != nil {
			r.Report.Problems = append(r.Report.Problems, found...)
			return
		}
	}
	if s.backup {
		r.Report.Backups = append(r.Report.Backups, tilde(it.Guest)+".aivm-"+r.stamp)
	}
	r.Report.Copied = append(r.Report.Copied, tilde(it.Guest))
	r.manifest.Files[it.Guest] = Entry{Sum: it.Sum, From: it.From}
	r.files = append(r.files, s)
}

func (r *Round) addSetting(g Guest, s Setting) {
	r.Report.LeftOut = append(r.Report.LeftOut, s.LeftOut...)
	base := string(g.Manifest.Settings[s.Target])
	if _, there := g.Files[s.Target]; base == s.Plain && there && !g.Detailed {
		r.Report.Unchanged++
		return
	}
	if !g.Detailed {
		r.NeedsDetail = true
		return
	}
	text, there := g.Texts[s.Target]
	if !there {
		base = ""
	}
	if there && base == s.Plain || !there && s.Plain == "{}" {
		r.Report.Unchanged++
		return
	}
	if len(text) > maxText {
		r.Report.Problems = append(r.Report.Problems, Problem{Path: tilde(s.Target), What: "is too large to be merged; the guest's settings stay unchanged"})
		return
	}
	host := s.Text
	if host == "" {
		host = "{}\n"
	}
	if base != "" {
		if _, err := parseObject(base); err != nil {
			base = "" // the guest's manifest is invalid: treat it as if nothing was sent
		}
	}
	m, err := Merge(base, host, text)
	if err != nil {
		p := Problem{Path: tilde(s.Target), What: err.Error()}
		if se := new(SyntaxError); errors.As(err, &se) {
			p.Line, p.What = se.Line, fmt.Sprintf("column %d: %s; the guest's settings stay unchanged", se.Column, se.What)
		}
		r.Report.Problems = append(r.Report.Problems, p)
		return
	}
	r.Report.Conflicts = append(r.Report.Conflicts, m.Kept...)
	r.manifest.Settings[s.Target] = json.RawMessage(s.Plain)
	r.changed = true
	if m.Changed || !there {
		r.merges = append(r.merges, merge{s.Target, m.Text, text, there})
		r.Report.Merged = append(r.Report.Merged, tilde(s.Target))
	} else {
		r.Report.Unchanged++
	}
}
