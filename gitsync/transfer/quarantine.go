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

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/ui"
)

// A quarantine is a separate object store for what a guest sends. Its content is not part of the
// repository before admit. `git gc` removes directories with this name prefix, should aivm not do
// so.
type quarantine struct {
	h   compare.Host
	dir string
}

const quarantinePrefix = "tmp_objdir-aivm-"

// newQuarantine creates a quarantine. It also removes those of killed runs: the caller holds the
// lock of this repository, so none is in use.
func newQuarantine(h compare.Host) (*quarantine, error) {
	dropQuarantines(h)
	dir, err := os.MkdirTemp(h.Objects(), quarantinePrefix+"*")
	if err != nil {
		return nil, ui.Failed("writing to the repository: %w", err).Hint(ui.Cmd("ls -ld "+shellescape.Quote(h.Objects())), ui.Cmd("df -h "+shellescape.Quote(h.Objects())))
	}
	if err := os.Mkdir(filepath.Join(dir, "pack"), 0o777); err != nil {
		return nil, err
	}
	return &quarantine{h: h, dir: dir}, nil
}

func dropQuarantines(h compare.Host) {
	stale, _ := filepath.Glob(filepath.Join(h.Objects(), quarantinePrefix+"*"))
	for _, d := range stale {
		dropQuarantine(d)
	}
}

// dropQuarantine removes the files aivm and git can have created in it, and then its directories if
// they are empty. It never removes a tree recursively.
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

// env returns the variables that make git write to the quarantine and also read the repository's
// objects.
func (q *quarantine) env() []string {
	return []string{"GIT_OBJECT_DIRECTORY=" + q.dir, "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + q.h.Objects()}
}

// index indexes a pack: git unpacks, hashes and checks each object (--strict), and completes deltas
// against the repository's objects. The faults that git accepted are counted in seen.
func (q *quarantine) index(ctx context.Context, pack io.Reader, lim Limits, seen faults) error {
	accept, err := faultSeverities(ctx, q.h)
	if err != nil {
		return err
	}
	_, err = hostgit.Run(ctx, hostgit.Call{
		Repo: q.h.Repo, Env: q.env(), Stdin: pack, Stderr: seen.reader(), Memory: lim.Memory, CPU: uint64(lim.CPU.Seconds()),
		Args: []string{
			"-c", "pack.threads=2", "-c", "core.bigFileThreshold=32m", "-c", "pack.deltaCacheLimit=0",
			"index-pack", accept.strict(), "--stdin", "--fix-thin", fmt.Sprintf("--max-input-size=%d", lim.Bytes),
		},
	})
	return err
}

// complete fails unless everything that wants need is present: a guest can advertise a commit and
// send something else. History that the repository's refs already reach is not checked again.
func (q *quarantine) complete(ctx context.Context, wants []string) error {
	in := strings.Join(wants, "\n") + "\n"
	_, err := hostgit.Run(ctx, hostgit.Call{
		Repo: q.h.Repo, Env: append(q.env(), "GIT_NO_LAZY_FETCH=1"), Stdin: strings.NewReader(in), Stdout: io.Discard,
		Args: append(q.h.ConnectivityArgs(), "--objects", "--quiet", "--stdin", "--not", "--all"),
	})
	return err
}

// kinds returns the types of objects in the repository and the quarantine.
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

// admit moves the quarantine's content into the repository: a pack before its index, since git only
// uses packs that have an index.
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

// move does not replace an existing file: one of that name has the same content.
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
