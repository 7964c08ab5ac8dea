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
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/rogpeppe/go-internal/diff"

	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/ui"
)

// The remote's section is one block of text that aivm puts at the end of the
// configuration and takes out again as it is. git's own writer is not used: it
// would be free to lay out more than the section (LIBRARIES.md 5.3 has one
// that rewrites the file).

// How the file ended before the section, which the section remembers, so that
// it can be taken out to the byte.
type ending int

const (
	closed    ending = iota // with a whole line
	open1                   // with a line that had no end
	continued               // with a backslash that has the next line for its own, which is an empty one now
	open2                   // with such a backslash and no end of the line
)

// joined stands in a section whose line ends before it are aivm's.
var joined = map[ending]string{
	open1:     "\t# aivm ended the line before this section\n",
	continued: "\t# aivm put the empty line before this section\n",
	open2:     "\t# aivm ended the line and put the empty one before this section\n",
}

// endingOf looks at the end of a configuration.
func endingOf(text []byte) ending {
	line, ended := bytes.CutSuffix(text, []byte("\n"))
	if ended {
		line = bytes.TrimSuffix(line, []byte("\r"))
	}
	switch goesOn := bytes.HasSuffix(line, []byte(`\`)); {
	case len(text) == 0 || ended && !goesOn:
		return closed
	case ended:
		return continued
	case goesOn:
		return open2
	}
	return open1
}

// URL is the clone as plain git reaches it, through the ssh alias.
func URL(vm, dir string) string { return vm + ":" + dir }

// section is the text for a remote, with LF line ends.
func section(name, url string, after ending) string {
	s := "[remote " + quoteValue(name) + "]\n\turl = " + quoteValue(url) + "\n\tfetch = +refs/heads/*:refs/remotes/" + name + "/*\n\ttagOpt = --no-tags\n"
	switch after {
	case open1, continued:
		s = "\n" + s
	case open2:
		s = "\n\n" + s
	}
	return s + joined[after]
}

// quoteValue quotes a value of git-config(1).
func quoteValue(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

// variants are the texts our section can have in a file.
func variants(name, url string) []string {
	var out []string
	for _, after := range []ending{open2, continued, open1, closed} {
		s := section(name, url, after)
		out = append(out, s, strings.ReplaceAll(s, "\n", "\r\n"))
	}
	return out
}

// A Remote is the state of the section for one clone.
type Remote struct {
	Name    string
	Present bool // as we would write it
	path    string
	text    []byte
	url     string
}

// Find reads the repository's configuration and finds the section of the
// clone that url names, or the name a new one gets: aivm-VM, and, if another
// clone in this VM has it already, one with a bit of the place's hash.
func Find(r hostgit.Repo, vm, dir string) (Remote, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(r.CommonDir, "config"))
	if err != nil {
		return Remote{}, fmt.Errorf("the repository's configuration: %w", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return Remote{}, fmt.Errorf("the repository's configuration: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > 8<<20 {
		return Remote{}, ui.Refused("%s is no configuration file of git", ui.Clean(path))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Remote{}, fmt.Errorf("the repository's configuration: %w", err)
	}
	sum := sha256.Sum256([]byte(dir))
	url := URL(vm, dir)
	names := []string{"aivm-" + vm, "aivm-" + vm + "-" + hex.EncodeToString(sum[:4])}
	for _, n := range names {
		for _, v := range variants(n, url) {
			if bytes.Contains(text, []byte(v)) {
				return Remote{Name: n, Present: true, path: path, text: text, url: url}, nil
			}
		}
	}
	for _, n := range names {
		if !strings.Contains(strings.ToLower(string(text)), strings.ToLower("[remote "+quoteValue(n)+"]")) {
			return Remote{Name: n, path: path, text: text, url: url}, nil
		}
		if sectionURL(text, n) == url {
			// Made or changed by hand, and it leads where ours would.
			return Remote{Name: n, Present: true, path: path, text: text, url: url}, nil
		}
	}
	q := shellescape.Quote(r.Top)
	return Remote{}, ui.Refused("the remote %s of %s is not aivm's: it leads to %s", names[0], ui.Clean(r.Top), ui.Clean(sectionURL(text, names[0]))).
		Hint(ui.CmdFor("see", "git -C "+q+" remote -v"), ui.CmdFor("rename it", "git -C "+q+" remote rename "+names[0]+" NAME"))
}

// sectionURL finds the url of a section, as simple lines have it.
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

// added is the configuration with the section.
func (m Remote) added() []byte {
	s := section(m.Name, m.url, endingOf(m.text))
	if i := bytes.IndexByte(m.text, '\n'); i > 0 && m.text[i-1] == '\r' {
		s = strings.ReplaceAll(s, "\n", "\r\n")
	}
	return append(bytes.Clone(m.text), s...)
}

// removed is the configuration without our section; ok is false if it holds
// none that is as we wrote it.
func (m Remote) removed() (out []byte, ok bool) {
	for _, v := range variants(m.Name, m.url) {
		if i := bytes.Index(m.text, []byte(v)); i >= 0 {
			before, after := m.text[:i], m.text[i+len(v):]
			if !sectionEnds(after) {
				return nil, false // lines of somebody's are part of it now
			}
			if first := len(v) - len(strings.TrimLeft(v, "\r\n")); first > 0 && len(after) > 0 {
				before = m.text[:i+first] // something follows now: the line before keeps its end
			}
			return append(bytes.Clone(before), after...), true
		}
	}
	return nil, false
}

// sectionEnds reports whether what follows belongs to no section before it.
func sectionEnds(after []byte) bool {
	for l := range strings.SplitSeq(string(after), "\n") {
		l = strings.TrimSpace(l)
		if l != "" && l[0] != '#' && l[0] != ';' {
			return l[0] == '['
		}
	}
	return true
}

// Path is the configuration file.
func (m Remote) Path() string { return m.path }

// AddDiff shows what Add changes.
func (m Remote) AddDiff() string {
	return string(diff.Diff(m.path, m.text, m.path, m.added()))
}

// RemoveDiff shows what Remove changes, "" if the section is not as aivm wrote
// it and stays.
func (m Remote) RemoveDiff() string {
	out, ok := m.removed()
	if !ok {
		return ""
	}
	return string(diff.Diff(m.path, m.text, m.path, out))
}

// Add writes the section.
func (m Remote) Add(ctx context.Context) error {
	if m.Present {
		return nil
	}
	return m.replace(ctx, m.added())
}

// Remove takes the section out, byte for byte what Add put in. A section
// somebody changed stays; removed says which it was.
func (m Remote) Remove(ctx context.Context) (removed bool, err error) {
	out, ok := m.removed()
	if !ok {
		return false, nil
	}
	return true, m.replace(ctx, out)
}

// lockPatience is how long a git that is at work on the configuration is waited
// for.
const lockPatience = 5 * time.Second

// replace writes the file as git does, under git's own lock, so that neither
// loses what the other writes.
func (m Remote) replace(ctx context.Context, text []byte) error {
	lock := m.path + ".lock"
	st, err := os.Stat(m.path)
	if err != nil {
		return err
	}
	var f *os.File
	for end := time.Now().Add(lockPatience); ; {
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
		return ui.Failed("%s is locked by a git that is at work, or was killed", ui.Clean(m.path)).
			Hint(ui.CmdFor("if no git runs there", "rm "+shellescape.Quote(lock)))
	}
	if err != nil {
		return ui.Failed("the repository's configuration cannot be written: %w", err).Hint(ui.Cmd("ls -ld " + shellescape.Quote(filepath.Dir(m.path))))
	}
	defer func() {
		if f != nil {
			_ = f.Close()
			_ = os.Remove(lock)
		}
	}()
	now, err := os.ReadFile(m.path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, m.text) {
		return ui.Failed("%s changed while it was looked at", ui.Clean(m.path)).Hint(ui.Remark("run the command again"))
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
