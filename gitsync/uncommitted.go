package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/internal/ui"
)

// An Uncommitted is the state of the host's work tree as a commit that is in no
// branch and in no object store of the repository's.
type Uncommitted struct {
	Commit string
	Files  int
	env    []string
	dir    string
}

// Drop removes what was made for it.
func (u *Uncommitted) Drop() {
	if u.dir != "" {
		_ = os.RemoveAll(u.dir) // ours, in the temporary directory; nothing is mounted there
	}
}

// Capture writes the work tree, untracked files too and ignored ones not, as a
// commit on top of Head. Index, files, branch and objects of the repository
// stay as they are: it works with a copy of the index and an object store of
// its own. The same state gives the same commit.
func Capture(ctx context.Context, h compare.Host) (*Uncommitted, error) {
	dir, err := os.MkdirTemp("", "aivm-wip-")
	if err != nil {
		return nil, err
	}
	u := &Uncommitted{dir: dir}
	u.env = []string{"GIT_OBJECT_DIRECTORY=" + filepath.Join(dir, "objects"), "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + h.Objects()}
	if err := u.capture(ctx, h); err != nil {
		u.Drop()
		return nil, err
	}
	return u, nil
}

func (u *Uncommitted) capture(ctx context.Context, h compare.Host) error {
	index := filepath.Join(u.dir, "index")
	if err := os.Mkdir(filepath.Join(u.dir, "objects"), 0o700); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(h.Repo.GitDir, "index"), index); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	env := append([]string{"GIT_INDEX_FILE=" + index}, u.env...)
	if err := unfiltered(ctx, h.Repo, env); err != nil {
		return err
	}
	quiet, err := h.Repo.Quiet(ctx)
	if err != nil {
		return err
	}
	git := func(args ...string) (string, error) {
		b, err := hostgit.Run(ctx, hostgit.Call{Repo: h.Repo, Env: env, Also: quiet, Args: append([]string{"-c", "core.safecrlf=false", "-c", "advice.addEmbeddedRepo=false", "-c", "core.splitIndex=false"}, args...)})
		return strings.TrimRight(string(b), "\n"), err
	}
	if _, err := git("add", "-A"); err != nil {
		return ui.Failed("what is not committed in %s could not be read: %w", ui.Clean(h.Repo.Top), err).Hint(ui.Cmd("git -C " + shellescape.Quote(h.Repo.Top) + " status"))
	}
	names, err := git("diff-index", "--cached", "--name-only", "-z", h.Head, "--")
	if err != nil {
		return hostgit.ReadError(h.Repo, err)
	}
	if u.Files = strings.Count(names, "\x00"); u.Files == 0 {
		u.Commit = h.Head
		return nil
	}
	tree, err := git("write-tree")
	if err != nil {
		return hostgit.ReadError(h.Repo, err)
	}
	when, err := git("show", "-s", "--format=%ct", h.Head, "--")
	if err != nil {
		return hostgit.ReadError(h.Repo, err)
	}
	b, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Stdin: strings.NewReader("uncommitted state of " + h.Branch + ", sent by aivm\n"),
		Env: append([]string{
			"GIT_AUTHOR_NAME=aivm", "GIT_AUTHOR_EMAIL=aivm@localhost", "GIT_COMMITTER_NAME=aivm", "GIT_COMMITTER_EMAIL=aivm@localhost",
			"GIT_AUTHOR_DATE=" + when + " +0000", "GIT_COMMITTER_DATE=" + when + " +0000",
		}, env...),
		Args: []string{"-c", "commit.gpgSign=false", "commit-tree", "-p", h.Head, "-F", "-", tree},
	})
	u.Commit = strings.TrimSpace(string(b))
	return err
}

// unfiltered refuses a state with files that pass through a filter, which aivm
// does not run: without it they would be sent as they are here, a file that is
// kept encrypted in clear.
func unfiltered(ctx context.Context, r hostgit.Repo, env []string) error {
	es, err := r.Status(ctx, env, "--untracked-files=all", "--no-renames")
	if err != nil {
		return err
	}
	for _, e := range es {
		if e.Filter != "" {
			q := shellescape.Quote(r.Top)
			return ui.Refused("what is not committed in %s was not sent: %s passes through the filter %s, and aivm runs no filters", ui.Clean(r.Top), ui.Clean(e.Path), ui.Clean(e.Filter)).
				Hint(ui.CmdFor("if it only looks changed", "git -C "+q+" status, then again"),
					ui.CmdFor("else commit it", "git -C "+q+" add "+shellescape.Quote(e.Path)+" && git -C "+q+" commit -m wip, then: aivm git push "+q))
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// SendUncommitted sends the uncommitted state to refs/aivm/wip/BRANCH of the
// guest and shows it in its work tree where that loses nothing. The branch has
// been pushed. said is what became of it.
func SendUncommitted(ctx context.Context, p transfer.Peer, h compare.Host, g *compare.Guest) (said string, err error) {
	u, err := Capture(ctx, h)
	if err != nil {
		return "", err
	}
	defer u.Drop()
	ref := "refs/aivm/wip/" + h.Branch
	if u.Commit == h.Head && g.Wip["refs/aivm/shown/"+h.Branch] == "" {
		return "Nothing is uncommitted here", nil
	}
	if u.Commit != h.Head && g.Wip[ref] != u.Commit {
		known := append(compare.Known(h, *g), g.Heads[h.Branch])
		if _, err := transfer.Push(ctx, p, h, []compare.RefUpdate{{Ref: ref, Old: g.Wip[ref], New: u.Commit}}, known, u.env); err != nil {
			return "", err
		}
		g.Wip[ref] = u.Commit
	}
	what := fmt.Sprintf("The uncommitted state here (%d files) is %s in VM %s", u.Files, ref, p.VM)
	out, code, err := p.Script(ctx, "showing the uncommitted state in the clone", guestscript.Apply, p.Dir, h.Branch, u.Commit, h.Head)
	if err != nil {
		return "", err
	}
	switch {
	case code == 100 && u.Commit == h.Head:
		return "Nothing is uncommitted here, and nothing of what was is left in VM " + p.VM, nil
	case code == 100:
		return what + ", and its folder shows it", nil
	case code == 101:
		return what + fmt.Sprintf("; its folder stays as it is, since branch %s is not checked out there as it is here", ui.Clean(h.Branch)), nil
	}
	list := ""
	for i, f := range hostgit.ParseStatus(out) {
		if i == 10 {
			list += " ..."
			break
		}
		list += " " + ui.CleanTo(f.Path, 100)
	}
	return what + "; its folder stays as it is, since it has changes of its own:" + list, nil
}
