package gitsync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// Relation says how the guest's branch stands to the host's of that name.
type Relation string

// How they can stand to each other.
const (
	Same      Relation = "same"
	HostAhead Relation = "ahead"  // a push brings the guest up to date
	VMAhead   Relation = "behind" // the guest committed; the host has not taken it over
	Diverged  Relation = "diverged"
	Missing   Relation = "missing" // the guest has no such branch
	Unseen    Relation = "unseen"  // the guest's commits have to be fetched to tell
)

// Relate compares the branches as far as the host's objects tell.
func Relate(h Host, g Guest) Relation {
	switch at := g.Heads[h.Branch]; {
	case g.State != Clone || at == "":
		return Missing
	case at == h.Head:
		return Same
	case at != h.Tracked[h.Branch]:
		return Unseen
	case h.Behind == 0:
		return HostAhead
	case h.Ahead == 0:
		return VMAhead
	}
	return Diverged
}

// run runs a script of ours in the guest as its user, arguments as $1 and on.
func (p Peer) run(ctx context.Context, what, script string, args ...string) (string, int, error) {
	out, stderr := capture.Head{Limit: 1 << 20}, capture.Head{Limit: 4 << 10}
	argv := append([]string{"sh", "-c", inEnglish + script, "sh"}, args...)
	code, err := p.Conn.Run(ctx, guest.Cmd{Argv: argv, Stdout: &out, Stderr: &stderr})
	if err != nil {
		return "", code, fmt.Errorf("%s: %w", what, err)
	}
	if code >= 100 || code == 0 {
		return out.String(), code, nil // our own statuses
	}
	words := strings.TrimSpace(stderr.String())
	return out.String(), code, ui.Failed("%s failed in VM %s (status %d): %s", what, p.VM, code, ui.CleanTo(strings.ReplaceAll(words, "\n", "; "), 300))
}

// Init makes the clone in the guest.
func Init(ctx context.Context, p Peer, h Host, g *Guest) error {
	if _, _, err := p.run(ctx, "making the clone in "+p.Dir, initScript, p.Dir, h.Branch, h.Format); err != nil {
		return err
	}
	*g = Guest{State: Clone, Head: h.Branch, Marked: h.Branch, Heads: map[string]string{}, Tags: map[string]string{}, Wip: map[string]string{}}
	return nil
}

// PushBranch brings the host's branch and its tags to the guest, if nothing
// there is lost by it. problem is why it could not and what to do about it; the
// transfer itself going wrong is err.
func PushBranch(ctx context.Context, p Peer, h *Host, g *Guest) (sent Sent, problem, err error) {
	switch Relate(*h, *g) {
	case Diverged:
		return sent, diverged(p, *h), nil
	case Unseen:
		return sent, ui.Failed("what VM %s has on branch %s is not known here yet", p.VM, ui.Clean(h.Branch)).Hint("aivm git fetch " + quote(h.Repo.Top)), nil
	}
	ups, kept := Updates(*h, *g)
	for _, t := range kept {
		p.note("tag %s is another one in VM %s and stays as it is there", ui.Clean(t), p.VM)
	}
	if len(ups) == 0 {
		return sent, nil, nil
	}
	known := Known(*h, *g)
	sent, err = Push(ctx, p, *h, ups, known, nil)
	if errors.Is(err, ErrDirty) {
		again, problem, uerr := p.undirty(ctx, *h, g, err)
		if !again || uerr != nil {
			return Sent{}, problem, uerr
		}
		ups, _ = Updates(*h, *g)
		if sent, err = Push(ctx, p, *h, ups, known, nil); errors.Is(err, ErrDirty) {
			return Sent{}, p.dirty(*h, nil, err), nil
		}
	}
	if err != nil {
		return Sent{}, nil, err
	}
	for _, u := range ups {
		if n, ok := strings.CutPrefix(u.Ref, "refs/heads/"); ok {
			g.Heads[n] = u.New
		} else {
			g.Tags[u.Ref] = u.New
		}
	}
	_, err = h.track(ctx, map[string]string{h.Branch: g.Heads[h.Branch]}, "aivm: pushed to "+p.VM)
	return sent, nil, err
}

func diverged(p Peer, h Host) error {
	q := quote(h.Repo.Top)
	theirs := h.Remote + "/" + h.Branch
	return ui.Refused("branch %s went two ways: %d new here, %d new in VM %s; nothing was pushed", ui.Clean(h.Branch), h.Ahead, h.Behind, p.VM).
		Hint("see both: git -C "+q+" log --oneline --left-right "+quote(h.Branch+"..."+theirs),
			"join them here: git -C "+q+" merge "+quote(theirs)+", then: aivm git push "+q)
}

// undirty deals with a push that was refused for files that are not clean.
// again says that it can be tried once more.
func (p Peer) undirty(ctx context.Context, h Host, g *Guest, cause error) (again bool, problem, err error) {
	tree, err := h.Repo.git(ctx, "rev-parse", h.Head+"^{tree}")
	if err != nil {
		return false, nil, readError(h.Repo, err)
	}
	out, code, err := p.run(ctx, "looking at the clone's files", dirtyScript, p.Dir, h.Branch, h.Head, strings.TrimSpace(string(tree)))
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
	return false, p.dirty(h, ParseStatus(out), cause), nil
}

// dirty is the refusal that lists the files.
func (p Peer) dirty(h Host, files []StatusEntry, cause error) error {
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
	at := "aivm ssh " + quote(h.Repo.Top) + " --vm " + p.VM + " -- "
	return e.Hint("commit it there: "+at+"sh -c 'git add -A && git commit -m wip'", "or put it aside: "+at+"git stash -u", "then: aivm git push "+quote(h.Repo.Top))
}

// A StatusEntry is a file `git status` names.
type StatusEntry struct {
	Code string `json:"code"` // two letters (git-status(1))
	Path string `json:"path"`
	// Filter is what the file passes through, if it is that which keeps it from
	// being compared: aivm runs no filters, so the file may be unchanged.
	Filter string `json:"filter,omitempty"`
}

// ParseStatus reads `git status --porcelain=v1 -z`, a guest's too.
func ParseStatus(s string) []StatusEntry {
	var out []StatusEntry
	parts := strings.Split(s, "\x00")
	for i := 0; i < len(parts); i++ {
		e := parts[i]
		if len(e) < 4 || e[2] != ' ' {
			continue
		}
		out = append(out, StatusEntry{Code: e[:2], Path: e[3:]})
		if e[0] == 'R' || e[0] == 'C' {
			i++ // where it came from
		}
	}
	return out
}

// Follows reports whether the guest should check out the host's branch: it is
// still on the one aivm checked out, so nobody there chose another.
func Follows(h Host, g Guest) bool {
	return g.State == Clone && g.Head != "" && g.Head != h.Branch && g.Head == g.Marked
}

// Switch checks the host's branch out in the guest, after it was pushed: the
// index then belongs to the old branch until git itself changes both. done is
// false if files in the guest are in the way; they stay as they are.
func Switch(ctx context.Context, p Peer, h Host, g *Guest) (done bool, err error) {
	_, code, err := p.run(ctx, "checking out "+ui.Clean(h.Branch), switchScript, p.Dir, g.Head, h.Branch)
	if err != nil || code != 100 {
		return false, err
	}
	g.Head, g.Marked = h.Branch, h.Branch
	return true, nil
}

// Stays is what is said when Switch could not.
func Stays(p Peer, h Host, g Guest) string {
	return fmt.Sprintf("VM %s stays on branch %s, where files are not committed; to go to %s there: aivm ssh %s --vm %s -- git switch %s",
		p.VM, ui.Clean(g.Head), ui.Clean(h.Branch), quote(h.Repo.Top), p.VM, quote(h.Branch))
}

// GuestStatus lists what is not committed in the guest.
func GuestStatus(ctx context.Context, p Peer) ([]StatusEntry, error) {
	out, code, err := p.run(ctx, "git status", `cd -- "$1" || exit 1
git -c core.fsmonitor=false status --porcelain=v1 -z || exit 1`, p.Dir) // git's own status would be an answer
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, ui.Failed("git status failed in VM %s (status %d)", p.VM, code)
	}
	return ParseStatus(out), nil
}

// HostStatus lists what is not committed on the host.
func HostStatus(ctx context.Context, r Repo) ([]StatusEntry, error) {
	es, err := r.status(ctx, nil)
	for i, e := range es {
		if e.Code[1] != 'M' {
			es[i].Filter = "" // nothing had to be compared
		}
	}
	return es, err
}

// status asks git, with the index that env names, and says of each file that
// differs which filter it passes through.
func (r Repo) status(ctx context.Context, env []string, options ...string) ([]StatusEntry, error) {
	quiet, err := r.quiet(ctx)
	if err != nil {
		return nil, err
	}
	b, err := run(ctx, call{repo: r, env: env, also: quiet, args: append([]string{"status", "--porcelain=v1", "-z", "--ignore-submodules=none"}, options...)})
	if err != nil {
		return nil, readError(r, err)
	}
	es := ParseStatus(string(b))
	s, err := r.settings(ctx)
	if err != nil || len(s.drivers()) == 0 || len(es) == 0 {
		return es, err
	}
	var names []string
	for _, e := range es {
		if st, err := os.Lstat(filepath.Join(r.Top, e.Path)); e.Code[1] != ' ' && e.Code[1] != 'D' && err == nil && st.Mode().IsRegular() {
			names = append(names, e.Path)
		}
	}
	if len(names) == 0 {
		return es, nil
	}
	fs, err := r.filters(ctx, s, names, env)
	if err != nil {
		return nil, err
	}
	by := map[string]string{}
	for _, f := range fs {
		for _, n := range f.Files {
			by[n] = f.Name
		}
	}
	for i := range es {
		es[i].Filter = by[es[i].Path]
	}
	return es, nil
}
