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

// add reads a listed file or directory. After opening it, everything is reached through that handle
// and checked after opening: a guest that can write there may replace files with links and pipes at
// any time.
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
		w.addProblem(entry, reason(err))
		return
	}
	w.addParents(host, guest)
	if !st.IsDir() {
		w.readFile(entry, real, guest, h)
		return
	}
	t := tree{Wanted: w, entry: entry, host: host, guest: guest}
	w.Dirs = append(w.Dirs, Dir{guest, st.Mode().Perm() | 0o700})
	if err := t.readDir(h, "."); err != nil {
		w.addProblem(entry, reason(err))
	}
}

// tree is a listed directory while it is read.
type tree struct {
	*Wanted
	entry, host, guest string
}

var errTooMany = fmt.Errorf("more than %d files, which is too many for settings; attach the folder instead", maxFiles)

// readDir reads the directory with the handle h and the relative path rel.
func (t *tree) readDir(h *os.File, rel string) error {
	t.names += len(t.guest) + len(rel)
	names, more, err := hostfile.Names(h, maxPaths)
	if err != nil {
		if rel == "." {
			return err
		}
		t.addProblem(path.Join(t.host, rel), reason(err))
		return nil
	}
	if more {
		return errTooMany
	}
	slices.Sort(names)
	for _, name := range names {
		if err := t.readEntry(h, name, path.Join(rel, name)); err != nil {
			return err
		}
	}
	return nil
}

// readEntry reads the entry name of the directory dir.
func (t *tree) readEntry(dir *os.File, name, rel string) error {
	t.names += len(t.guest) + len(rel)
	if len(t.Items) > maxFiles || t.names > maxPaths {
		return errTooMany
	}
	at, to := path.Join(t.host, rel), path.Join(t.guest, rel)
	if strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		t.addProblem(at, "names with control characters are not sent")
		return nil
	}
	h, err := hostfile.At(dir, name)
	if err != nil {
		t.addProblem(at, reason(err))
		return nil
	}
	defer h.Close()
	st, err := h.Stat()
	switch {
	case err != nil:
		t.addProblem(at, reason(err))
	case st.IsDir():
		t.Dirs = append(t.Dirs, Dir{to, st.Mode().Perm() | 0o700})
		return t.readDir(h, rel)
	case st.Mode()&fs.ModeSymlink != 0:
		t.readLink(h, rel)
	default:
		t.readFile(t.entry, at, to, h)
	}
	return nil
}

// readLink keeps a symbolic link whose target is inside the directory.
func (t *tree) readLink(h *os.File, rel string) {
	at := path.Join(t.host, rel)
	target, err := hostfile.Readlink(h)
	if err != nil {
		t.addProblem(at, reason(err))
		return
	}
	if rest, ok := strings.CutPrefix(target, t.host+"/"); ok {
		if target, err = filepath.Rel(filepath.Join("/", path.Dir(rel)), filepath.Join("/", rest)); err != nil {
			t.addProblem(at, reason(err))
			return
		}
	}
	inside := path.Join(path.Dir(rel), target)
	if path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../") {
		t.addProblem(at, "symbolic links out of the directory are not sent")
		return
	}
	t.Items = append(t.Items, Item{Host: at, Guest: path.Join(t.guest, rel), From: t.entry, Mode: 0o777, Link: target, Sum: "-> " + target})
}

// readFile adds the file with the handle h.
func (w *Wanted) readFile(entry, host, guest string, h *os.File) {
	it, err := w.readItem(entry, host, guest, h)
	if err != nil {
		w.addProblem(host, reason(err))
		return
	}
	it.git = isGitConfig(guest)
	w.Items = append(w.Items, it)
}

var errTooLarge = fmt.Errorf("too large for settings (at most %d MiB per file, %d MiB in total)", maxFile>>20, maxTotal>>20)

// readItem reads the file with the handle h, within the limits of a round.
func (w *Wanted) readItem(entry, host, guest string, h *os.File) (Item, error) {
	f, st, err := hostfile.Reopen(h)
	if err != nil {
		return Item{}, err
	}
	defer f.Close()
	if st.Size() > maxFile || w.total+int(st.Size()) > maxTotal {
		return Item{}, errTooLarge
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Item{}, err
	}
	if len(b) > maxFile {
		return Item{}, errTooLarge
	}
	w.total += len(b)
	return Item{Host: host, Guest: guest, From: entry, Mode: st.Mode().Perm(), Time: st.ModTime(), Data: b, Sum: sum(b)}, nil
}
