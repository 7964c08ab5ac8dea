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

// guestHead defines the shell functions that the guest script calls. Guest root runs the
// script with sh -s; nothing in it reads stdin. Each failure prints one line
// "aivm-share-error REASON TOKEN PATH", with TOKEN "-" for a path that several folders
// have in common; the other folders are still mounted.
//
// In an emulated guest each program takes some 50 ms. So the script starts one stat and
// one mount, however many folders there are, and otherwise uses builtins of the shell.
var guestHead = places.Replace(headText)

// PlanGuest returns one shell script, to be run by guest root, that mounts the device
// and every folder of atts that is not mounted as it should be, and writes the list for
// the guest's next boot. It also returns the same as actions for people; their Do is
// nil, since the script does the work of all of them. Both are empty if nothing is to be
// done. The script can be run again without harm.
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
	list := bootList(atts, host.guestGroups(atts))
	newList := f.needsList(list, atts)
	if len(g.todo) == 0 && len(links) == 0 && !newList {
		return "", nil, nil
	}
	// One function, called on the last line: a script that arrives incomplete does
	// nothing at all.
	g.line("main() {")
	if len(g.todo) > 0 {
		g.mountAll()
	}
	for _, a := range links {
		g.line("make_dirs %s", quoteAll(g.guestDirs(path.Dir(a.typed()), a.GuestDst)))
		g.line("link %s %s", quote(a.typed()), quote(a.GuestDst))
	}
	if newList {
		list.maxInodes = inodeLimit(host.OpenFiles)
		g.line("%s", list.install())
	}
	g.line("return $bad\n}\nmain")
	return guestHead + g.b.String(), g.steps(newList, links), nil
}

// usable returns the folders that can be shared, parents before children: a parent
// mounted later would hide its children. PlanHost returns the errors of the others.
func (f HostFacts) usable(atts []Attachment) []Attachment {
	out := slices.DeleteFunc(slices.Clone(atts), func(a Attachment) bool { return f.Folders[a.HostPath].Err != nil })
	slices.SortFunc(out, func(a, b Attachment) int {
		return cmp.Or(len(pathDirs(a.GuestDst))-len(pathDirs(b.GuestDst)), strings.Compare(a.GuestDst, b.GuestDst))
	})
	return out
}

// needsList reports whether the guest's boot list has to be written for atts.
func (f GuestFacts) needsList(l list, atts []Attachment) bool {
	return l.mark != f.List && (len(atts) > 0 || f.List != "")
}

// guestPlan writes the lines of one guest script.
type guestPlan struct {
	f          GuestFacts
	host       HostFacts
	atts, todo []Attachment // todo: those that need anything done
	mount      []Attachment // those of todo that have to be mounted
	b          strings.Builder
}

func (g *guestPlan) line(format string, args ...any) { fmt.Fprintf(&g.b, format+"\n", args...) }

// mountAll writes the lines that mount the folders of todo, level by level: a folder
// inside another one can be checked only after that is mounted.
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
		g.line("mount_devices %s", strings.Join(devices, " "))
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
			g.line("make_dirs %s", strings.Join(own, " "))
		}
		if len(walk) > 0 {
			g.line("allow_walk %s", strings.Join(walk, " "))
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

// oneFolder writes the line that mounts one folder, guarded by checks of its guest path.
func (g *guestPlan) oneFolder(a Attachment) {
	token := Token(a.HostPath)
	before := ""
	if in := g.sharedDirs(a.GuestDst); len(in) > 0 {
		before = fmt.Sprintf("check_shared %s %s && ", token, quoteAll(in))
	} else {
		for _, d := range pathDirs(a.GuestDst) {
			before += fmt.Sprintf("! iswrong %s && ", quote(d))
		}
	}
	g.line("%sfolder %s %s %s %d %s", before, token, quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst)), g.host.Folders[a.HostPath].Ino, a.from())
}

// rightlyMounted reports whether the right folder is mounted for a, so that only the
// directories above it have to be fixed. Where the guest's user has no access, only the
// mount table is checked.
func (g *guestPlan) rightlyMounted(a Attachment) bool {
	at, way := mountinfo.At(g.f.Mounts, a.GuestDst), g.f.PathDirs[Token(a.HostPath)]
	if len(at) == 0 || len(way) == 0 || !g.f.showsFolder(a, at[len(at)-1]) {
		return false
	}
	last := way[len(way)-1]
	return last.Hidden || last.Ino == g.host.Folders[a.HostPath].Ino
}

// guestDirs returns the directories of p that belong to the guest, up to the first one
// inside another folder. Guest paths of other folders are left out: the script makes
// them for that folder.
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

// sharedDirs returns the directories of dst that lie in another attached folder and so
// belong to the host.
func (g *guestPlan) sharedDirs(dst string) []string {
	var out []string
	for _, d := range pathDirs(dst) {
		if slices.ContainsFunc(g.atts, func(o Attachment) bool { return below(d, o.GuestDst) }) {
			out = append(out, d)
		}
	}
	return out
}

// walkable reports whether, by the probe, the guest's user may access d.
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

// links returns the folders whose link at the typed path is missing in the guest. A
// typed path where something else exists is left as it is, and so is one inside a shared
// folder, which shows the host's link.
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

// from returns the path in the guest from which the folder is bind-mounted.
func (a Attachment) from() string { return path.Join(ExportMount, a.rel()) }

// rel returns the same path relative to ExportMount.
func (a Attachment) rel() string {
	if a.Mode == Shared {
		return "../" + path.Base(OwnMounts) + "/" + Token(a.HostPath)
	}
	return Token(a.HostPath)
}

// steps describes the script as actions.
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
		out = append(out, plan.Action{ID: "guest.list", Why: "write the list of folders that the VM mounts when it boots", Shows: []string{"write " + bootListPath + " (in the guest)"}, Timing: "share"})
	}
	if len(out) == 0 {
		out = append(out, plan.Action{ID: "guest.link", Why: "link " + links[0].Typed + " to the folder in the VM", Shows: []string{"ln -s " + quote(links[0].GuestDst) + " " + quote(links[0].Typed)}, Timing: "share"})
	}
	return out
}
