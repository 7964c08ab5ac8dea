package share

import (
	"cmp"
	_ "embed"
	"fmt"
	"path"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root/mountinfo"
)

//go:embed head.sh
var headText string

// guestHead defines what the guest script's lines call. It is run by guest
// root with sh -s; nothing in it reads stdin. What cannot be done is one line
// "aivm-share-error REASON TOKEN PATH" each, TOKEN "-" for a path that several
// folders have in common; the folders it does not concern go on.
//
// In an emulated guest each program costs some 50 ms: with many folders there
// is one stat, one mount and otherwise what the shell does itself.
var guestHead = places.Replace(headText)

// PlanGuest returns one shell script, to be run by guest root, that mounts the
// device and every folder of atts that is not yet showsFolder, and leaves the list of
// them for the guest's next boot; and the same as steps for people (their Do is
// nil: the script does them all). Both are empty when nothing is to be done.
// Running it again is harmless.
func PlanGuest(f GuestFacts, host HostFacts, atts []Attachment) (script string, steps []plan.Action, err error) {
	if err := check(atts); err != nil {
		return "", nil, err
	}
	for _, a := range atts {
		if _, ok := host.Folders[a.HostPath]; !ok {
			return "", nil, fmt.Errorf("share: folder %s was not observed", a.HostPath)
		}
	}
	atts = host.usable(atts)
	g := guestPlan{f: f, host: host, atts: atts}
	for _, a := range atts {
		moved := slices.ContainsFunc(g.mount, func(p Attachment) bool { return below(a.GuestDst, p.GuestDst) })
		if !moved && Verify(f, host, a) == nil {
			continue
		}
		g.todo = append(g.todo, a)
		if moved || !g.rightlyMounted(a) {
			g.mount = append(g.mount, a)
		}
	}
	links := g.links()
	list := bootList(atts)
	newList := f.needsList(list, atts)
	if len(g.todo) == 0 && len(links) == 0 && !newList {
		return "", nil, nil
	}
	// One function, called on the last line: a script cut off on its way
	// does nothing at all.
	g.line("main() {")
	if len(g.todo) > 0 {
		g.mountAll()
	}
	for _, a := range links {
		g.line("own %s", quoteAll(g.guestDirs(path.Dir(a.typed()), a.GuestDst)))
		g.line("link %s %s", quote(a.typed()), quote(a.GuestDst))
	}
	if newList {
		list.maxInodes = inodeLimit(host.OpenFiles)
		g.line("%s", list.install())
	}
	g.line("return $bad\n}\nmain")
	return guestHead + g.b.String(), g.steps(newList, links), nil
}

// usable are the folders that can be shared, parents before children: the other
// way round the parent would hide them. One that cannot was named by PlanHost;
// the others go on.
func (f HostFacts) usable(atts []Attachment) []Attachment {
	out := slices.DeleteFunc(slices.Clone(atts), func(a Attachment) bool { return f.Folders[a.HostPath].Err != nil })
	slices.SortFunc(out, func(a, b Attachment) int {
		return cmp.Or(len(pathDirs(a.GuestDst))-len(pathDirs(b.GuestDst)), strings.Compare(a.GuestDst, b.GuestDst))
	})
	return out
}

// lists reports whether the guest's list has to be written for atts.
func (f GuestFacts) needsList(l list, atts []Attachment) bool {
	return l.mark != f.List && (len(atts) > 0 || f.List != "")
}

// guestPlan writes the lines of one guest script.
type guestPlan struct {
	f          GuestFacts
	host       HostFacts
	atts, todo []Attachment // todo: what is not as it should be
	mount      []Attachment // of that, what is not mounted rightly
	b          strings.Builder
}

func (g *guestPlan) line(format string, args ...any) { fmt.Fprintf(&g.b, format+"\n", args...) }

// mountAll writes what mounts the folders of todo, level by level: a folder in
// another one can be looked at only when that is mounted.
func (g *guestPlan) mountAll() {
	var devices []string
	all := false
	for _, a := range g.mount {
		if a.Mode == Shared {
			devices = append(devices, Token(a.HostPath))
		}
		all = all || a.Mode != Shared
	}
	if top := mountinfo.At(g.f.Mounts, ExportMount); (all || len(g.mount) == 0) && (len(top) == 0 || top[len(top)-1].Type != "virtiofs" || top[len(top)-1].Source != FSTag) {
		g.line("device")
	}
	if len(devices) > 0 {
		g.line("plug %s", strings.Join(devices, " "))
	}
	for _, a := range slices.Backward(g.mount) {
		if len(mountinfo.At(g.f.Mounts, a.GuestDst)) > 0 {
			g.line("drop %s %s %s", Token(a.HostPath), quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst)))
		}
	}
	var want, tokens []string
	for _, a := range g.mount {
		p := a.from()
		want, tokens = append(want, fmt.Sprintf("%d %s", g.host.Folders[a.HostPath].Ino, p)), append(tokens, p)
	}
	if len(tokens) > 0 {
		g.line("await %s %s", quote(strings.Join(want, "\n")), strings.Join(tokens, " "))
	}
	done := map[string]bool{}
	for rest := g.todo; len(rest) > 0; {
		var now, later []Attachment
		for _, a := range rest {
			if slices.ContainsFunc(rest, func(p Attachment) bool { return below(a.GuestDst, p.GuestDst) }) {
				later = append(later, a)
			} else {
				now = append(now, a)
			}
		}
		var own, walk []string
		for _, a := range now {
			for _, d := range g.guestDirs(a.GuestDst, a.GuestDst) {
				if done[d] {
					continue
				}
				done[d] = true
				own = append(own, quote(d))
				if d != a.GuestDst && !g.walkable(d) {
					walk = append(walk, quote(d))
				}
			}
		}
		if len(own) > 0 {
			g.line("own %s", strings.Join(own, " "))
		}
		if len(walk) > 0 {
			g.line("pass %s", strings.Join(walk, " "))
		}
		for _, a := range now {
			if slices.Contains(g.mount, a) {
				g.oneFolder(a)
			}
		}
		g.line("mounts")
		rest = later
	}
}

func (g *guestPlan) oneFolder(a Attachment) {
	token := Token(a.HostPath)
	before := ""
	if in := g.sharedDirs(a.GuestDst); len(in) > 0 {
		before = fmt.Sprintf("theirs %s %s && ", token, quoteAll(in))
	} else {
		for _, d := range pathDirs(a.GuestDst) {
			before += fmt.Sprintf("! iswrong %s && ", quote(d))
		}
	}
	g.line("%sfolder %s %s %s %d %s", before, token, quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst)), g.host.Folders[a.HostPath].Ino, a.from())
}

// rightlyMounted reports whether what is mounted for a is the showsFolder folder, so that
// only the way to it is in need of mending. Where the guest's user could not
// look, the mount table has to do.
func (g *guestPlan) rightlyMounted(a Attachment) bool {
	at, way := mountinfo.At(g.f.Mounts, a.GuestDst), g.f.PathDirs[Token(a.HostPath)]
	if len(at) == 0 || len(way) == 0 || !g.f.showsFolder(a, at[len(at)-1]) {
		return false
	}
	last := way[len(way)-1]
	return last.Hidden || last.Ino == g.host.Folders[a.HostPath].Ino
}

// guestDirs are the directories on the way to p that are the guest's own; the
// place of another folder is left to that.
func (g *guestPlan) guestDirs(p, dst string) []string {
	var out []string
	for _, d := range pathDirs(p) {
		if slices.ContainsFunc(g.atts, func(o Attachment) bool { return o.GuestDst != dst && below(d, o.GuestDst) }) {
			break
		}
		if d == p || !slices.ContainsFunc(g.atts, func(o Attachment) bool { return d == o.GuestDst }) {
			out = append(out, d)
		}
	}
	return out
}

// sharedDirs are those that lie in another attached folder: the host's.
func (g *guestPlan) sharedDirs(dst string) []string {
	var out []string
	for _, d := range pathDirs(dst) {
		if slices.ContainsFunc(g.atts, func(o Attachment) bool { return below(d, o.GuestDst) }) {
			out = append(out, d)
		}
	}
	return out
}

// passed reports whether the probe saw the guest's user walk through d.
func (g *guestPlan) walkable(d string) bool {
	for _, a := range g.atts {
		for i, name := range pathDirs(a.GuestDst) {
			if way := g.f.PathDirs[Token(a.HostPath)]; name == d && i < len(way) {
				return way[i].There && way[i].CanWalk
			}
		}
	}
	return false
}

// links are the folders whose typed path is missing in the guest. One where
// something else lies is left alone, and so is one inside a shared folder,
// which shows the host's own link.
func (g *guestPlan) links() []Attachment {
	var out []Attachment
	for _, a := range g.atts {
		t, token := a.typed(), Token(a.HostPath)
		if t == "" || g.f.Same[token] || g.f.Typed[token].There || len(g.sharedDirs(t)) > 0 {
			continue
		}
		out = append(out, a)
	}
	return out
}

func quoteAll(ps []string) string {
	var q []string
	for _, p := range ps {
		q = append(q, quote(p))
	}
	return strings.Join(q, " ")
}

// from is where in the guest the folder can be bound from.
func (a Attachment) from() string { return path.Join(ExportMount, a.rel()) }

// rel is the same, seen from where the device of all folders is mounted.
func (a Attachment) rel() string {
	if a.Mode == Shared {
		return "../" + path.Base(OwnMounts) + "/" + Token(a.HostPath)
	}
	return Token(a.HostPath)
}

// steps is the script for people.
func (g *guestPlan) steps(newList bool, links []Attachment) []plan.Action {
	var out []plan.Action
	if n := len(g.todo); n > 0 {
		a := g.todo[0]
		act := plan.Action{
			ID: "guest.mount:" + Token(a.HostPath), Consent: plan.None, Timing: "share",
			Why: fmt.Sprintf("mount folder %s at %s in VM %s", a.HostPath, a.GuestDst, a.VM),
		}
		if n > 1 {
			act.ID, act.Why = "guest.mount", fmt.Sprintf("mount %d folders in VM %s", n, a.VM)
		}
		for _, a := range g.todo {
			act.Shows = append(act.Shows, "mount --bind "+a.from()+" "+quote(a.GuestDst))
		}
		out = append(out, act)
	}
	if newList && len(out) == 0 {
		out = append(out, plan.Action{ID: "guest.list", Why: "tell the VM which folders to mount when it starts", Shows: []string{"write " + bootListPath + " (in the guest)"}, Timing: "share"})
	}
	if len(out) == 0 {
		out = append(out, plan.Action{ID: "guest.link", Why: "make " + links[0].Typed + " lead to the folder in the VM", Shows: []string{"ln -s " + quote(links[0].GuestDst) + " " + quote(links[0].Typed)}, Timing: "share"})
	}
	return out
}
