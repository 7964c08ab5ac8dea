package remoteconfig

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/rogpeppe/go-internal/diff"

	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/ui"
)

// aivm appends the remote's section to the configuration as one block of text and later removes
// exactly that block. It does not use `git config`, which may rewrite the layout of other lines
// too; go-git's writer rewrites the entire file.

// ending is how the file ended before the section was added. The section records it, so that
// removing the section restores the file to the byte.
type ending int

const (
	lineEnded        ending = iota // with a complete line
	lineUnended                    // with a line without a newline
	backslashEnded                 // with a backslash and a newline, which continue on the next line; aivm adds an empty one
	backslashUnended               // with a backslash and no newline
)

// endingNotes are the comments that record in the section which line ends before it aivm added.
var endingNotes = map[ending]string{
	lineUnended:      "\t# aivm ended the line before this section\n",
	backslashEnded:   "\t# aivm put the empty line before this section\n",
	backslashUnended: "\t# aivm ended the line and put the empty one before this section\n",
}

// endingOf determines the ending of a configuration.
func endingOf(text []byte) ending {
	line, ended := bytes.CutSuffix(text, []byte("\n"))
	if ended {
		line = bytes.TrimSuffix(line, []byte("\r"))
	}
	switch continues := bytes.HasSuffix(line, []byte(`\`)); {
	case len(text) == 0 || ended && !continues:
		return lineEnded
	case ended:
		return backslashEnded
	case continues:
		return backslashUnended
	}
	return lineUnended
}

// URL returns the clone's address for plain git, through the SSH alias.
func URL(vm, dir string) string { return vm + ":" + dir }

// section returns the text of a remote's section, with LF line ends.
func section(name, url string, after ending) string {
	s := "[remote " + quoteValue(name) + "]\n\turl = " + quoteValue(url) + "\n\tfetch = +refs/heads/*:refs/remotes/" + name + "/*\n\ttagOpt = --no-tags\n"
	switch after {
	case lineUnended, backslashEnded:
		s = "\n" + s
	case backslashUnended:
		s = "\n\n" + s
	}
	return s + endingNotes[after]
}

// quoteValue quotes a value as in git-config(1).
func quoteValue(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

// variants lists the texts that aivm's section can have in a file.
func variants(name, url string) []string {
	var out []string
	for _, after := range []ending{backslashUnended, backslashEnded, lineUnended, lineEnded} {
		s := section(name, url, after)
		out = append(out, s, strings.ReplaceAll(s, "\n", "\r\n"))
	}
	return out
}

// A Remote is the section of one clone and whether the configuration has it.
type Remote struct {
	Name    string
	Present bool // the section is in the file
	top     string
	vm, dir string
	path    string
	text    []byte
	url     string
}

// Find reads the repository's configuration and finds the section whose url is the clone, or
// chooses the name of a new one: aivm-VM, or, if another clone in this VM already has that name,
// aivm-VM with part of the hash of the guest path.
func Find(r hostgit.Repo, vm, dir string) (Remote, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(r.CommonDir, "config"))
	if err != nil {
		return Remote{}, fmt.Errorf("reading the repository's configuration: %w", err)
	}
	m := Remote{top: r.Top, vm: vm, dir: dir, path: path, url: URL(vm, dir)}
	return m.reread()
}

// reread returns the remote as the file has it now.
func (m Remote) reread() (Remote, error) {
	st, err := os.Stat(m.path)
	if err != nil {
		return Remote{}, fmt.Errorf("reading the repository's configuration: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > 8<<20 {
		return Remote{}, ui.Refused("%s is not a git configuration file (a regular file of at most 8 MB)", ui.Clean(m.path))
	}
	if m.text, err = os.ReadFile(m.path); err != nil {
		return Remote{}, fmt.Errorf("reading the repository's configuration: %w", err)
	}
	sum := sha256.Sum256([]byte(m.dir))
	names := []string{"aivm-" + m.vm, "aivm-" + m.vm + "-" + hex.EncodeToString(sum[:4])}
	found := func(name string, present bool) (Remote, error) {
		m.Name, m.Present = name, present
		return m, nil
	}
	for _, n := range names {
		for _, v := range variants(n, m.url) {
			if bytes.Contains(m.text, []byte(v)) {
				return found(n, true)
			}
		}
	}
	// The user created or changed it, and its url is the one aivm would write. Both names are
	// checked before a free one is used, or the clone would get a second remote.
	for _, n := range names {
		if sectionURL(m.text, n) == m.url {
			return found(n, true)
		}
	}
	for _, n := range names {
		if !strings.Contains(strings.ToLower(string(m.text)), strings.ToLower("[remote "+quoteValue(n)+"]")) {
			return found(n, false)
		}
	}
	q := shellescape.Quote(m.top)
	return Remote{}, ui.Refused("the remote %s of %s is not aivm's: its url is %s", names[0], ui.Clean(m.top), ui.Clean(sectionURL(m.text, names[0]))).
		Hint(ui.CmdFor("list the remotes", "git -C "+q+" remote -v"), ui.CmdFor("rename it", "git -C "+q+" remote rename "+names[0]+" "+names[0]+"-old"))
}

// sectionURL returns the url of a section, if it is a simple line.
func sectionURL(text []byte, name string) string {
	in := false
	for l := range strings.SplitSeq(string(text), "\n") {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			in = strings.EqualFold(l, "[remote "+quoteValue(name)+"]")
			continue
		}
		if k, v, ok := strings.Cut(l, "="); in && ok && strings.EqualFold(strings.TrimSpace(k), "url") {
			v = strings.TrimSpace(v)
			if len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
				v = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(v[1 : len(v)-1])
			}
			return v
		}
	}
	return ""
}

// withSection returns the configuration with the section added.
func (m Remote) withSection() []byte {
	s := section(m.Name, m.url, endingOf(m.text))
	if i := bytes.IndexByte(m.text, '\n'); i > 0 && m.text[i-1] == '\r' {
		s = strings.ReplaceAll(s, "\n", "\r\n")
	}
	return append(bytes.Clone(m.text), s...)
}

// withoutSection returns the configuration without aivm's section; ok is false if the section is
// not exactly as aivm wrote it.
func (m Remote) withoutSection() (out []byte, ok bool) {
	for _, v := range variants(m.Name, m.url) {
		if i := bytes.Index(m.text, []byte(v)); i >= 0 {
			before, after := m.text[:i], m.text[i+len(v):]
			if !sectionEnds(after) {
				return nil, false // the user added lines to the section
			}
			if first := len(v) - len(strings.TrimLeft(v, "\r\n")); first > 0 && len(after) > 0 {
				before = m.text[:i+first] // text follows the section now, so the line before it keeps its newline
				after = withNote(after, v)
			}
			return append(bytes.Clone(before), after...), true
		}
	}
	return nil, false
}

// nextSection matches the section of another clone of aivm's at the start of a text: two work trees
// of one repository have the same configuration.
var nextSection = regexp.MustCompile(`^\[remote "(aivm-[^"\\\r\n]+)"\]\r?\n\turl = "[^\r\n]*"\r?\n\tfetch = \+refs/heads/\*:refs/remotes/([^\r\n]+)/\*\r?\n\ttagOpt = --no-tags\r?\n`)

// withNote moves the comment about how the file ended, which the removed section has, to the section
// of another clone that follows it. So the last one that is removed restores the file to the byte.
func withNote(after []byte, removed string) []byte {
	at := nextSection.FindSubmatchIndex(after)
	if at == nil || !bytes.Equal(after[at[2]:at[3]], after[at[4]:at[5]]) {
		return after
	}
	i := strings.LastIndex(removed, "\t#")
	if i < 0 {
		return after
	}
	return slices.Concat(after[:at[1]], []byte(removed[i:]), after[at[1]:])
}

// sectionEnds reports whether the text after the section starts a new section, or is empty or
// comments only.
func sectionEnds(after []byte) bool {
	for l := range strings.SplitSeq(string(after), "\n") {
		l = strings.TrimSpace(l)
		if l != "" && l[0] != '#' && l[0] != ';' {
			return l[0] == '['
		}
	}
	return true
}

// Path returns the path of the configuration file.
func (m Remote) Path() string { return m.path }

// AddDiff returns the diff of what Add changes.
func (m Remote) AddDiff() string {
	return string(diff.Diff(m.path, m.text, m.path, m.withSection()))
}

// RemoveDiff returns the diff of what Remove changes, "" if the section is not as aivm wrote it and
// is kept.
func (m Remote) RemoveDiff() string {
	out, ok := m.withoutSection()
	if !ok {
		return ""
	}
	return string(diff.Diff(m.path, m.text, m.path, out))
}

// Add writes the section into the file as it is then, unless the file has it.
func (m Remote) Add(ctx context.Context) error {
	if m.Present {
		return nil
	}
	return m.replace(ctx, func(now Remote) ([]byte, error) {
		switch {
		case now.Present:
			return nil, nil
		case now.Name != m.Name:
			return nil, ui.Failed("%s got a remote %q from another program while aivm was running", ui.Clean(m.path), m.Name).Hint(ui.Remark("run the command again"))
		}
		return now.withSection(), nil
	})
}

// Remove removes exactly the text that Add wrote from the file as it is then: its other lines may
// have changed since Find. It keeps a section that the user changed; removed reports which happened.
func (m Remote) Remove(ctx context.Context) (removed bool, err error) {
	if _, ok := m.withoutSection(); !ok {
		return false, nil
	}
	err = m.replace(ctx, func(now Remote) ([]byte, error) {
		var out []byte
		if now.Name == m.Name {
			out, removed = now.withoutSection()
		}
		return out, nil
	})
	return removed && err == nil, err
}

// lockTimeout is how long Add and Remove wait for another git process to release the
// configuration's lock.
const lockTimeout = 5 * time.Second

// replace writes what edit makes of the present file, as git does, under git's own lock, so that
// neither overwrites the other's changes. The file stays as it is if edit returns nil.
func (m Remote) replace(ctx context.Context, edit func(now Remote) ([]byte, error)) error {
	lock := m.path + ".lock"
	st, err := os.Stat(m.path)
	if err != nil {
		return err
	}
	var f *os.File
	for end := time.Now().Add(lockTimeout); ; {
		f, err = os.OpenFile(lock, os.O_WRONLY|os.O_CREATE|os.O_EXCL, st.Mode().Perm())
		if !errors.Is(err, fs.ErrExist) || time.Now().After(end) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return ui.Failed("%s is locked by a git process that is running or was killed", ui.Clean(m.path)).
			Hint(ui.CmdFor("if no git is running, remove the lock", "rm "+shellescape.Quote(lock)))
	}
	if err != nil {
		return ui.Failed("writing the repository's configuration: %w", err).Hint(ui.Cmd("ls -ld " + shellescape.Quote(filepath.Dir(m.path))))
	}
	defer func() {
		if f != nil {
			_ = f.Close()
			_ = os.Remove(lock)
		}
	}()
	now, err := m.reread()
	if err != nil {
		return err
	}
	text, err := edit(now)
	if err != nil || text == nil {
		return err
	}
	if err := f.Chmod(st.Mode().Perm()); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(lock, m.path); err != nil {
		return err
	}
	f = nil
	return nil
}
