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

// An Uncommitted holds the state of the host's work tree as a commit that is on no branch and in
// none of the repository's object stores.
type Uncommitted struct {
	Commit string
	Files  int
	env    []string
	dir    string
}

// Drop removes the temporary directory.
func (u *Uncommitted) Drop() {
	if u.dir != "" {
		_ = os.RemoveAll(u.dir) // created by Capture; nothing is mounted in it
	}
}

// Capture writes the work tree, with untracked and without ignored files, as a commit on top of
// Head. It uses a copy of the index and a temporary object store, so the repository's index, files,
// branch and objects do not change. The same state gives the same commit.
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
	if err := refuseFiltered(ctx, h.Repo, env); err != nil {
		return err
	}
	quiet, err := h.Repo.SubmoduleArgs(ctx)
	if err != nil {
		return err
	}
	git := func(args ...string) (string, error) {
		b, err := hostgit.Run(ctx, hostgit.Call{Repo: h.Repo, Env: env, SubmoduleArgs: quiet, Args: append([]string{"-c", "core.safecrlf=false", "-c", "advice.addEmbeddedRepo=false", "-c", "core.splitIndex=false"}, args...)})
		return strings.TrimRight(string(b), "\n"), err
	}
	if _, err := git("add", "-A"); err != nil {
		return ui.Failed("reading the uncommitted files of %s: %w", ui.Clean(h.Repo.Top), err).Hint(ui.Cmd("git -C " + shellescape.Quote(h.Repo.Top) + " status"))
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

// refuseFiltered refuses a state with files that pass through a git filter. aivm runs no filters,
// so the files would be sent as they are on disk: a file that git stores encrypted would be sent in
// clear.
func refuseFiltered(ctx context.Context, r hostgit.Repo, env []string) error {
	es, err := r.Status(ctx, env, "--untracked-files=all", "--no-renames")
	if err != nil {
		return err
	}
	for _, e := range es {
		if e.Filter != "" {
			q := shellescape.Quote(r.Top)
			return ui.Refused("the uncommitted files of %s were not sent: %s uses the filter %s, and aivm runs no filters", ui.Clean(r.Top), ui.Clean(e.Path), ui.Clean(e.Filter)).
				Hint(ui.CmdFor("if the file has not changed, refresh git's index and retry", "git -C "+q+" status"),
					ui.CmdFor("otherwise commit it", "git -C "+q+" add "+shellescape.Quote(e.Path)+" && git -C "+q+" commit -m wip && aivm git push "+q))
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

// SendUncommitted sends the uncommitted state to refs/aivm/wip/BRANCH of the guest and writes it to
// the guest's work tree where that loses nothing. The branch must have been pushed. outcome
// describes the result.
func SendUncommitted(ctx context.Context, p transfer.Peer, h compare.Host, g *compare.Guest) (outcome string, err error) {
	u, err := Capture(ctx, h)
	if err != nil {
		return "", err
	}
	defer u.Drop()
	ref := "refs/aivm/wip/" + h.Branch
	if u.Commit == h.Head && g.Wip["refs/aivm/shown/"+h.Branch] == "" {
		return "Nothing is uncommitted on this machine", nil
	}
	if u.Commit != h.Head && g.Wip[ref] != u.Commit {
		known := append(compare.Known(h, *g), g.Heads[h.Branch])
		if _, err := transfer.Push(ctx, p, h, []compare.RefUpdate{{Ref: ref, Old: g.Wip[ref], New: u.Commit}}, known, u.env); err != nil {
			return "", err
		}
		g.Wip[ref] = u.Commit
	}
	what := fmt.Sprintf("The uncommitted state (%d files) is in VM %[3]s as %[2]s", u.Files, ref, p.VM)
	out, code, err := p.Script(ctx, "writing the uncommitted files to the clone", guestscript.Apply, p.Dir, h.Branch, u.Commit, h.Head)
	if err != nil {
		return "", err
	}
	switch {
	case code == 100 && u.Commit == h.Head:
		return "Nothing is uncommitted on this machine, and what had been sent was removed from VM " + p.VM, nil
	case code == 100:
		return what + ", and its folder shows the files", nil
	case code == 101:
		return what + fmt.Sprintf("; its folder stays as it is, since branch %s is not checked out in the VM at the same commit", ui.Clean(h.Branch)), nil
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
