package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/ui"
)

// maxBranches bounds how many branches of a guest are followed.
const maxBranches = 5000

// Fetched is a branch of the guest whose remote-tracking ref moved.
type Fetched struct {
	Branch string `json:"branch"`
	Old    string `json:"old,omitempty"` // "" for a new one
	New    string `json:"new"`
	Forced bool   `json:"forced,omitempty"` // the guest rewrote what it had
}

// Fetch brings what the guest committed into refs/remotes/REMOTE/ and nowhere
// else. h is brought up to date. Branches that cannot be taken over are
// returned as notes.
func Fetch(ctx context.Context, p Peer, h *compare.Host, g compare.Guest) (moved []Fetched, notes []string, err error) {
	news := compare.News(*h, g)
	if len(news) == 0 {
		return nil, nil, nil
	}
	if len(news) > maxBranches {
		return nil, nil, ui.Refused("VM %s has %d new branches, more than the %d that are taken", p.VM, len(news), maxBranches).
			Hint(ui.CmdFor("delete those that are not needed", "ssh "+p.VM))
	}
	for name, oid := range news {
		if (len(oid) == 40) != (h.Format == "sha1") {
			return nil, nil, ui.Refused("the clone in VM %s names objects otherwise than %s does (%s)", p.VM, ui.Clean(h.Repo.Top), h.Format).
				Hint(ui.Remark("move the clone away in the guest; the next run makes a new one"))
		}
		if why := clash(*h, name, news); why != "" {
			notes = append(notes, why)
			delete(news, name)
		}
	}
	q, err := newQuarantine(*h)
	if err != nil {
		return nil, notes, err
	}
	defer q.drop()
	wants := slices.Sorted(maps.Values(news))
	wants = slices.Compact(wants)
	have, err := h.Has(ctx, wants)
	if err != nil {
		return nil, notes, err
	}
	if len(wants) > 0 && len(have) < len(wants) || q.complete(ctx, wants) != nil {
		if err := p.receive(ctx, *h, q, wants, slices.Sorted(maps.Keys(news))); err != nil {
			return nil, notes, fetchError(p, err)
		}
		if err := q.complete(ctx, wants); err != nil {
			return nil, notes, ui.Refused("VM %s names commits and did not send all that belongs to them; nothing was taken over: %w", p.VM, err).
				Hint(ui.CmdFor("look", "ssh "+p.VM+" git -C "+q2(p.Dir)+" fsck"), ui.CmdFor("and try again", "aivm git fetch "+shellescape.Quote(h.Repo.Top)))
		}
	}
	kinds, err := q.kinds(ctx, wants)
	if err != nil {
		return nil, notes, err
	}
	for name, oid := range news {
		if kinds[oid] != "commit" {
			notes = append(notes, fmt.Sprintf("branch %s of VM %s is at a %s and not at a commit; it was left out", ui.Clean(name), p.VM, ui.Clean(kinds[oid])))
			delete(news, name)
		}
	}
	if len(news) == 0 {
		return nil, notes, nil
	}
	if err := q.admit(); err != nil {
		return nil, notes, ui.Failed("the repository cannot be written: %w", err).Hint(ui.Cmd("ls -ld "+h.Objects()), ui.Cmd("df -h "+h.Objects()))
	}
	if p.Fresh {
		kept, err := keepForced(ctx, *h, news)
		if err != nil {
			return nil, notes, err
		}
		if len(kept) > 0 {
			notes = append(notes, "what was fetched from another clone in VM "+p.VM+" and is in no branch here is kept: "+ui.Some(kept, 10))
		}
	}
	moved, err = Track(ctx, h, news, "aivm: fetched from "+p.VM)
	return moved, notes, err
}

// q2 quotes for a shell behind a shell, as "ssh VM command" has it.
func q2(s string) string { return shellescape.Quote(shellescape.Quote(s)) }

// clash says why a branch cannot be tracked beside one that is tracked already:
// a ref cannot be both a file and a directory.
func clash(h compare.Host, name string, news map[string]string) string {
	for other := range h.Tracked {
		if strings.HasPrefix(name, other+"/") || strings.HasPrefix(other, name+"/") {
			return fmt.Sprintf("branch %s of the VM is left out, since %s/%s is kept here; if that is no longer needed: git -C %s branch -rd %s/%s",
				ui.Clean(name), h.Remote, ui.Clean(other), shellescape.Quote(h.Repo.Top), h.Remote, shellescape.Quote(other))
		}
	}
	for other := range news {
		if strings.HasPrefix(name, other+"/") {
			return fmt.Sprintf("branch %s of the VM is left out, since there is %s too", ui.Clean(name), ui.Clean(other))
		}
	}
	return ""
}

// Track moves remote-tracking refs, all or none, if each is still where h saw
// it. The reflog keeps what a forced update leaves.
func Track(ctx context.Context, h *compare.Host, to map[string]string, why string) ([]Fetched, error) {
	var moved []Fetched
	var in strings.Builder
	for _, name := range slices.Sorted(maps.Keys(to)) {
		old := h.Tracked[name]
		f := Fetched{Branch: name, Old: old, New: to[name]}
		if old == f.New {
			continue
		}
		if old != "" {
			_, err := h.Repo.Git(ctx, "merge-base", "--is-ancestor", old, f.New)
			if err != nil && !hostgit.FailedWith(err, 1) {
				return nil, err
			}
			f.Forced = err != nil
		} else {
			old = strings.Repeat("0", len(f.New))
		}
		fmt.Fprintf(&in, "update refs/remotes/%s/%s\x00%s\x00%s\x00", h.Remote, name, f.New, old)
		moved = append(moved, f)
	}
	if len(moved) == 0 {
		return nil, nil
	}
	_, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Stdin: strings.NewReader("start\x00" + in.String() + "prepare\x00commit\x00"),
		Args: []string{"-c", "core.logAllRefUpdates=true", "update-ref", "-m", why, "--stdin", "-z"},
		Env:  []string{"GIT_COMMITTER_NAME=aivm", "GIT_COMMITTER_EMAIL=aivm@localhost"},
	})
	if err != nil {
		return nil, ui.Failed("the refs below refs/remotes/%s could not be moved, none was: %w", h.Remote, err).Hint(ui.Remark("run the command again"))
	}
	for _, f := range moved {
		h.Tracked[f.Branch] = f.New
	}
	if t := h.Tracked[h.Branch]; t != "" && !h.NoBranch {
		h.Ahead, h.Behind, err = h.Count(ctx, h.Head, t)
	}
	return moved, err
}

func fetchError(p Peer, err error) error {
	hint := ui.CmdFor("try again", "aivm git fetch")
	lim := p.Limits.or(DefaultLimits)
	switch {
	case errors.Is(err, errTooBig):
		return ui.Refused("VM %s sent more than %d MB; nothing was taken over", p.VM, lim.Bytes>>20).
			Hint(ui.CmdFor("see what is so big", "ssh "+p.VM+" du -sh "+q2(p.Dir)+"/.git"), ui.CmdFor("if it is meant", "aivm git fetch --max-size SIZE"))
	case errors.Is(err, errTooSlow), errors.Is(err, errQuiet):
		return ui.Failed("fetching from VM %s: %w; nothing was taken over", p.VM, err).Hint(hint)
	}
	var ge *hostgit.GitError
	if errors.As(err, &ge) && len(ge.Args) > 6 && slices.Contains(ge.Args, "index-pack") {
		return ui.Refused("what VM %s sent is not sound, and nothing was taken over: %s", p.VM, ui.CleanTo(strings.TrimSpace(ge.Stderr), 300)).
			Hint(ui.CmdFor("look", "ssh "+p.VM+" git -C "+q2(p.Dir)+" fsck --full"))
	}
	return ui.Failed("fetching from VM %s: %w; nothing was taken over", p.VM, err).Hint(hint)
}

// haves are commits the guest is likely to have: what was last seen of it, and
// the host's branches.
func haves(ctx context.Context, h compare.Host) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	add := func(oid string) {
		if oid != "" && !seen[oid] && len(out) < 1000 {
			seen[oid] = true
			out = append(out, oid)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(h.Tracked)) {
		add(h.Tracked[n])
	}
	if h.NoBranch {
		for _, n := range slices.Sorted(maps.Keys(h.Heads)) {
			add(h.Heads[n])
		}
		return out, nil
	}
	add(h.Head)
	// Behind the tips, in case the guest was reset to an older commit.
	b, err := h.Repo.Git(ctx, "rev-list", "--max-count=64", h.Head)
	if err != nil {
		return nil, err
	}
	for _, l := range hostgit.Lines(b) {
		add(l)
	}
	return out, nil
}

// uploadPack is the other side of a fetch, as a program to run.
func uploadPack(dir string) []string { return []string{"env", "LC_ALL=C", "git", "upload-pack", dir} }

// receive gets a pack with all that wants need into the quarantine.
func (p Peer) receive(ctx context.Context, h compare.Host, q *quarantine, wants, branches []string) error {
	if why := h.Special(); why != "" {
		p.Notef("fetching with the git program: %s", why)
		return p.receiveProgram(ctx, h, q, branches)
	}
	p.Notef("fetching with go-git's protocol, index-pack --strict")
	return p.receiveStream(ctx, h, q, wants)
}

func (p Peer) receiveStream(ctx context.Context, h compare.Host, q *quarantine, wants []string) error {
	haves, err := haves(ctx, h)
	if err != nil {
		return err
	}
	s := p.start(ctx, uploadPack(p.Dir)...)
	err = func() error {
		r := bufio.NewReaderSize(s.out, 64<<10)
		adv := packp.NewAdvRefs()
		if err := adv.Decode(io.LimitReader(r, 64<<20)); err != nil {
			return fmt.Errorf("what the guest says of its refs: %w", err)
		}
		req := packp.NewUploadPackRequest()
		for _, c := range []capability.Capability{capability.Sideband64k, capability.OFSDelta, capability.ThinPack} {
			if adv.Capabilities.Supports(c) {
				_ = req.Capabilities.Set(c)
			}
		}
		if !req.Capabilities.Supports(capability.Sideband64k) {
			return errors.New("the guest's git is too old")
		}
		offered := map[string]bool{}
		for _, oid := range adv.References {
			offered[oid.String()] = true
		}
		for _, w := range wants {
			if !offered[w] {
				return ui.Failed("the clone in VM %s changed while it was fetched", p.VM).Hint(ui.CmdFor("try again", "aivm git fetch"))
			}
			req.Wants = append(req.Wants, plumbing.NewHash(w))
		}
		for _, oid := range haves {
			req.Haves = append(req.Haves, plumbing.NewHash(oid))
		}
		w := bufio.NewWriter(s.in)
		if err := req.UploadRequest.Encode(w); err != nil {
			return err
		}
		if err := req.UploadHaves.Encode(w, false); err != nil {
			return err
		}
		if err := pktline.NewEncoder(w).EncodeString("done\n"); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		var answer packp.ServerResponse
		if err := answer.Decode(r, false); err != nil {
			return fmt.Errorf("what the guest answers: %w", err)
		}
		demux := sideband.NewDemuxer(sideband.Sideband64k, r)
		demux.Progress = chatter{p}
		return q.index(s.ctx, demux, p.Limits.or(DefaultLimits))
	}()
	return s.end(err)
}

// chatter shows the last line of what the other side says of its progress.
type chatter struct{ p Peer }

func (c chatter) Write(b []byte) (int, error) {
	f := strings.FieldsFunc(string(b), func(r rune) bool { return r == '\r' || r == '\n' })
	if len(f) > 0 {
		c.p.progress(ui.CleanTo(strings.TrimSpace(f[len(f)-1]), 60), -1)
	}
	return len(b), nil
}

// receiveProgram has the git program do it, on the same connection: its "fd"
// transport (git-remote-fd(1)) speaks to a service that runs already.
func (p Peer) receiveProgram(ctx context.Context, h compare.Host, q *quarantine, branches []string) error {
	var in strings.Builder
	for _, b := range branches {
		in.WriteString("refs/heads/" + b + "\n")
	}
	lim := p.Limits.or(DefaultLimits)
	return p.program(ctx, uploadPack(p.Dir), hostgit.Call{
		Repo: h.Repo, Env: q.env(), Stdin: strings.NewReader(in.String()), Memory: lim.Memory, CPU: uint64(lim.CPU.Seconds()),
		Args: []string{
			"-c", "fetch.fsckObjects=true", "-c", "fetch.unpackLimit=1", "-c", "protocol.fd.allow=always", "-c", "core.bigFileThreshold=32m",
			"-c", "fetch.writeCommitGraph=false", "-c", "fetch.prune=false", "-c", "remote.pushDefault=",
			"fetch", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--recurse-submodules=no", "--no-show-forced-updates",
			"--refmap=", "--quiet", "--stdin", hostgit.OpenConnection,
		},
	})
}

// program runs the host's git with the service's streams on descriptors 3 and 4.
func (p Peer) program(ctx context.Context, service []string, c hostgit.Call) error {
	if err := c.Repo.Straight(ctx); err != nil {
		return err
	}
	fromGuest, toGit, err := os.Pipe()
	if err != nil {
		return err
	}
	fromGit, toGuest, err := os.Pipe()
	if err != nil {
		_, _ = fromGuest.Close(), toGit.Close()
		return err
	}
	s := p.start(ctx, service...)
	c.Files = []*os.File{fromGuest, toGuest}
	c.Started = func() { _, _ = fromGuest.Close(), toGuest.Close() } // git has them
	go func() {
		_, _ = io.Copy(toGit, s.out)
		_ = toGit.Close()
	}()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(s.in, fromGit)
		_ = s.in.Close()
	}()
	out, err := hostgit.Run(s.ctx, c)
	_, _ = fromGuest.Close(), toGuest.Close()
	_ = fromGit.Close()
	<-sent
	if words := strings.TrimSpace(string(out)); err != nil && words != "" {
		err = fmt.Errorf("%w: %s", err, ui.CleanTo(words, 300))
	}
	ended := s.end(err)
	_ = toGit.Close()
	return ended
}
