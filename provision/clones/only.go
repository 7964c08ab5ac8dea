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

// Work is what is known of the work in one clone, before it is deleted
// with its VM or left in it.
type Work struct {
	Folder   string            `json:"folder"`
	GuestDst string            `json:"guest_dst"`
	Remote   string            `json:"remote,omitempty"`
	Known    bool              `json:"known"`
	Why      string            `json:"why,omitempty"` // why it is not known
	Fetched  []gitsync.Fetched `json:"fetched"`       // by this run
	Only     gitsync.Only      `json:"only_in_vm"`
}

// Missed reports whether something may be lost with the clone.
func (c Work) Missed() bool { return !c.Known || c.Only.Holds() }

// Lines say it to a person; what a guest named is clean.
func (c Work) Lines() []string {
	var out []string
	if len(c.Fetched) > 0 {
		var names []string
		for _, f := range c.Fetched {
			names = append(names, f.Branch)
		}
		out = append(out, "fetched from it to refs/remotes/"+c.Remote+"/: "+ui.Some(names, 10))
	}
	only := c.Only.Lines()
	switch {
	case !c.Known:
		return append(out, "what only it has cannot be known: "+c.Why)
	case !c.Only.Holds():
		out = append(out, "all that is committed in it is here too")
	}
	for _, l := range only {
		out = append(out, "only there: "+l)
	}
	return out
}

func Missed(cs []Work) []Work {
	return slices.DeleteFunc(slices.Clone(cs), func(c Work) bool { return !c.Missed() })
}

// UnknownIn reports whether one of the clones could not be looked at.
func UnknownIn(cs []Work) bool {
	return slices.ContainsFunc(cs, func(c Work) bool { return !c.Known })
}

// MissedText names in one line what may be lost.
func MissedText(cs []Work) string {
	var out []string
	for _, c := range Missed(cs) {
		l := c.Only.Lines()
		if !c.Known {
			l = []string{"not known, " + c.Why}
		}
		out = append(out, fmt.Sprintf("clone %s of %s: %s", c.GuestDst, c.Folder, strings.Join(l, "; ")))
	}
	return strings.Join(out, "; ")
}

// SameWork reports whether the same was found to be lost twice, whatever the
// reasons for what could not be seen.
func SameWork(a, b []Work) bool {
	text := func(cs []Work) string {
		cs = Missed(cs)
		for i := range cs {
			cs[i].Fetched, cs[i].Why = nil, "" // it may give another reason each time
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

// Of are the clones a VM may have: of folders in git mode, and of those
// that were.
func (e Part) Of(w *target.Target) []share.Attachment {
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
	// cloneDial is how long a VM that runs may take to let us in.
	cloneDial = 45 * time.Second
	// clonesLimit bounds looking at all clones of a VM, fetching included: a
	// guest that hangs or dribbles keeps nobody from deleting it for long.
	clonesLimit = 10 * time.Minute
)

// WhyNotAsked says why a VM in this state cannot be asked, "" if it can.
func WhyNotAsked(d *virt.Domain) string {
	switch {
	case d == nil:
		return "libvirt does not have the VM"
	case d.State != virt.Running:
		return "the VM is " + cmp.Or(string(d.State), "not running")
	}
	return ""
}

// LookAt fetches, if fetch is set, what was committed in the clones, and
// asks the guest what only they have. why says that it cannot be asked. A guest
// that does not answer in time makes it unknown and is no error; that the person
// ended the run is one.
func (e Part) LookAt(ctx context.Context, w *target.Target, clones []share.Attachment, why string, fetch bool) ([]Work, error) {
	out := make([]Work, len(clones))
	for i, a := range clones {
		out[i] = Work{Folder: a.HostPath, GuestDst: a.GuestDst, Fetched: []gitsync.Fetched{}, Why: why}
	}
	if len(clones) == 0 || why != "" {
		return out, nil
	}
	lctx, cancel := context.WithTimeout(ctx, clonesLimit)
	defer cancel()
	task := e.UI.Task("looking at what only VM " + w.Name + " has")
	conn, err := e.dialForClones(lctx, w)
	if err == nil {
		defer conn.Close()
		for i, a := range clones {
			task.Detail("%s", a.HostPath)
			e.lookAtClone(lctx, w, conn, a, fetch, &out[i])
		}
	}
	if ctx.Err() != nil {
		task.Fail()
		return nil, e.Resume(ctx.Err())
	}
	if err != nil {
		task.Fail()
		for i := range out {
			out[i].Why = "the VM could not be asked: " + session.LastLine(err.Error())
		}
		return out, nil
	}
	task.Done()
	return out, nil
}

func (e Part) dialForClones(ctx context.Context, w *target.Target) (guest.Conn, error) {
	inst, err := e.State().Instance(w.Name)
	if err == nil && inst == nil {
		err = errors.New("what aivm knew of it is gone")
	}
	if err != nil {
		return nil, err
	}
	t, done, err := e.GuestTarget(ctx, w, inst)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, cloneDial)
	defer cancel()
	return e.DialGuest(ctx, t)
}

// lookAtClone is LookAt for one of them. Host git runs only in a
// repository it may run in, as for every verb of git mode.
func (e Part) lookAtClone(ctx context.Context, w *target.Target, conn guest.Conn, a share.Attachment, fetch bool, out *Work) {
	fail := func(err error) { out.Why = "the VM did not say: " + session.LastLine(err.Error()) }
	cw := &target.Target{Store: w.Store, Name: w.Name, Folder: &a}
	pctx, cancel := context.WithTimeout(ctx, guestAnswer)
	defer cancel()
	said, why := conn.Probe(pctx, append([]guest.Probe{Probe(cw)}, gitsync.OnlyProbes(a.GuestDst)...))
	answer, ok := said["git"]
	if !ok {
		fail(cmp.Or(why, errors.New("it answered nothing")))
		return
	}
	g, err := gitsync.ParseGuest(answer)
	if err != nil {
		fail(err)
		return
	}
	h, problem := gitsync.Host{}, e.Find(ctx, cw)
	if problem == nil {
		cw.Git.Strict, cw.Git.AnyHead, cw.Git.Guest = true, true, g
		cw.Git.Limits = gitsync.Limits{Quiet: time.Minute, Total: clonesLimit}
		Observe(ctx, cw)
		if problem = cw.Git.Host.Err; cw.Git.Host.Value.NoBranch {
			problem = nil // in a rebase the refs are as good
		}
	}
	comparable := problem == nil
	if comparable {
		out.Remote = cw.Git.Remote.Name
		f := &loop.Facts{Conn: conn}
		if fetch && g.State == gitsync.Clone && len(gitsync.News(cw.Git.Host.Value, g)) > 0 {
			if problem = e.beginGit(ctx, cw, f); problem == nil {
				problem = e.gitFetch(ctx, cw, e.peer(ctx, cw, f))
				cw.Git.Release()
				cw.Git.Release = nil
			}
			out.Fetched = append(out.Fetched, cw.Git.Result.Fetched...)
		}
		h, g = cw.Git.Host.Value, cw.Git.Guest
	}
	news := g.Heads
	if comparable {
		news = gitsync.News(h, g)
	}
	if out.Only, err = gitsync.FindOnly(ctx, h, comparable, g, news, said, why); err != nil {
		fail(err)
		return
	}
	switch {
	case g.State != gitsync.Clone:
	case !comparable:
		out.Only.Incomplete = append(out.Only.Incomplete, "it could not be compared with "+a.HostPath+": "+problem.Error())
	case problem != nil:
		out.Only.Incomplete = append(out.Only.Incomplete, "what was committed there could not be fetched: "+problem.Error())
	}
	out.Known, out.Why = true, ""
}

// guestAnswer is how long a guest may take to say what a clone has. A clone of
// many thousand files in an emulated guest takes its time.
const guestAnswer = 3 * time.Minute

// Say names what detach leaves in the VM. rm is only advised where nothing
// would be missed.
func (e Part) SayStays(a share.Attachment, c *Work) {
	at := fmt.Sprintf("The clone %s in VM %s", a.GuestDst, a.VM)
	back := "aivm attach " + shellescape.Quote(a.HostPath) + " --mode git --vm " + a.VM + " --guest-dst " + shellescape.Quote(a.GuestDst)
	switch {
	case c == nil || !c.Known:
		why := "it was not asked"
		if c != nil {
			why = c.Why
		}
		e.UI.Say("%s stays as it is, if there is one. What only it has cannot be known: %s", at, why)
		e.UI.Say("to have what it committed fetched: aivm vm up %s, then: %s", a.VM, back)
	case c.Only.Holds():
		e.UI.Say("%s stays as it is. Only it has what is named above; to go on with it: %s", at, back)
	default:
		for _, l := range c.Lines() {
			e.UI.Say("%s", l)
		}
		e.UI.Say("%s stays as it is; to remove it: ssh %s rm -rf %s", at, a.VM, shellescape.Quote(shellescape.Quote(a.GuestDst)))
	}
	e.UI.Say("What was fetched from it stays in refs/remotes/aivm-%s/ of %s", a.VM, a.HostPath)
}

// BeforeLeaving fetches what was committed in the clone of a folder that is to
// be detached, and asks about what stays in the VM alone. nil: the folder has no
// clone.
func (e Part) BeforeLeaving(ctx context.Context, w *target.Target, a share.Attachment) (*Work, error) {
	if a.Mode != share.Git {
		return nil, nil
	}
	var d *virt.Domain
	why := ""
	if v, err := e.Libvirt(ctx); err != nil {
		why = "whether the VM runs could not be seen: " + session.LastLine(err.Error())
	} else if d, err = v.Domain(ctx, w.Name); err != nil && !errors.Is(err, virt.ErrNotFound) {
		why = "whether the VM runs could not be seen: " + session.LastLine(err.Error())
	}
	cs, err := e.LookAt(ctx, w, []share.Attachment{a}, cmp.Or(why, WhyNotAsked(d)), !e.DryRun)
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
		Why: fmt.Sprintf("detach %s from VM %s and leave there what only its clone has (%s)", a.HostPath, w.Name, strings.Join(c.Only.Lines(), "; ")),
	})
	if !e.UI.InTTY || e.Approval.Yes {
		for _, s := range c.Lines() {
			e.UI.Say("%s", s) // else the question shows it
		}
	}
	return c, e.Approval.Consent(ctx, e.UI, p, nil, e.Rerun)
}

// KeepHints are commands that make what only a clone has part of a branch, which
// is fetched.
func (c Work) KeepHints(vm string) []string {
	var out []string
	in := func(what, line string) {
		out = append(out, what+": ssh "+vm+" "+shellescape.Quote("cd "+shellescape.Quote(c.GuestDst)+" && "+line))
	}
	if len(c.Only.Files) > 0 {
		// The guest may have no identity for git.
		in("to commit the files", "git add -A && git -c user.name="+vm+" -c user.email=agent@"+vm+" commit -m wip")
	}
	if len(c.Only.Stashes) > 0 {
		in("to make the newest stash a branch", "git branch kept-stash stash")
	}
	if len(c.Only.Commits) > 0 {
		in("to make a commit a branch", "git branch kept "+c.Only.Commits[0])
	}
	if len(c.Only.Inside)+len(c.Only.Refs)+len(c.Only.Incomplete)+c.Only.LFS > 0 {
		out = append(out, "to look at the rest: ssh "+vm)
	}
	return out
}

func first(cs []Work) *Work {
	if len(cs) == 0 {
		return nil
	}
	return &cs[0]
}

// askUnknown asks a person whether a folder is to be detached from a VM that
// cannot be asked. Nothing is lost by it, so nobody else is.
func (e Part) askUnknown(ctx context.Context, a share.Attachment, c *Work, d *virt.Domain) error {
	if c.Known || d == nil || d.State == virt.Running || !e.UI.InTTY || e.Approval.Yes {
		return nil
	}
	ok, err := e.UI.Confirm(ctx, fmt.Sprintf("What only the clone %s has cannot be known: %s. Detach all the same?", c.GuestDst, c.Why), true)
	if err != nil || ok {
		return err
	}
	return ui.NeedsApproval("nothing was changed").Hint("aivm vm up "+a.VM, "then: aivm detach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM)
}
