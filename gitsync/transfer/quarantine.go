package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/ui"
)

// A quarantine is an object store of its own for what a guest sends. What is in
// it is no part of the repository before admit. Its name is one `git gc` tidies
// up by itself, should nobody else.
type quarantine struct {
	h   compare.Host
	dir string
}

const quarantinePrefix = "tmp_objdir-aivm-"

// newQuarantine also removes what killed runs left; the caller holds the lock
// of this repository, so none of them is in use.
func newQuarantine(h compare.Host) (*quarantine, error) {
	dropQuarantines(h)
	dir, err := os.MkdirTemp(h.Objects(), quarantinePrefix+"*")
	if err != nil {
		return nil, ui.Failed("the repository cannot be written: %w", err).Hint(ui.Cmd("ls -ld "+h.Objects()), ui.Cmd("df -h "+h.Objects()))
	}
	if err := os.Mkdir(filepath.Join(dir, "pack"), 0o777); err != nil {
		return nil, err
	}
	return &quarantine{h: h, dir: dir}, nil
}

func dropQuarantines(h compare.Host) {
	left, _ := filepath.Glob(filepath.Join(h.Objects(), quarantinePrefix+"*"))
	for _, d := range left {
		dropQuarantine(d)
	}
}

// dropQuarantine removes the files we can have made, and the directories if
// nothing else is in them: never a tree.
func dropQuarantine(dir string) {
	for _, sub := range []string{"pack", "info", ""} {
		d := filepath.Join(dir, sub)
		es, err := os.ReadDir(d)
		if err != nil {
			continue
		}
		for _, e := range es {
			if !e.IsDir() {
				_ = os.Remove(filepath.Join(d, e.Name()))
			} else if sub == "" && len(e.Name()) == 2 { // loose objects
				in, _ := os.ReadDir(filepath.Join(d, e.Name()))
				for _, o := range in {
					_ = os.Remove(filepath.Join(d, e.Name(), o.Name()))
				}
				_ = os.Remove(filepath.Join(d, e.Name()))
			}
		}
		if sub != "" {
			_ = os.Remove(d)
		}
	}
	_ = os.Remove(dir)
}

func (q *quarantine) drop() { dropQuarantine(q.dir) }

// env makes git write to the quarantine and read the repository's objects
// beside it.
func (q *quarantine) env() []string {
	return []string{"GIT_OBJECT_DIRECTORY=" + q.dir, "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + q.h.Objects()}
}

// index takes a pack apart: each object is unpacked, hashed and checked
// (--strict), and deltas against objects we have are completed.
func (q *quarantine) index(ctx context.Context, pack io.Reader, lim Limits) error {
	_, err := hostgit.Run(ctx, hostgit.Call{
		Repo: q.h.Repo, Env: q.env(), Stdin: pack, Memory: lim.Memory, CPU: uint64(lim.CPU.Seconds()),
		Args: []string{
			"-c", "pack.threads=2", "-c", "core.bigFileThreshold=32m", "-c", "pack.deltaCacheLimit=0",
			"index-pack", "--strict", "--stdin", "--fix-thin", fmt.Sprintf("--max-input-size=%d", lim.Bytes),
		},
	})
	return err
}

// complete says whether all that wants need is there: a guest can name a
// commit and send something else. What its history holds that the repository
// reaches already is not looked at again.
func (q *quarantine) complete(ctx context.Context, wants []string) error {
	in := strings.Join(wants, "\n") + "\n"
	_, err := hostgit.Run(ctx, hostgit.Call{
		Repo: q.h.Repo, Env: append(q.env(), "GIT_NO_LAZY_FETCH=1"), Stdin: strings.NewReader(in), Stdout: io.Discard,
		Args: append(q.h.MissingOK(), "--objects", "--quiet", "--stdin", "--not", "--all"),
	})
	return err
}

// kinds returns the types of objects, as the repository with the quarantine
// has them.
func (q *quarantine) kinds(ctx context.Context, oids []string) (map[string]string, error) {
	b, err := hostgit.Run(ctx, hostgit.Call{
		Repo: q.h.Repo, Env: append(q.env(), "GIT_NO_LAZY_FETCH=1"), Args: []string{"cat-file", "--batch-check=%(objectname) %(objecttype)"},
		Stdin: strings.NewReader(strings.Join(oids, "\n") + "\n"),
	})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, l := range hostgit.Lines(b) {
		if oid, kind, ok := strings.Cut(l, " "); ok && kind != "missing" {
			out[oid] = kind
		}
	}
	return out, nil
}

// admit moves what is in the quarantine into the repository: a pack before its
// index, because only what has an index is looked at.
func (q *quarantine) admit() error {
	packs := filepath.Join(q.h.Objects(), "pack")
	if err := os.MkdirAll(packs, 0o777); err != nil {
		return err
	}
	es, err := os.ReadDir(filepath.Join(q.dir, "pack"))
	if err != nil {
		return err
	}
	rank := map[string]int{".pack": 0, ".rev": 1, ".idx": 2}
	slices.SortFunc(es, func(a, b fs.DirEntry) int { return rank[filepath.Ext(a.Name())] - rank[filepath.Ext(b.Name())] })
	for _, e := range es {
		if _, ok := rank[filepath.Ext(e.Name())]; !ok || e.IsDir() {
			continue
		}
		if err := move(filepath.Join(q.dir, "pack", e.Name()), filepath.Join(packs, e.Name())); err != nil {
			return err
		}
	}
	es, err = os.ReadDir(q.dir)
	if err != nil {
		return err
	}
	for _, e := range es { // loose objects
		if !e.IsDir() || len(e.Name()) != 2 {
			continue
		}
		to := filepath.Join(q.h.Objects(), e.Name())
		if err := os.MkdirAll(to, 0o777); err != nil {
			return err
		}
		in, err := os.ReadDir(filepath.Join(q.dir, e.Name()))
		if err != nil {
			return err
		}
		for _, o := range in {
			if err := move(filepath.Join(q.dir, e.Name(), o.Name()), filepath.Join(to, o.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// move never replaces a file: one of that name has that content.
func move(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		// A file system without hard links.
		return os.Rename(from, to)
	}
	return os.Remove(from)
}
