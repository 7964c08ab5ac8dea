package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/internal/ui"
)

// Show runs a git command that only prints for a person. No program configured by the repository
// formats the output; the caller must clean text that comes from the guest's commits.
func Show(ctx context.Context, h compare.Host, out io.Writer, args ...string) error {
	return h.Repo.Show(ctx, out, args...)
}

// Init creates the clone in the guest.
func Init(ctx context.Context, p transfer.Peer, h compare.Host, g *compare.Guest) error {
	if _, _, err := p.Script(ctx, "creating the clone in "+p.Dir, guestscript.Init, p.Dir, h.Branch, h.Format); err != nil {
		return err
	}
	*g = compare.Guest{State: compare.Clone, Head: h.Branch, Marked: h.Branch, Heads: map[string]string{}, Tags: map[string]string{}, Wip: map[string]string{}}
	return nil
}

// PushBranch pushes the host's branch and tags to the guest if nothing there gets lost. problem
// says why the push was refused and what to do about it; err is a failure of the transfer itself.
func PushBranch(ctx context.Context, p transfer.Peer, h *compare.Host, g *compare.Guest) (sent transfer.Sent, problem, err error) {
	switch compare.Relate(*h, *g) {
	case compare.Diverged:
		return sent, diverged(p, *h), nil
	case compare.Unseen:
		return sent, ui.Refused("branch %[2]s of VM %[1]s has commits that were not fetched yet", p.VM, ui.Clean(h.Branch)).Hint(ui.Cmd("aivm git fetch " + shellescape.Quote(h.Repo.Top))), nil
	}
	ups, kept := compare.Updates(*h, *g)
	for _, t := range kept {
		p.Notef("tag %s points to another object in VM %s and was not pushed", ui.Clean(t), p.VM)
	}
	if len(ups) == 0 {
		return sent, nil, nil
	}
	known := compare.Known(*h, *g)
	sent, err = transfer.Push(ctx, p, *h, ups, known, nil)
	if errors.Is(err, transfer.ErrDirty) {
		retry, problem, uerr := markClean(ctx, p, *h, g, err)
		if !retry || uerr != nil {
			return transfer.Sent{}, problem, uerr
		}
		ups, _ = compare.Updates(*h, *g)
		if sent, err = transfer.Push(ctx, p, *h, ups, known, nil); errors.Is(err, transfer.ErrDirty) {
			return transfer.Sent{}, dirty(p, *h, nil, err), nil
		}
	}
	if err != nil {
		return transfer.Sent{}, nil, err
	}
	for _, u := range ups {
		if n, ok := strings.CutPrefix(u.Ref, "refs/heads/"); ok {
			g.Heads[n] = u.New
		} else {
			g.Tags[u.Ref] = u.New
		}
	}
	_, err = transfer.Track(ctx, h, map[string]string{h.Branch: g.Heads[h.Branch]}, "aivm: pushed to "+p.VM)
	return sent, nil, err
}

func diverged(p transfer.Peer, h compare.Host) error {
	q := shellescape.Quote(h.Repo.Top)
	remoteBranch := h.Remote + "/" + h.Branch
	return ui.Refused("branch %s has diverged (new commits: %d on this machine, %d in VM %s); nothing was pushed", ui.Clean(h.Branch), h.Ahead, h.Behind, p.VM).
		Hint(ui.CmdFor("see both sides", "git -C "+q+" log --oneline --left-right "+shellescape.Quote(h.Branch+"..."+remoteBranch)),
			ui.CmdFor("merge them on this machine", "git -C "+q+" merge "+shellescape.Quote(remoteBranch)+" && aivm git push "+q))
}

// markClean handles a push that the guest refused because its work tree is not clean. retry reports
// whether the push can be tried once more.
func markClean(ctx context.Context, p transfer.Peer, h compare.Host, g *compare.Guest, cause error) (retry bool, problem, err error) {
	tree, err := h.Repo.Git(ctx, "rev-parse", h.Head+"^{tree}")
	if err != nil {
		return false, nil, hostgit.ReadError(h.Repo, err)
	}
	out, code, err := p.Script(ctx, "checking the clone's work tree", guestscript.Dirty, p.Dir, h.Branch, h.Head, strings.TrimSpace(string(tree)))
	if err != nil {
		return false, nil, err
	}
	switch code {
	case 100:
		g.Heads[h.Branch] = h.Head
		return true, nil, nil
	case 101:
		return true, nil, nil
	}
	return false, dirty(p, h, hostgit.ParseStatus(out), cause), nil
}

// dirty returns the refusal that lists the files that are not clean.
func dirty(p transfer.Peer, h compare.Host, files []hostgit.StatusEntry, cause error) error {
	list := ""
	for i, f := range files {
		if i == 10 {
			list += fmt.Sprintf(" and %d more", len(files)-10)
			break
		}
		if i > 0 {
			list += ","
		}
		list += " " + ui.CleanTo(f.Path, 100)
	}
	e := ui.Refused("Guest Git repo rejected host push because its working tree is not clean:%s", list)
	if list == "" {
		e = ui.Refused("Guest Git repo rejected host push because its working tree is not clean: %w", cause)
	}
	at := "aivm ssh " + shellescape.Quote(h.Repo.Top) + " --vm " + p.VM + " -- "
	return e.Hint(ui.CmdFor("commit them in the VM", at+"sh -c 'git add -A && git commit -m wip'"), ui.CmdFor("or stash them", at+"git stash -u"), ui.CmdFor("then push", "aivm git push "+shellescape.Quote(h.Repo.Top)))
}

// Switch checks out the host's branch in the guest after it was pushed. Until then the guest's
// index belongs to the old branch, and git changes both together. done is false if changed files in
// the guest prevent the checkout; they stay as they are.
func Switch(ctx context.Context, p transfer.Peer, h compare.Host, g *compare.Guest) (done bool, err error) {
	_, code, err := p.Script(ctx, "checking out "+ui.Clean(h.Branch), guestscript.Switch, p.Dir, g.Head, h.Branch)
	if err != nil || code != 100 {
		return false, err
	}
	g.Head, g.Marked = h.Branch, h.Branch
	return true, nil
}

// StaysOnBranch returns the message for a Switch that was not done.
func StaysOnBranch(p transfer.Peer, h compare.Host, g compare.Guest) string {
	return fmt.Sprintf("VM %s stays on branch %s, which has uncommitted files; to switch it to %s: aivm ssh %s --vm %s -- git switch %s",
		p.VM, ui.Clean(g.Head), ui.Clean(h.Branch), shellescape.Quote(h.Repo.Top), p.VM, shellescape.Quote(h.Branch))
}

// GuestStatus lists the uncommitted files of the clone in the guest.
func GuestStatus(ctx context.Context, p transfer.Peer) ([]hostgit.StatusEntry, error) {
	out, code, err := p.Script(ctx, "git status", `cd -- "$1" || exit 1
git -c core.fsmonitor=false status --porcelain=v1 -z || exit 1`, p.Dir) // git's own exit status could be one of the script's answers (100 and up)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, ui.Failed("git status failed in VM %s (status %d)", p.VM, code)
	}
	return hostgit.ParseStatus(out), nil
}
