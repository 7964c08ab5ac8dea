package sshcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// One user can have several stores, with another XDG_CONFIG_HOME or HOME each. They share
// one ~/.ssh/config. Each store owns the block whose markers name its ConfigDir, and does
// not change other blocks.
const (
	storeBegin, storeBeginEnd = "# >>> aivm store ", " >>>"
	storeEnd, storeEndEnd     = "# <<< aivm store ", " <<<"
	storeGlob                 = "/aivm/ssh/*.conf" // end of the Include of every store
)

// markers returns the marker lines around the Include of the store with this ConfigDir.
func markers(configDir string) (begin, end string) {
	return storeBegin + configDir + storeBeginEnd, storeEnd + configDir + storeEndEnd
}

// markedStore returns the ConfigDir that a begin marker names; "" if the line is not a begin
// marker.
func markedStore(text string) string {
	dir, ok := strings.CutPrefix(text, storeBegin)
	if dir, end := strings.CutSuffix(dir, storeBeginEnd); ok && end {
		return dir
	}
	return ""
}

// store is the store of a Layout, with the other paths by which a configuration names its
// ConfigDir.
type store struct {
	Layout
	otherPaths map[string]bool
}

// storeIn returns the store of l, with the other paths that the configuration data uses for
// its ConfigDir.
func (l Layout) storeIn(data []byte) store { return store{l, l.spellings(data)} }

// spellings returns the paths other than ConfigDir, in markers and the Includes after them,
// that lead to the same directory as ConfigDir.
func (l Layout) spellings(data []byte) map[string]bool {
	var paths map[string]bool
	marked := false
	for _, x := range splitLines(data) {
		dir := markedStore(x.text)
		if marked = marked || dir != "" || x.text == beginMarker; dir == "" && marked {
			dir = includedStore(x.text)
		}
		if dir != "" && dir != l.ConfigDir && !paths[dir] && l.sameDir(dir) {
			if paths == nil {
				paths = map[string]bool{}
			}
			paths[dir] = true
		}
	}
	return paths
}

// isDir reports whether dir is this store's ConfigDir, also by another path.
func (l store) isDir(dir string) bool { return dir == l.ConfigDir || l.otherPaths[dir] }

// ownBlocks returns this store's blocks in the order of the file: those whose markers name
// its ConfigDir, by any path, and one of an earlier version if its Include names the
// ConfigDir. The error is a *markerError. Damaged markers of other stores are ignored.
func (l store) ownBlocks(ls []line) ([]block, error) {
	var own []block
	seen := map[string]bool{}
	dirs := []string{l.ConfigDir}
	for _, x := range ls {
		if dir := markedStore(x.text); dir != "" && l.isDir(dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		begin, end := markers(dir)
		b, err := findBlock(ls, begin, end)
		if err != nil {
			return nil, err
		}
		if b != nil {
			own = append(own, *b)
		}
	}
	b, err := findBlock(ls, beginMarker, endMarker)
	if err != nil {
		return nil, err
	}
	if b != nil && slices.ContainsFunc(ls[b.first+1:b.last], func(x line) bool { return l.isOwnInclude(x.text) }) {
		own = append(own, *b)
	}
	slices.SortFunc(own, func(a, b block) int { return a.first - b.first })
	for i := 1; i < len(own); i++ {
		if a, b := own[i-1], own[i]; b.first < a.last {
			return nil, &markerError{
				what:   fmt.Sprintf("the block that begins on line %d is inside the one that begins on line %d", b.first+1, a.first+1),
				remove: sorted(a.first+1, a.last+1, b.first+1, b.last+1),
			}
		}
	}
	return own, nil
}

func sorted(ns ...int) []int {
	slices.Sort(ns)
	return ns
}

// isOwnInclude reports whether a line is an Include of this store's files only.
func (l store) isOwnInclude(text string) bool {
	dir := includedStore(text)
	return dir != "" && l.isDir(dir)
}

// otherSpelling reports whether a line is an Include of this store's files by another path
// than ConfigDir, such as through a symlink.
func (l store) otherSpelling(text string) bool {
	dir := includedStore(text)
	return dir != l.ConfigDir && l.isOwnInclude(text)
}

// includedStore returns the absolute directory whose *.conf files a line includes; "" if the
// line is not an Include of exactly one such pattern.
func includedStore(text string) string {
	kw, args := parseLine(text)
	if kw != "include" || len(args) != 1 || !filepath.IsAbs(args[0]) {
		return ""
	}
	dir, ok := strings.CutSuffix(args[0], "/*.conf")
	if !ok {
		return ""
	}
	return dir
}

// sameDir reports whether dir is ConfigDir or another path to the same directory.
func (l Layout) sameDir(dir string) bool {
	if dir == l.ConfigDir {
		return true
	}
	if !filepath.IsAbs(dir) {
		return false
	}
	a, err := os.Stat(l.ConfigDir)
	if err != nil {
		return false
	}
	b, err := os.Stat(dir)
	return err == nil && os.SameFile(a, b)
}

// onlyStores reports whether the lines are only comments and marked Includes of stores. The
// files of a store only apply to its own VMs.
func onlyStores(ls []line) bool {
	marked := false
	for _, x := range ls {
		switch {
		case x.text == "":
		case x.text[0] == '#':
			marked = x.text == beginMarker || markedStore(x.text) != ""
		case marked && strings.HasSuffix(includedStore(x.text)+"/*.conf", storeGlob):
		default:
			return false
		}
	}
	return true
}

// GoneStore is a marked Include line of a store whose directory does not exist.
type GoneStore struct {
	File string
	Line int
	Dir  string
}

func (g GoneStore) String() string {
	return fmt.Sprintf("line %d of %s includes %s, which does not exist; if you no longer use that config, remove the line and its two markers", g.Line, g.File, g.Dir)
}

// GoneStores returns the marked Include lines in the user's configuration whose directory
// does not exist. They do no harm, and aivm does not change them: the directory may be on a
// disk that is not mounted.
func GoneStores(l Layout) []GoneStore {
	f, err := readFile(l.sshConfig())
	if err != nil {
		return nil
	}
	var gone []GoneStore
	marked := false
	for i, x := range splitLines(f.Data) {
		switch {
		case x.text == "":
		case x.text[0] == '#':
			marked = x.text == beginMarker || markedStore(x.text) != ""
		case marked:
			dir := includedStore(x.text)
			if dir == "" || l.sameDir(dir) {
				continue
			}
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				gone = append(gone, GoneStore{File: f.Path, Line: i + 1, Dir: dir})
			}
		}
	}
	return gone
}

// storeOf returns the ConfigDir of the store that wrote file for a VM with this alias; "" if
// file is not such a file.
func storeOf(file, alias string) string {
	dir := filepath.Dir(file)
	if filepath.Base(file) != alias+".conf" || !strings.HasSuffix(dir+"/*.conf", storeGlob) {
		return ""
	}
	f, err := readFile(file)
	if err != nil || !f.Exists {
		return ""
	}
	if s, err := ParseEntry(f.Data); err != nil || s.Alias != alias {
		return ""
	}
	return dir
}

// storeClash returns the error for an alias that a VM of another store has.
func storeClash(c Clash, alias string) error {
	config := filepath.Join(filepath.Dir(c.Store), "config.toml")
	return ui.Refused("%w: another config of aivm, %s, has a VM %s (%s)", ErrAliasTaken, config, alias, c).
		Hint(ui.CmdFor("to give this VM another name", "aivm vm create NAME"), ui.CmdFor("to list the VMs of the other config", "aivm --config "+shellescape.Quote(config)+" list"))
}

// lockConfig takes the lock that all stores of the user share. The stores' own locks are
// not sufficient, since they are in different state directories. The lock is a file next to
// the configuration, which exists while the lock is held. Nothing is written into it and no
// link is followed, since other users may be able to write the directory.
func (l Layout) lockConfig(ctx context.Context, target string) (unlock func(), err error) {
	path := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".aivm-lock")
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	for {
		f, err := openLock(path)
		switch {
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			return nil, ui.Failed("locking %s: %w", target, err).Hint(ui.Cmd("df -h " + shellescape.Quote(filepath.Dir(target))))
		case errors.Is(err, errBadLockFile):
			return nil, ui.Failed("locking %s: %w", target, err).Hint(ui.CmdFor("to see what it is", "ls -ld "+shellescape.Quote(path)))
		case err != nil:
			return nil, l.readOnly(err)
		}
		ok, err := tryLock(f, path)
		if err != nil {
			f.Close()
			return nil, ui.Failed("locking %s: %w", target, err).Hint(ui.Cmd("ls -ld " + shellescape.Quote(path)))
		}
		if ok {
			return func() {
				os.Remove(path) //nolint:errcheck // if it stays, the next run locks it
				f.Close()
			}, nil
		}
		f.Close()
		select {
		case <-ctx.Done():
			return nil, ui.Failed("waiting for %s, held by another aivm: %w", path, ctx.Err()).Hint(ui.CmdFor("to see which process holds it", "fuser -v "+shellescape.Quote(path)))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lockLimit is how long a run waits while other runs write the configuration.
const lockLimit = 30 * time.Second

var errBadLockFile = errors.New("the lock file is not a plain file of this user")

// openLock opens or creates a lock file. O_NONBLOCK is set since the file may be a FIFO.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENXIO) {
		return nil, fmt.Errorf("%w: %s", errBadLockFile, path)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		if s, ok := st.Sys().(*syscall.Stat_t); !st.Mode().IsRegular() || !ok || int(s.Uid) != os.Geteuid() {
			err = fmt.Errorf("%w: %s", errBadLockFile, path)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tryLock locks an open file. It returns false if another process holds the lock, or if the
// file is no longer the one at path, because its last holder removed it.
func tryLock(f *os.File, path string) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	locked, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(locked, there), err
}
