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

// One person can have several stores: another XDG_CONFIG_HOME, another HOME.
// They share one ~/.ssh/config, in which each owns the block whose markers name
// its ConfigDir, and touches no other.
const (
	storeBegin, storeBeginEnd = "# >>> aivm store ", " >>>"
	storeEnd, storeEndEnd     = "# <<< aivm store ", " <<<"
	storeGlob                 = "/aivm/ssh/*.conf" // how every store's Include ends
)

// markers returns the lines round the Include of the store with this ConfigDir.
func markers(configDir string) (begin, end string) {
	return storeBegin + configDir + storeBeginEnd, storeEnd + configDir + storeEndEnd
}

// markedStore returns the ConfigDir a begin marker names, "" if the line is none.
func markedStore(text string) string {
	dir, ok := strings.CutPrefix(text, storeBegin)
	if dir, end := strings.CutSuffix(dir, storeBeginEnd); ok && end {
		return dir
	}
	return ""
}

// store is the store of a Layout, and by which other paths than ConfigDir a
// configuration names its directory.
type store struct {
	Layout
	same map[string]bool
}

// in is the store as data, a configuration, names it.
func (l Layout) in(data []byte) store { return store{l, l.spellings(data)} }

// spellings are the directories in data, named by markers or by an Include below
// one, that are this store's by another path.
func (l Layout) spellings(data []byte) map[string]bool {
	var same map[string]bool
	marked := false
	for _, x := range splitLines(data) {
		dir := markedStore(x.text)
		if marked = marked || dir != "" || x.text == beginMarker; dir == "" && marked {
			dir = includedStore(x.text)
		}
		if dir != "" && dir != l.ConfigDir && !same[dir] && l.sameDir(dir) {
			if same == nil {
				same = map[string]bool{}
			}
			same[dir] = true
		}
	}
	return same
}

// is reports whether dir is this store's directory.
func (l store) is(dir string) bool { return dir == l.ConfigDir || l.same[dir] }

// ownBlocks finds this store's blocks in the order of the file: the one whose
// markers name it, under whatever spelling of the directory, and one of an
// earlier version if its Include names this store's directory. The error is a
// markerError; damaged markers of other stores are not looked for.
func (l store) ownBlocks(ls []line) ([]block, error) {
	var own []block
	seen := map[string]bool{}
	dirs := []string{l.ConfigDir}
	for _, x := range ls {
		if dir := markedStore(x.text); dir != "" && l.is(dir) {
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
	if b != nil && slices.ContainsFunc(ls[b.first+1:b.last], func(x line) bool { return l.mine(x.text) }) {
		own = append(own, *b)
	}
	slices.SortFunc(own, func(a, b block) int { return a.first - b.first })
	for i := 1; i < len(own); i++ {
		if a, b := own[i-1], own[i]; b.first < a.last {
			return nil, &markerError{
				what:   fmt.Sprintf("the block that begins on line %d stands inside the one that begins on line %d", b.first+1, a.first+1),
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

// mine reports whether a line is an Include of this store's files alone.
func (l store) mine(text string) bool {
	dir := includedStore(text)
	return dir != "" && l.is(dir)
}

// otherSpelling reports whether a line is an Include of this store's files by
// another path, such as through a link.
func (l store) otherSpelling(text string) bool {
	dir := includedStore(text)
	return dir != l.ConfigDir && l.mine(text)
}

// includedStore returns the absolute directory whose *.conf files a line
// includes, and nothing else; "" if the line is no such Include.
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

// sameDir reports whether dir is this store's directory by another path.
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

// onlyStores reports whether lines hold nothing but comments and the marked
// Includes of stores, whose files say something about their own VMs only.
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
	return fmt.Sprintf("line %d of %s includes %s, which does not exist; remove it with its two markers if that config is gone for good", g.Line, g.File, g.Dir)
}

// GoneStores lists the marked lines in the user's configuration that include a
// directory which does not exist. They do no harm and are never changed: the
// directory may be on a disk that is not mounted.
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

// storeOf returns the ConfigDir of the store that wrote file for a VM of this
// alias, "" if it is no such file.
func storeOf(file, alias string) string {
	dir := filepath.Dir(file)
	if filepath.Base(file) != alias+".conf" || !strings.HasSuffix(dir+"/*.conf", storeGlob) {
		return ""
	}
	f, err := readFile(file)
	if err != nil || !f.Exists {
		return ""
	}
	if s, err := ParseOurs(f.Data); err != nil || s.Alias != alias {
		return ""
	}
	return dir
}

// storeClash is the error for a name that a VM of another store has.
func storeClash(c Clash, alias string) error {
	config := filepath.Join(filepath.Dir(c.Store), "config.toml")
	return ui.Refused("%w: another config of aivm, %s, has a VM %s (%s)", ErrAliasTaken, config, alias, c).
		Hint(ui.CmdFor("give this VM another name", "aivm vm create NAME"), ui.CmdFor("see what the other config has", "aivm --config "+shellescape.Quote(config)+" list"))
}

// lockBeside takes the lock on the file that every store of this person shares:
// the state directories, with the stores' own locks, may differ. The lock is a
// file beside the configuration, there for as long as it is held. Nothing is
// written into it and no link is followed: the directory may be a shared one.
func (l Layout) lockBeside(ctx context.Context, target string) (unlock func(), err error) {
	path := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".aivm-lock")
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	for {
		f, err := openLock(path)
		switch {
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			return nil, ui.Failed("locking %s: %w", target, err).Hint(ui.Cmd("df -h " + shellescape.Quote(filepath.Dir(target))))
		case errors.Is(err, errNotOurs):
			return nil, ui.Failed("locking %s: %w", target, err).Hint(ui.CmdFor("see what it is", "ls -ld "+shellescape.Quote(path)))
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
				os.Remove(path) //nolint:errcheck // one that stays is taken by the next run
				f.Close()
			}, nil
		}
		f.Close()
		select {
		case <-ctx.Done():
			return nil, ui.Failed("waiting for %s, held by another aivm: %w", path, ctx.Err()).Hint(ui.CmdFor("see who has it", "fuser -v "+shellescape.Quote(path)))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lockLimit is how long a run waits for others that write the configuration.
const lockLimit = 30 * time.Second

var errNotOurs = errors.New("the lock file is not a plain file of this user")

// openLock opens or makes a lock file. O_NONBLOCK: it may be a FIFO.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENXIO) {
		return nil, fmt.Errorf("%w: %s", errNotOurs, path)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		if s, ok := st.Sys().(*syscall.Stat_t); !st.Mode().IsRegular() || !ok || int(s.Uid) != os.Geteuid() {
			err = fmt.Errorf("%w: %s", errNotOurs, path)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tryLock locks an open file, if it is still the one that others find at path:
// who held it removed it.
func tryLock(f *os.File, path string) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}
