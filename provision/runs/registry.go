package runs

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
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
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Record describes a run.
type Record struct {
	Schema   int       `json:"schema"`
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	State    string    `json:"state"` // running
	Folder   string    `json:"folder"`
	Template string    `json:"template"`
	Argv     []string  `json:"argv"`
	Started  time.Time `json:"started"`
	Exit     *int      `json:"exit"`
	Net      string    `json:"net"` // none, open
	PID      int       `json:"pid"`
}

// Registry is the directory of this user's runs.
type Registry struct{ Dir string }

const (
	recordName  = "run.json"
	lockName    = "lock"
	controlName = "control"
	newPrefix   = ".new-"
	maxRecord   = 64 << 10
	maxRuns     = 4096
	settle      = 10 * time.Second // a directory younger than this may be of a run that starts
)

// At returns the registry of a user: below runtime ($XDG_RUNTIME_DIR) if that is a directory of the
// user, else below state ($XDG_STATE_HOME/aivm).
func At(runtime, state string, uid int) Registry {
	if filepath.IsAbs(runtime) {
		var st unix.Stat_t
		if unix.Stat(runtime, &st) == nil && int(st.Uid) == uid && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return Registry{filepath.Join(runtime, "aivm", "runs")}
		}
	}
	return Registry{filepath.Join(state, "runs")}
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// CheckName returns an error for a name that a run cannot have.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return ui.Usage("%q is no name of a run: it has 1 to 32 small letters, digits and hyphens between them", ui.CleanTo(name, 64))
	}
	return nil
}

// NewID returns a random name of a run.
func NewID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return "r" + hex.EncodeToString(b[:])
}

// Registered is the entry of the run of this process.
type Registered struct {
	Record
	dir  string
	lock *os.File
}

// Register records a run of this process. A name that another run has is refused; without one, the
// name is the ID.
func (r Registry) Register(rec Record) (*Registered, error) {
	if rec.Name != "" {
		if err := CheckName(rec.Name); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return nil, ui.Failed("recording the run: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if rec.Name != "" { // names are given out one at a time
		names, err := lockFile(filepath.Join(r.Dir, ".names"), unix.LOCK_EX)
		if err != nil {
			return nil, ui.Failed("recording the run: %w", err)
		}
		defer names.Close()
	}
	all, err := r.List() // it also removes the records of runs that were killed
	if err != nil {
		return nil, err
	}
	if rec.Name != "" {
		if slices.ContainsFunc(all, func(o Record) bool { return o.Name == rec.Name || o.ID == rec.Name }) {
			return nil, ui.Refused("a run named %s is there already", rec.Name).
				Hint(ui.CmdFor("run a command in it", "aivm runs exec "+rec.Name+" -- COMMAND"), ui.CmdFor("or stop it", "aivm runs stop "+rec.Name))
		}
	}
	rec.Schema, rec.ID, rec.State, rec.PID = 1, NewID(), "running", os.Getpid()
	if rec.Name == "" {
		rec.Name = rec.ID
	}
	rec.Started = rec.Started.UTC().Truncate(time.Millisecond)
	reg, err := r.create(rec)
	if err != nil {
		return nil, ui.Failed("recording the run: %w", err)
	}
	return reg, nil
}

// check refuses a directory of runs in which others could put runs of theirs, or remove this user's.
func (r Registry) check() error {
	for _, dir := range []string{filepath.Dir(r.Dir), r.Dir} {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return ui.Failed("reading the runs: %s: %w", dir, err)
		}
		switch {
		case int(st.Uid) != os.Geteuid():
			return ui.Refused("%s, which has the records of runs, belongs to another user", ui.Clean(dir))
		case st.Mode&0o022 != 0:
			return ui.Refused("others can write %s, which has the records of runs", ui.Clean(dir)).
				Hint(ui.CmdFor("look at what is in it, then", "chmod go-w "+shellescape.Quote(dir)))
		}
	}
	return nil
}

// create makes the directory of a run under another name, so that nobody sees it without its lock.
func (r Registry) create(rec Record) (reg *Registered, err error) {
	temp, dir := filepath.Join(r.Dir, newPrefix+rec.ID), filepath.Join(r.Dir, rec.ID)
	if err := os.Mkdir(temp, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			removeRun(temp)
		}
	}()
	lock, err := lockFile(filepath.Join(temp, lockName), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(rec)
	if err == nil && len(text) > maxRecord { // a very long command line
		rec.Argv = []string{ui.CleanTo(rec.Argv[0], 200), "..."}
		text, err = json.Marshal(rec)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(temp, recordName), text, 0o600)
	}
	if err == nil {
		err = os.Rename(temp, dir)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Registered{Record: rec, dir: dir, lock: lock}, nil
}

// lockFile opens the file, creating it, and locks it as how says. Closing the file releases the lock.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// Close removes the run's directory.
func (g *Registered) Close() {
	removeRun(g.dir)
	_ = g.lock.Close()
}

// removeRun removes a run's directory. It removes what aivm makes there and nothing else.
func removeRun(dir string) {
	for _, name := range []string{controlName, recordName, lockName} {
		_ = os.Remove(filepath.Join(dir, name))
	}
	_ = os.Remove(dir)
}

// List returns the runs that are alive, oldest first, and removes the directories of those that are not.
func (r Registry) List() ([]Record, error) {
	entries, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ui.Failed("reading the runs: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	var out []Record
	for _, e := range entries[:min(len(entries), maxRuns)] {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(e.Name(), newPrefix) {
			continue
		}
		dir := filepath.Join(r.Dir, e.Name())
		if !alive(dir) {
			removeRun(dir)
			continue
		}
		if rec, err := read(dir); err == nil && rec.ID == e.Name() {
			out = append(out, rec)
		}
	}
	slices.SortStableFunc(out, func(a, b Record) int { return a.Started.Compare(b.Started) })
	return out, nil
}

// alive reports whether a process holds the lock of the run, or may be about to take it.
func alive(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err == nil {
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return true
		}
	}
	st, err := os.Lstat(dir)
	return err == nil && strings.HasPrefix(filepath.Base(dir), newPrefix) && time.Since(st.ModTime()) < settle
}

func read(dir string) (Record, error) {
	f, err := os.OpenFile(filepath.Join(dir, recordName), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	b := make([]byte, maxRecord+1)
	n, err := f.Read(b)
	if err != nil || n > maxRecord {
		return Record{}, errors.New("no record of a run")
	}
	var rec Record
	err = json.Unmarshal(b[:n], &rec)
	return rec, err
}

// Find returns the run with a name or ID.
func (r Registry) Find(name string) (Record, error) {
	all, err := r.List()
	if err != nil {
		return Record{}, err
	}
	if i := slices.IndexFunc(all, func(o Record) bool { return o.Name == name || o.ID == name }); i >= 0 {
		return all[i], nil
	}
	e := ui.Refused("there is no run named %s", ui.CleanTo(name, 64))
	if len(all) > 0 {
		return Record{}, e.Hint(ui.CmdFor("the runs that are there", "aivm runs"))
	}
	return Record{}, e.Hint(ui.Remark("nothing runs now"))
}
