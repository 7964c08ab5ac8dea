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

// maxBranches bounds how many branches of a guest are fetched.
const maxBranches = 5000

// Fetched is a branch of the guest whose remote-tracking ref moved.
type Fetched struct {
	Branch string `json:"branch"`
	Old    string `json:"old,omitempty"` // "" for a new one
	New    string `json:"new"`
	Forced bool   `json:"forced,omitempty"` // the guest rewrote the branch: not a fast-forward
}

// Fetch fetches the guest's commits into refs/remotes/REMOTE/ and nowhere else, and updates h.
// Branches that cannot be fetched are returned as notes.
func Fetch(ctx context.Context, p Peer, h *compare.Host, g compare.Guest) (moved []Fetched, notes []string, err error) {
	news := compare.MovedBranches(*h, g)
	if len(news) == 0 {
		return nil, nil, nil
	}
	if len(news) > maxBranches {
		return nil, nil, ui.Refused("VM %s has %d new branches, more than the limit of %d", p.VM, len(news), maxBranches).
			Hint(ui.CmdFor("delete branches that are not needed", "ssh "+p.VM))
	}
	for name, oid := range news {
		if (len(oid) == 40) != (h.Format == "sha1") {
			return nil, nil, ui.Refused("the clone in VM %s has another object format than %s (%s)", p.VM, ui.Clean(h.Repo.Top), h.Format).
				Hint(ui.Remark("move the clone to another place in the guest; the next run creates a new one"))
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
		seen := faults{}
		if err := p.receive(ctx, *h, q, wants, slices.Sorted(maps.Keys(news)), seen); err != nil {
			return nil, notes, fetchError(p, *h, err)
		}
		if n := seen.note(p.VM); n != "" {
			notes = append(notes, n)
		}
		if err := q.complete(ctx, wants); err != nil {
			return nil, notes, ui.Refused("VM %s did not send all objects of its commits; nothing was fetched: %w", p.VM, err).
				Hint(ui.CmdFor("check the clone", "ssh "+p.VM+" git -C "+quoteTwice(p.Dir)+" fsck"), ui.CmdFor("then try again", "aivm git fetch "+shellescape.Quote(h.Repo.Top)))
		}
	}
	kinds, err := q.kinds(ctx, wants)
	if err != nil {
		return nil, notes, err
	}
	for name, oid := range news {
		if kinds[oid] != "commit" {
			notes = append(notes, fmt.Sprintf("branch %s of VM %s points to a %s, not a commit; it was not fetched", ui.Clean(name), p.VM, ui.Clean(kinds[oid])))
			delete(news, name)
		}
	}
	if len(news) == 0 {
		return nil, notes, nil
	}
	if err := q.admit(); err != nil {
		return nil, notes, ui.Failed("writing to the repository: %w", err).Hint(ui.Cmd("ls -ld "+shellescape.Quote(h.Objects())), ui.Cmd("df -h "+shellescape.Quote(h.Objects())))
	}
	if p.RemoteIsNew {
		kept, err := keepForced(ctx, *h, news)
		if err != nil {
			return nil, notes, err
		}
		if len(kept) > 0 {
			notes = append(notes, "commits of an earlier clone in VM "+p.VM+" that are on no branch of this machine were kept as "+ui.Some(kept, 10))
		}
	}
	moved, err = Track(ctx, h, news, "aivm: fetched from "+p.VM)
	return moved, notes, err
}

// quoteTwice quotes for a shell started by a shell, as in "ssh VM command".
func quoteTwice(s string) string { return shellescape.Quote(shellescape.Quote(s)) }

// clash returns why a branch cannot be tracked beside the others: a ref cannot be both a file and a
// directory.
func clash(h compare.Host, name string, news map[string]string) string {
	for other := range h.Tracked {
		if strings.HasPrefix(name, other+"/") || strings.HasPrefix(other, name+"/") {
			return fmt.Sprintf("branch %s of the VM was not fetched, since its name clashes with %s/%s; if that is no longer needed: git -C %s branch -rd %s/%s",
				ui.Clean(name), h.Remote, ui.Clean(other), shellescape.Quote(h.Repo.Top), h.Remote, shellescape.Quote(other))
		}
	}
	for other := range news {
		if strings.HasPrefix(name, other+"/") {
			return fmt.Sprintf("branch %s of the VM was not fetched, since its name clashes with branch %s", ui.Clean(name), ui.Clean(other))
		}
	}
	return ""
}

// Track moves remote-tracking refs, all or none, if each is still at the commit h has for it. The
// reflog keeps the old commits of a forced update.
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
		return nil, ui.Failed("updating the refs below refs/remotes/%s failed, and none was changed: %w", h.Remote, err).Hint(ui.Remark("run the command again"))
	}
	for _, f := range moved {
		h.Tracked[f.Branch] = f.New
	}
	if t := h.Tracked[h.Branch]; t != "" && !h.NoBranch {
		h.Ahead, h.Behind, err = h.Count(ctx, h.Head, t)
	}
	return moved, err
}

func fetchError(p Peer, h compare.Host, err error) error {
	hint := ui.CmdFor("try again", "aivm git fetch")
	lim := p.Limits.withDefaults(DefaultLimits)
	switch {
	case errors.Is(err, errTooBig):
		return ui.Refused("VM %s sent more than %d MB; nothing was fetched", p.VM, lim.Bytes>>20).
			Hint(ui.CmdFor("see its size", "ssh "+p.VM+" du -sh "+quoteTwice(p.Dir)+"/.git"), ui.CmdFor("to allow more", "aivm git fetch --max-size SIZE"))
	case errors.Is(err, errTooSlow), errors.Is(err, errQuiet):
		return ui.Failed("fetching from VM %s: %w; nothing was fetched", p.VM, err).Hint(hint)
	}
	var ge *hostgit.GitError
	if errors.As(err, &ge) {
		if refusal := faultRefusal(p, h, ge.Stderr); refusal != nil {
			return refusal
		}
	}
	if ge != nil && len(ge.Args) > 6 && slices.Contains(ge.Args, "index-pack") {
		return ui.Refused("VM %s sent invalid objects; nothing was fetched: %s", p.VM, ui.CleanTo(strings.ReplaceAll(strings.TrimSpace(ge.Stderr), "\n", "; "), 300)).
			Hint(ui.CmdFor("check the clone", "ssh "+p.VM+" git -C "+quoteTwice(p.Dir)+" fsck --full"))
	}
	return ui.Failed("fetching from VM %s: %w; nothing was fetched", p.VM, err).Hint(hint)
}

// haves returns commits the guest is likely to have: those last fetched from it, and the host's
// branches.
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
	// Also older commits, in case the guest was reset to one.
	b, err := h.Repo.Git(ctx, "rev-list", "--max-count=64", h.Head)
	if err != nil {
		return nil, err
	}
	for _, l := range hostgit.Lines(b) {
		add(l)
	}
	return out, nil
}

// uploadPack is the command in the guest that serves a fetch.
func uploadPack(dir string) []string { return []string{"env", "LC_ALL=C", "git", "upload-pack", dir} }

// receive fetches a pack with everything that wants need into the quarantine.
func (p Peer) receive(ctx context.Context, h compare.Host, q *quarantine, wants, branches []string, seen faults) error {
	if why := h.NeedsGitProgram(); why != "" {
		p.Notef("fetching with the git program: %s", why)
		return p.receiveProgram(ctx, h, q, branches, seen)
	}
	p.Notef("fetching with go-git's protocol, index-pack --strict")
	return p.receiveStream(ctx, h, q, wants, seen)
}

func (p Peer) receiveStream(ctx context.Context, h compare.Host, q *quarantine, wants []string, seen faults) error {
	haves, err := haves(ctx, h)
	if err != nil {
		return err
	}
	s := p.start(ctx, uploadPack(p.Dir)...)
	err = func() error {
		r := bufio.NewReaderSize(s.out, 64<<10)
		adv := packp.NewAdvRefs()
		if err := adv.Decode(io.LimitReader(r, 64<<20)); err != nil {
			return fmt.Errorf("reading the guest's refs: %w", err)
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
				return ui.Failed("the clone in VM %s changed during the fetch", p.VM).Hint(ui.CmdFor("try again", "aivm git fetch"))
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
			return fmt.Errorf("reading the guest's answer: %w", err)
		}
		demux := sideband.NewDemuxer(sideband.Sideband64k, r)
		demux.Progress = progressWriter{p}
		return q.index(s.ctx, demux, p.Limits.withDefaults(DefaultLimits), seen)
	}()
	return s.end(err)
}

// progressWriter shows the last line of the other side's progress messages.
type progressWriter struct{ p Peer }

func (c progressWriter) Write(b []byte) (int, error) {
	f := strings.FieldsFunc(string(b), func(r rune) bool { return r == '\r' || r == '\n' })
	if len(f) > 0 {
		c.p.progress(ui.CleanTo(strings.TrimSpace(f[len(f)-1]), 60), -1)
	}
	return len(b), nil
}

// receiveProgram fetches with the git program over the same connection: its "fd" transport
// (git-remote-fd(1)) uses a service that is already running.
func (p Peer) receiveProgram(ctx context.Context, h compare.Host, q *quarantine, branches []string, seen faults) error {
	var in strings.Builder
	for _, b := range branches {
		in.WriteString("refs/heads/" + b + "\n")
	}
	accept, err := faultSeverities(ctx, h)
	if err != nil {
		return err
	}
	set, err := accept.fetchArgs(ctx, h)
	if err != nil {
		return err
	}
	lim := p.Limits.withDefaults(DefaultLimits)
	return p.runHostGit(ctx, uploadPack(p.Dir), hostgit.Call{
		Repo: h.Repo, Env: q.env(), Stdin: strings.NewReader(in.String()), Stderr: seen.reader(), Memory: lim.Memory, CPU: uint64(lim.CPU.Seconds()),
		Args: append(set,
			"-c", "fetch.fsckObjects=true", "-c", "fetch.unpackLimit=1", "-c", "protocol.fd.allow=always", "-c", "core.bigFileThreshold=32m",
			"-c", "fetch.writeCommitGraph=false", "-c", "fetch.prune=false", "-c", "remote.pushDefault=",
			"fetch", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--recurse-submodules=no", "--no-show-forced-updates",
			"--refmap=", "--quiet", "--stdin", hostgit.OpenConnection,
		),
	})
}

// runHostGit runs the host's git with the service's streams on file descriptors 3 and 4.
func (p Peer) runHostGit(ctx context.Context, service []string, c hostgit.Call) error {
	if err := c.Repo.RefuseURLRewrite(ctx); err != nil {
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
	c.Started = func() { _, _ = fromGuest.Close(), toGuest.Close() } // git has its own copies
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
