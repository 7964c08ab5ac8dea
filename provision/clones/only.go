package clones

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// Missed returns the clones with work that may be lost.
func Missed(cs []gitsync.CloneWork) []gitsync.CloneWork {
	return slices.DeleteFunc(slices.Clone(cs), func(c gitsync.CloneWork) bool { return !c.Missed() })
}

// UnknownIn reports whether one of the clones could not be checked.
func UnknownIn(cs []gitsync.CloneWork) bool {
	return slices.ContainsFunc(cs, func(c gitsync.CloneWork) bool { return !c.Known })
}

// MissedText describes on one line what may be lost.
func MissedText(cs []gitsync.CloneWork) string {
	var out []string
	for _, c := range Missed(cs) {
		l := c.Only.Lines()
		if !c.Known {
			l = []string{"unknown, " + c.Why}
		}
		out = append(out, fmt.Sprintf("clone %s of %s: %s", c.GuestDst, c.Folder, strings.Join(l, "; ")))
	}
	return strings.Join(out, "; ")
}

// SameWork reports whether two checks found the same work to be lost, ignoring the reasons for what
// could not be checked.
func SameWork(a, b []gitsync.CloneWork) bool {
	text := func(cs []gitsync.CloneWork) string {
		cs = Missed(cs)
		for i := range cs {
			cs[i].Fetched, cs[i].Why = nil, "" // the reason may differ each time
			cs[i].Only.Incomplete = slices.Clone(cs[i].Only.Incomplete)
			for j, s := range cs[i].Only.Incomplete {
				cs[i].Only.Incomplete[j], _, _ = strings.Cut(s, ": ")
			}
		}
		s, _ := json.Marshal(cs)
		return string(s)
	}
	return text(a) == text(b)
}

// List returns the clones a VM may have: of folders in git mode, and of folders that were.
func (e Part) List(w *target.Target) []share.Attachment {
	out := map[string]share.Attachment{}
	for _, a := range e.State().Clones(w.Name) {
		out[a.HostPath+"\x00"+a.GuestDst] = a
	}
	if w.Store != nil {
		for _, a := range share.RecordedFor(w.Store.Config, w.Name) {
			if a.Mode == share.Git {
				out[a.HostPath+"\x00"+a.GuestDst] = a
			}
		}
	}
	var l []share.Attachment
	for _, k := range slices.Sorted(maps.Keys(out)) {
		l = append(l, out[k])
	}
	return l
}

const (
	// dialTimeout bounds the connection to a running VM.
	dialTimeout = 45 * time.Second
	// clonesLimit bounds the check of all clones of a VM, including fetches: a guest that hangs or
	// answers slowly must not delay its deletion for long.
	clonesLimit = 10 * time.Minute
)

// WhyUnreachable returns why a VM in this state cannot be checked, "" if it can.
func WhyUnreachable(d *virt.Domain) string {
	switch {
	case d == nil:
		return "libvirt does not have the VM"
	case d.State != virt.Running:
		return "the VM is " + cmp.Or(string(d.State), "not running")
	}
	return ""
}

// Inspect fetches, if fetch is set, the new commits of the clones, and asks the guest what exists
// only in them. A non-empty why is the reason that the VM cannot be checked. If the guest does not
// answer in time, the result is unknown and no error is returned; an error is returned if the user
// ended the run.
func (e Part) Inspect(ctx context.Context, w *target.Target, clones []share.Attachment, why string, fetch bool) ([]gitsync.CloneWork, error) {
	out := make([]gitsync.CloneWork, len(clones))
	for i, a := range clones {
		out[i] = gitsync.CloneWork{Folder: a.HostPath, GuestDst: a.GuestDst, Fetched: []gitsync.Fetched{}, Why: why}
	}
	if len(clones) == 0 || why != "" {
		return out, nil
	}
	lctx, cancel := context.WithTimeout(ctx, clonesLimit)
	defer cancel()
	task := e.UI.Task("checking for work that exists only in VM " + w.Name)
	conn, err := e.dialForClones(lctx, w)
	if err == nil {
		defer conn.Close()
		for i, a := range clones {
			task.Detail("%s", a.HostPath)
			e.inspectClone(lctx, w, conn, a, fetch, &out[i])
		}
	}
	if ctx.Err() != nil {
		task.Fail()
		return nil, e.WithRerunHint(ctx.Err())
	}
	if err != nil {
		task.Fail()
		for i := range out {
			out[i].Why = "connecting to the VM failed: " + session.LastLine(err.Error())
		}
		return out, nil
	}
	task.Done()
	return out, nil
}

func (e Part) dialForClones(ctx context.Context, w *target.Target) (guest.Conn, error) {
	inst, err := e.State().Instance(w.Name)
	if err == nil && inst == nil {
		err = errors.New("aivm has no record of it")
	}
	if err != nil {
		return nil, err
	}
	t, done, err := e.GuestTarget(ctx, w, inst)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return e.DialGuest(ctx, t)
}

// inspectClone does the work of Inspect for one clone. Host git runs only if the repository passes
// the checks of every git mode command.
func (e Part) inspectClone(ctx context.Context, w *target.Target, conn guest.Conn, a share.Attachment, fetch bool, out *gitsync.CloneWork) {
	fail := func(err error) { out.Why = "the VM did not answer: " + session.LastLine(err.Error()) }
	cw := &target.Target{Store: w.Store, Name: w.Name, Libvirt: w.Libvirt, Folder: &a}
	pctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	answers, why := conn.Probe(pctx, append([]guest.Probe{Probe(cw)}, gitsync.OnlyProbes(a.GuestDst)...))
	answer, ok := answers["git"]
	if !ok {
		fail(cmp.Or(why, errors.New("the answer is empty")))
		return
	}
	g, err := gitsync.ParseGuest(answer)
	if err != nil {
		fail(err)
		return
	}
	h, f := gitsync.Host{}, &loop.Facts{Conn: conn}
	cw, problem := e.Find(ctx, cw)
	if problem == nil {
		c := *cw.Clone
		c.Strict, c.AnyHead = true, true
		c.Limits = gitsync.Limits{Quiet: time.Minute, Total: clonesLimit}
		cw = cw.WithClone(c)
		f.Progress = loop.NewProgress(cw)
		f.Clone.Guest = g
		Observe(ctx, cw, f)
		if problem = f.Clone.Host.Err; f.Clone.Host.Value.NoBranch {
			problem = nil // in a rebase the refs can still be compared
		}
	}
	canCompare := problem == nil
	if canCompare {
		out.Remote = f.Clone.Remote.Name
		if fetch && g.State == gitsync.Clone && len(gitsync.MovedBranches(f.Clone.Host.Value, g)) > 0 {
			if problem = e.beginGit(ctx, cw, f); problem == nil {
				problem = e.gitFetch(ctx, cw, f, e.peer(ctx, cw, f))
				f.Clone.Release()
				f.Clone.Release = nil
			}
			out.Fetched = append(out.Fetched, f.Clone.Result.Fetched...)
		}
		h, g = f.Clone.Host.Value, f.Clone.Guest
	}
	news := g.Heads
	if canCompare {
		news = gitsync.MovedBranches(h, g)
	}
	if out.Only, err = gitsync.FindOnly(ctx, h, canCompare, g, news, answers, why); err != nil {
		fail(err)
		return
	}
	switch {
	case g.State != gitsync.Clone:
	case !canCompare:
		out.Only.Incomplete = append(out.Only.Incomplete, "the clone could not be compared with "+a.HostPath+": "+problem.Error())
	case problem != nil:
		out.Only.Incomplete = append(out.Only.Incomplete, "its new commits could not be fetched: "+problem.Error())
	}
	out.Known, out.Why = true, ""
}

// probeTimeout bounds the time in which a guest reports what a clone has. A clone of many thousand
// files in an emulated guest takes long.
const probeTimeout = 3 * time.Minute

// BeforeDetach fetches the new commits of the clone of a folder that is to be detached, and asks
// for consent if work would stay only in the VM. It returns nil if the folder has no clone.
func (e Part) BeforeDetach(ctx context.Context, w *target.Target, a share.Attachment) (*gitsync.CloneWork, error) {
	if a.Mode != share.Git {
		return nil, nil
	}
	var d *virt.Domain
	why := ""
	if v, err := e.Libvirt(ctx); err != nil {
		why = "checking whether the VM runs failed: " + session.LastLine(err.Error())
	} else if d, err = v.Domain(ctx, w.Name); err != nil && !errors.Is(err, virt.ErrNotFound) {
		why = "checking whether the VM runs failed: " + session.LastLine(err.Error())
	}
	cs, err := e.Inspect(ctx, w, []share.Attachment{a}, cmp.Or(why, WhyUnreachable(d)), !e.DryRun)
	if err != nil || e.DryRun {
		return first(cs), err
	}
	c := first(cs)
	if !c.Known || !c.Only.Holds() {
		return c, e.askUnknown(ctx, a, c, d)
	}
	p := plan.Plan{Stage: plan.Host}
	p.Add(plan.Action{
		ID: "git.leave:" + a.Tag, Consent: plan.Ask, Shows: c.Lines(),
		Why: fmt.Sprintf("detach %s from VM %s and leave the work that exists only in its clone (%s)", a.HostPath, w.Name, strings.Join(c.Only.Lines(), "; ")),
	})
	if !e.InTTY || e.Approval.Yes {
		for _, s := range c.Lines() {
			e.UI.Say("%s", s) // otherwise the question shows it
		}
	}
	return c, e.AskConsent(ctx, p, nil)
}

func first(cs []gitsync.CloneWork) *gitsync.CloneWork {
	if len(cs) == 0 {
		return nil
	}
	return &cs[0]
}

// askUnknown asks for confirmation before a folder is detached from a VM that cannot be checked.
// Detaching loses nothing, so only an interactive user is asked.
func (e Part) askUnknown(ctx context.Context, a share.Attachment, c *gitsync.CloneWork, d *virt.Domain) error {
	if c.Known || d == nil || d.State == virt.Running || !e.InTTY || e.Approval.Yes {
		return nil
	}
	ok, err := e.UI.Confirm(ctx, fmt.Sprintf("Cannot check what exists only in the clone %s: %s. Detach anyway?", c.GuestDst, c.Why), true)
	if err != nil || ok {
		return err
	}
	return ui.NeedsApproval("nothing was changed").Hint(ui.Cmd("aivm vm up "+a.VM), ui.CmdFor("then", "aivm detach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM))
}
