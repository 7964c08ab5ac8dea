package folders

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// Programs on the host may later run what a guest writes into a folder: Makefile,
// .git/config, .envrc. When a folder is attached for writing, aivm lists these
// host-executed files and records their checksums before the guest can access the
// folder. `aivm status` compares.

// namesShown is how many files a message names.
const namesShown = 8

// ObserveHostExecuted adds to the facts what the plans of new and of protected
// folders depend on. The files of a folder that is neither new nor in need of
// protection are not read.
func (e Part) ObserveHostExecuted(ctx context.Context, w *target.Target, f *loop.Facts) {
	for _, a := range f.Atts(w) {
		isNew := w.Folder != nil && a.HostPath == w.Folder.HostPath && (w.NewFolder || w.Reviewed && f.Checksums == nil)
		if !a.Exposes() || !isNew && !a.Protect || f.Share.Folders[a.HostPath].Err != nil {
			continue
		}
		var state share.ProtectionFacts
		if a.Protect {
			state.Err = f.Share.CheckProtection(e.Key(w.Name), a)
		}
		if isNew || state.Err != nil {
			l, err := hostexec.Scan(ctx, a.HostPath)
			seen := plan.Known[hostexec.List]{Value: l, Err: err}
			if isNew {
				f.HostExecuted = &seen
			}
			if state.Err != nil && err == nil {
				var unprotected []string
				if state.Paths, unprotected = share.Protected(l); len(unprotected) > 0 {
					e.WarnOnce(fmt.Sprintf(unprotectedNote, ui.Clean(a.HostPath), ui.Some(unprotected, namesShown)))
				}
			} else if err != nil {
				state.Err = err
			}
		}
		if a.Protect {
			f.Share = f.Share.WithProtection(share.Token(a.HostPath), state)
		}
	}
}

// unprotectedNote names the files of a folder that --protect does not cover.
const unprotectedNote = "not protected in %s, because they are symbolic links, have several hard links or are too many: %s"

// planChecksums plans to record the checksums of a new folder's host-executed
// files, before the guest can write them.
func (e Part) planChecksums(w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	if w.Folder == nil || f.HostExecuted == nil {
		return nil, nil
	}
	a, l := *w.Folder, f.HostExecuted.Value
	if f.HostExecuted.Err != nil {
		return nil, f.HostExecuted.Err
	}
	why := "record checksums of files your host runs in " + a.HostPath
	if n := ui.Clean(l.Names(namesShown)); n != "" {
		why += ": " + n
	}
	return []plan.Action{{
		ID: "share.seen:" + share.Token(a.HostPath), Why: why, Shows: []string{"write " + e.State().ChecksumsPath(a)}, Timing: "share",
		Do: func(context.Context) error {
			if err := e.State().SaveChecksums(a, l); err != nil {
				return err
			}
			f.Checksums = &l
			return nil
		},
	}}, nil
}

// PlanBeforeBoot plans the host mounts that must exist when the VM starts: those
// of folders with protected paths, which the guest could write from its start on,
// and those of folders in mode shared, whose own virtiofsd opens them at its start.
func (e Part) PlanBeforeBoot(w *target.Target, f *loop.Facts, skipped loop.Skipped) (Planned, error) {
	p := Planned{Skipped: skipped}
	var early []share.Attachment
	for _, a := range f.AttsWithout(w, skipped) {
		if a.Protect || a.Mode == share.Shared {
			early = append(early, a)
		}
	}
	if len(early) == 0 {
		return p, nil
	}
	isNew := func(a share.Attachment) bool { return w.NewFolder && w.Folder.HostPath == a.HostPath }
	as, err := share.PlanHost(f.Share, e.Key(w.Name), early, isNew)
	if err != nil {
		more, rest := splitErrors(w, err)
		p.skip(more)
		return p, rest
	}
	for _, act := range as {
		if b, ok := act.Root.(root.Bind); ok {
			act.ID = "share.arm:" + b.Token
			p.Add(act)
		}
	}
	return p, nil
}

// waitsForStart reports whether a folder is to be mounted on the host only when
// its VM starts: while the VM is off, the read-only mounts of protected paths
// would only get in the user's way.
func waitsForStart(w *target.Target, f *loop.Facts, a share.Attachment) bool {
	return a.Protect && f.Conn == nil && !f.Running() && !w.Boot
}

// ReportHostExecuted names, once, the host-executed files of a folder that was
// just attached for writing.
func (e Part) ReportHostExecuted(w *target.Target, f *loop.Facts) {
	if f.Checksums == nil || len(f.Checksums.Files)+len(f.Checksums.Dirs) == 0 || e.JSON {
		return
	}
	q := shellescape.Quote(w.Folder.HostPath) + " --vm " + w.Name
	if w.Folder.Protect {
		paths, _ := share.Protected(*f.Checksums)
		e.UI.Say("programs on this machine run files of %s; VM %s can only read them: %s", w.Folder.HostPath, w.Name, ui.Some(paths, namesShown))
		return
	}
	e.UI.Say("programs on this machine run files of %s, and VM %s can write them now: %s", w.Folder.HostPath, w.Name, ui.Clean(f.Checksums.Names(namesShown)))
	e.UI.Say("to see later what changed: aivm status --vm %s; to make them read-only in the VM: aivm attach %s --protect", w.Name, q)
}

// HostExecutedNames returns the paths of the host-executed files, for JSON.
func HostExecutedNames(f *loop.Facts) []string {
	if f.Checksums == nil {
		return nil
	}
	var out []string
	for _, file := range f.Checksums.Files {
		out = append(out, strings.ToValidUTF8(file.Path, "?"))
	}
	return out
}

// HostExecutedChange is a host-executed file that changed since its folder was
// attached.
type HostExecutedChange struct {
	Folder string `json:"folder"`
	Path   string `json:"path"`
	Change string `json:"change"` // "new", "changed", "gone", "mode", "link"
	Silent bool   `json:"silent"` // programs run it without the user asking: git hooks, editor tasks
}

// HostExecutedCheck compares the host-executed files of the VM's folders with the
// recorded checksums, and reports whether the protected ones are protected.
func (e Part) HostExecutedCheck(ctx context.Context, w *target.Target, f *loop.Facts, s StatusFacts) (host.Check, []HostExecutedChange) {
	c := host.NewCheck("executed", "Host-executed files", host.Skipped, "VM %s can write no folder with files that this machine runs", w.Name)
	var changes []HostExecutedChange
	var notes []string
	silent, looked, unknown := false, 0, false
	protect := func(a share.Attachment, now hostexec.List) {
		if !a.Protect {
			return
		}
		state, note, fixes := e.protectedState(w, f, s, a, now)
		silent, unknown = silent || state == host.Bad, unknown || state == host.Unknown
		if note != "" {
			notes = append(notes, note)
			c.Fix = append(c.Fix, fixes...)
		}
	}
	leads := e.leads(s.atts)
	for _, a := range s.atts {
		if !a.Exposes() || a.State != share.Attached {
			continue
		}
		found := leads[a.HostPath]
		if found.Cut != "" {
			notes = append(notes, target.SearchCutShort(a.HostPath, found))
		}
		if acts := found.HostExecuted; len(acts) > 0 {
			silent = true
			notes = append(notes, fmt.Sprintf("this machine runs files of %s by itself: %s", a.HostPath, share.NameLeads(acts)))
			q := shellescape.Quote(a.HostPath) + " --vm " + w.Name
			c.Fix = append(c.Fix, "aivm detach "+q, "aivm attach "+q+" --access ro")
		}
		fix := "aivm attach " + shellescape.Quote(a.HostPath) + " --vm " + w.Name
		then, err := e.State().ChecksumFiles(a)
		if errors.Is(err, fs.ErrNotExist) {
			unknown = true
			notes = append(notes, fmt.Sprintf("no checksums are recorded for %s", a.HostPath))
			c.Fix = append(c.Fix, fix+" --reviewed")
			protect(a, hostexec.List{})
			continue
		}
		var now hostexec.List
		if err == nil {
			now, err = hostexec.Scan(ctx, a.HostPath)
		}
		if err != nil {
			unknown = true
			notes = append(notes, err.Error())
			protect(a, hostexec.List{})
			continue
		}
		looked++
		ds := hostexec.Diff(then, now)
		for _, d := range ds {
			silent = silent || d.Kind == hostexec.Silent
			changes = append(changes, HostExecutedChange{a.HostPath, strings.ToValidUTF8(d.Path, "?"), d.What, d.Kind == hostexec.Silent})
		}
		if len(ds) > 0 {
			slices.SortStableFunc(ds, func(x, y hostexec.Change) int { return kindOrder(x.Kind) - kindOrder(y.Kind) })
			var names []string
			for _, d := range ds {
				names = append(names, d.Path+" ("+d.What+")")
			}
			notes = append(notes, fmt.Sprintf("changed in %s since it was attached, by the VM or by you: %s", a.HostPath, ui.Some(names, namesShown)))
			c.Fix = append(c.Fix, fix+" --reviewed")
		}
		if now.Cut != "" {
			notes = append(notes, fmt.Sprintf("not all of %s was searched: %s", a.HostPath, ui.Clean(now.Cut)))
		}
		protect(a, now)
	}
	switch {
	case silent:
		c.State = host.Bad
	case unknown:
		c.State = host.Unknown
	case looked > 0:
		c.State, c.Detail = host.OK, "no file changed since the folders were attached"
	}
	if len(notes) > 0 {
		c.Detail = strings.Join(notes, "; ")
	}
	return c, changes
}

// kindOrder sorts changes: those that run silently come first.
func kindOrder(k hostexec.Kind) int {
	if k == hostexec.Silent {
		return 0
	}
	return 1
}
