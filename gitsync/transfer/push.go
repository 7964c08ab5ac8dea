package transfer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// go-git encodes a few small objects in the time it takes to start git and read its output; for
// many objects it is ten times slower.
const (
	streamObjects = 2000
	streamBytes   = 16 << 20
)

// Sent is the result of a push.
type Sent struct {
	Refs    []compare.RefUpdate
	Objects int
	By      string // "go-git" or "git"
}

// ErrDirty is returned if the guest refuses a push because it would lose files of its work tree.
var ErrDirty = errors.New("the guest's work tree is not clean")

// receivePack is the command in the guest that receives a push.
func receivePack(dir string) []string {
	return []string{"sh", "-c", guestscript.Receive, "sh", dir, guestscript.CheckoutHook}
}

// Push sends the objects the updates need and sets the refs, all or none. known are commits the
// guest certainly has.
func Push(ctx context.Context, p Peer, h compare.Host, ups []compare.RefUpdate, known []string, env []string) (Sent, error) {
	sent := Sent{Refs: ups, By: "git"}
	if len(ups) == 0 {
		return sent, nil
	}
	why := h.NeedsGitProgram()
	var pack *bytes.Buffer
	if why == "" {
		hashes, err := needed(ctx, h, ups, known, env)
		if err != nil {
			return sent, err
		}
		sent.Objects = len(hashes)
		switch {
		case len(hashes) > streamObjects:
			why = fmt.Sprintf("more than %d objects", streamObjects)
		case len(env) > 0:
			why = "the objects are not in the repository itself"
		default:
			if pack, why, err = encodePack(ctx, h, hashes); err != nil {
				return sent, err
			}
		}
	}
	if why != "" {
		p.Notef("pushing with the git program: %s", why)
		return sent, p.pushProgram(ctx, h, ups, env)
	}
	p.Notef("pushing %d objects with go-git", sent.Objects)
	sent.By = "go-git"
	return sent, p.pushStream(ctx, ups, pack)
}

// needed lists the objects of the updates that the guest lacks according to known, at most
// streamObjects+1.
func needed(ctx context.Context, h compare.Host, ups []compare.RefUpdate, known, env []string) ([]string, error) {
	var in strings.Builder
	for _, u := range ups {
		in.WriteString(u.New + "\n")
	}
	for _, k := range known {
		in.WriteString("^" + k + "\n")
	}
	out := &firstLines{limit: streamObjects + 1}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out.full = cancel
	_, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Env: env, Stdin: strings.NewReader(in.String()), Stdout: out,
		Args: []string{"rev-list", "--objects", "--no-object-names", "--stdin"},
	})
	if err != nil && !out.cut {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	return out.lines, nil
}

// firstLines keeps the first lines of a stream and then calls full to stop it.
type firstLines struct {
	lines []string
	rest  []byte
	limit int
	full  func()
	cut   bool
}

func (f *firstLines) Write(p []byte) (int, error) {
	f.rest = append(f.rest, p...)
	for {
		i := bytes.IndexByte(f.rest, '\n')
		if i < 0 || f.cut {
			return len(p), nil
		}
		f.lines = append(f.lines, string(f.rest[:i]))
		f.rest = f.rest[i+1:]
		if len(f.lines) == f.limit {
			f.cut = true
			f.full()
		}
	}
}

// encodePack encodes objects with go-git; why is the reason to use the git program instead.
func encodePack(ctx context.Context, h compare.Host, oids []string) (pack *bytes.Buffer, why string, err error) {
	b, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Args: []string{"cat-file", "--batch-check=%(objectsize)"}, Stdin: strings.NewReader(strings.Join(oids, "\n") + "\n"),
	})
	if err != nil {
		return nil, "", hostgit.ReadError(h.Repo, err)
	}
	total := 0
	for _, l := range hostgit.Lines(b) {
		n, err := strconv.Atoi(l)
		if err != nil {
			return nil, "", fmt.Errorf("parsing the size of an object: %w", err)
		}
		if total += n; total > streamBytes {
			return nil, fmt.Sprintf("more than %d MB", streamBytes>>20), nil
		}
	}
	hashes := make([]plumbing.Hash, 0, len(oids))
	for _, oid := range oids {
		hashes = append(hashes, plumbing.NewHash(oid))
	}
	store := filesystem.NewStorageWithOptions(osfs.New(h.Repo.CommonDir), cache.NewObjectLRU(streamBytes), filesystem.Options{})
	pack = &bytes.Buffer{}
	// Without deltas: bandwidth is free within one machine, and an emulated guest needs time to
	// resolve them.
	if _, err := packfile.NewEncoder(pack, store, false).Encode(hashes, 0); err != nil {
		return nil, "go-git cannot read the objects: " + ui.CleanTo(err.Error(), 100), nil
	}
	return pack, "", nil
}

func (p Peer) pushStream(ctx context.Context, ups []compare.RefUpdate, pack io.Reader) error {
	s := p.start(ctx, receivePack(p.Dir)...)
	var status packp.ReportStatus
	err := func() error {
		r := bufio.NewReaderSize(s.out, 64<<10)
		adv := packp.NewAdvRefs()
		if err := adv.Decode(io.LimitReader(r, 64<<20)); err != nil && !errors.Is(err, packp.ErrEmptyAdvRefs) {
			return fmt.Errorf("reading the guest's refs: %w", err)
		}
		req := packp.NewReferenceUpdateRequest()
		for _, c := range []capability.Capability{capability.ReportStatus, capability.Sideband64k, capability.Atomic, capability.OFSDelta, capability.Quiet} {
			if adv.Capabilities.Supports(c) {
				_ = req.Capabilities.Set(c)
			}
		}
		if !req.Capabilities.Supports(capability.Sideband64k) || !req.Capabilities.Supports(capability.ReportStatus) || !req.Capabilities.Supports(capability.Atomic) {
			return errors.New("the guest's git is too old")
		}
		for _, u := range ups {
			old := plumbing.NewHash(u.Old) // "" is the null hash
			if adv.References[u.Ref] != old {
				return ui.Failed("the clone in VM %s changed while aivm was running", p.VM).Hint(ui.CmdFor("try again", "aivm git push"))
			}
			req.Commands = append(req.Commands, &packp.Command{Name: plumbing.ReferenceName(u.Ref), Old: old, New: plumbing.NewHash(u.New)})
		}
		sent := make(chan error, 1)
		go func() {
			w := bufio.NewWriterSize(s.in, 64<<10)
			err := req.Encode(w)
			if err == nil {
				_, err = io.Copy(w, pack)
			}
			if err == nil {
				err = w.Flush()
			}
			sent <- err
		}()
		demux := sideband.NewDemuxer(sideband.Sideband64k, r)
		demux.Progress = progressWriter{p}
		err := status.Decode(io.LimitReader(demux, 16<<20))
		if err != nil {
			s.cancel(context.Canceled)
			_ = s.inR.CloseWithError(io.ErrClosedPipe)
			<-sent
			return fmt.Errorf("reading the guest's report on the push: %w", err)
		}
		_ = s.inR.CloseWithError(io.ErrClosedPipe) // a report before the end of the pack is a refusal
		if serr := <-sent; serr != nil && status.Error() == nil {
			return fmt.Errorf("sending: %w", serr)
		}
		return nil
	}()
	if err != nil {
		return s.end(err)
	}
	reportErr := checkReport(p, ups, status)
	if err := s.end(nil); err != nil && reportErr == nil && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return reportErr
}

// checkReport returns the error of a push report; only a ref reported as ok was updated.
func checkReport(p Peer, ups []compare.RefUpdate, status packp.ReportStatus) error {
	if status.UnpackStatus != "ok" {
		return ui.Failed("git in VM %s could not store the pushed objects: %s", p.VM, ui.CleanTo(status.UnpackStatus, 200)).
			Hint(ui.CmdFor("check whether its disk is full", "ssh "+p.VM+" df -h "+quoteTwice(p.Dir)))
	}
	got := map[string]string{}
	for _, c := range status.CommandStatuses {
		got[string(c.ReferenceName)] = c.Status
	}
	return refusalError(p, ups, got)
}

// refusalError turns git's reasons for refused refs into an error. With "atomic" one refused ref
// refuses all of them, and only one has the reason.
func refusalError(p Peer, ups []compare.RefUpdate, got map[string]string) error {
	why := ""
	for _, u := range ups {
		s, ok := got[u.Ref]
		switch {
		case ok && s == "ok":
			continue
		case !ok:
			s = "not reported"
		}
		if why == "" || strings.Contains(why, "atomic") || strings.Contains(why, "transaction") {
			why = s
		}
	}
	low := strings.ToLower(why)
	switch {
	case why == "":
		return nil
	case strings.Contains(low, "working directory") || strings.Contains(low, "working tree") || strings.Contains(low, "staged changes") || strings.Contains(low, "update working tree"), strings.Contains(low, "push-to-checkout"):
		return fmt.Errorf("%w: %s", ErrDirty, ui.CleanTo(why, 200))
	case strings.Contains(low, "shallow"):
		return ui.Refused("the clone in VM %s refuses a push from a shallow clone: %s", p.VM, ui.CleanTo(why, 200)).
			Hint(ui.CmdFor("fetch the complete history first", "git fetch --unshallow"))
	case strings.Contains(low, "non-fast-forward"), strings.Contains(low, "fetch first"):
		return ui.Refused("the clone in VM %s got other commits while it was pushed to: %s", p.VM, ui.CleanTo(why, 200)).Hint(ui.CmdFor("try again", "aivm git push"))
	case strings.Contains(low, "failed to update ref"), strings.Contains(low, "lock"), low == "atomic transaction failed":
		return ui.Failed("the clone in VM %s changed while it was pushed to: %s", p.VM, ui.CleanTo(why, 200)).Hint(ui.CmdFor("try again", "aivm git push"))
	}
	return ui.Refused("git in VM %s refused the push: %s", p.VM, ui.CleanTo(why, 200)).Hint(ui.CmdFor("see the clone's state", "ssh "+p.VM+" git -C "+quoteTwice(p.Dir)+" status"))
}

// pushProgram pushes with the git program over the same connection.
func (p Peer) pushProgram(ctx context.Context, h compare.Host, ups []compare.RefUpdate, env []string) error {
	args := []string{
		"-c", "protocol.fd.allow=always", "push", "--porcelain", "--atomic", "--no-verify", "--no-thin", "--no-follow-tags", "--no-signed", "--no-force-if-includes",
		"--recurse-submodules=no", "--quiet",
	}
	for _, u := range ups {
		args = append(args, "--force-with-lease="+u.Ref+":"+u.Old)
	}
	args = append(args, hostgit.OpenConnection)
	for _, u := range ups {
		args = append(args, u.New+":"+u.Ref)
	}
	out := capture.Head{Limit: 1 << 20}
	err := p.runHostGit(ctx, receivePack(p.Dir), hostgit.Call{Repo: h.Repo, Env: env, Args: args, Stdout: &out})
	got := map[string]string{}
	for _, l := range strings.Split(out.String(), "\n") {
		// "FLAG \t FROM:TO \t SUMMARY (REASON)"
		f := strings.Split(l, "\t")
		if len(f) < 3 {
			continue
		}
		_, to, _ := strings.Cut(f[1], ":")
		if f[0] == "!" {
			got[to] = f[2]
		} else {
			got[to] = "ok"
		}
	}
	if len(got) > 0 {
		if r := refusalError(p, ups, got); r != nil {
			if strings.Contains(r.Error(), "atomic") && err != nil {
				return errors.Join(r, err)
			}
			return r
		}
	}
	if err != nil {
		if strings.Contains(err.Error(), "shallow") {
			return refusalError(p, ups, map[string]string{ups[0].Ref: err.Error()})
		}
		return ui.Failed("pushing to VM %s: %w", p.VM, err).Hint(ui.CmdFor("try again", "aivm git push"))
	}
	return nil
}
