package settingsync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/hostfile"
)

// add reads a listed file or directory. From its first handle on, everything is
// reached below that handle and judged by what was opened: a guest that can
// write there may put links and pipes in the place of what was seen.
func (w *Wanted) add(entry, host, guest string) {
	real, err := resolve(host, w.Untrusted)
	var h *os.File
	if err == nil {
		h, err = hostfile.Open(real)
	}
	if errors.Is(err, fs.ErrNotExist) {
		w.Missing = append(w.Missing, entry)
		return
	}
	var st fs.FileInfo
	if err == nil {
		defer h.Close()
		st, err = h.Stat()
	}
	if err != nil {
		w.problem(entry, reason(err))
		return
	}
	w.parents(host, guest)
	if !st.IsDir() {
		w.file(entry, real, guest, h)
		return
	}
	t := tree{Wanted: w, entry: entry, host: host, guest: guest}
	w.Dirs = append(w.Dirs, Dir{guest, st.Mode().Perm() | 0o700})
	if err := t.dir(h, "."); err != nil {
		w.problem(entry, reason(err))
	}
}

// tree is a listed directory that is being read.
type tree struct {
	*Wanted
	entry, host, guest string
}

var errTooMany = fmt.Errorf("more than %d files: this is for settings; share a folder instead", maxFiles)

// dir reads the directory the handle h names, which lies at rel.
func (t *tree) dir(h *os.File, rel string) error {
	t.names += len(t.guest) + len(rel)
	names, more, err := hostfile.Names(h, maxPaths)
	if err != nil {
		if rel == "." {
			return err
		}
		t.problem(path.Join(t.host, rel), reason(err))
		return nil
	}
	if more {
		return errTooMany
	}
	slices.Sort(names)
	for _, name := range names {
		if err := t.one(h, name, path.Join(rel, name)); err != nil {
			return err
		}
	}
	return nil
}

// one reads the entry name of the directory dir.
func (t *tree) one(dir *os.File, name, rel string) error {
	t.names += len(t.guest) + len(rel)
	if len(t.Items) > maxFiles || t.names > maxPaths {
		return errTooMany
	}
	at, to := path.Join(t.host, rel), path.Join(t.guest, rel)
	if strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		t.problem(at, "a name with control characters is not sent")
		return nil
	}
	h, err := hostfile.At(dir, name)
	if err != nil {
		t.problem(at, reason(err))
		return nil
	}
	defer h.Close()
	st, err := h.Stat()
	switch {
	case err != nil:
		t.problem(at, reason(err))
	case st.IsDir():
		t.Dirs = append(t.Dirs, Dir{to, st.Mode().Perm() | 0o700})
		return t.dir(h, rel)
	case st.Mode()&fs.ModeSymlink != 0:
		t.link(h, rel)
	default:
		t.file(t.entry, at, to, h)
	}
	return nil
}

// link keeps a link inside the directory if it stays inside.
func (t *tree) link(h *os.File, rel string) {
	at := path.Join(t.host, rel)
	target, err := hostfile.Readlink(h)
	if err != nil {
		t.problem(at, reason(err))
		return
	}
	if rest, ok := strings.CutPrefix(target, t.host+"/"); ok {
		if target, err = filepath.Rel(filepath.Join("/", path.Dir(rel)), filepath.Join("/", rest)); err != nil {
			t.problem(at, reason(err))
			return
		}
	}
	inside := path.Join(path.Dir(rel), target)
	if path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../") {
		t.problem(at, "a link that leads out of the directory is not sent")
		return
	}
	t.Items = append(t.Items, Item{Host: at, Guest: path.Join(t.guest, rel), From: t.entry, Mode: 0o777, Link: target, Sum: "-> " + target})
}

// file reads the file the handle h names.
func (w *Wanted) file(entry, host, guest string, h *os.File) {
	f, st, err := hostfile.Reopen(h)
	if err != nil {
		w.problem(host, reason(err))
		return
	}
	defer f.Close()
	if st.Size() > maxFile || w.total+int(st.Size()) > maxTotal {
		w.problem(host, fmt.Sprintf("too large for a setting (%d MiB a file, %d MiB together)", maxFile>>20, maxTotal>>20))
		return
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil || len(b) > maxFile {
		w.problem(host, reason(err))
		return
	}
	w.total += len(b)
	it := Item{Host: host, Guest: guest, From: entry, Mode: st.Mode().Perm(), Time: st.ModTime(), Data: b}
	if isGitConfig(guest) && !w.filterGit(&it) {
		return
	}
	it.Sum = sum(it.Data)
	w.Items = append(w.Items, it)
}
