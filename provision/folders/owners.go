package folders

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ownership"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// The mount of a folder maps its owner and the groups that the owner is in. Files of other
// users and groups belong to nobody in the guest, which can then not change them, whatever
// their mode (share.Folder.Groups).

// An UnmappedOwner is a user or group of files in a folder that a VM cannot change.
type UnmappedOwner struct {
	Folder string   `json:"folder"`
	Kind   string   `json:"kind"` // "user" or "group"
	ID     int      `json:"id"`
	Name   string   `json:"name,omitempty"`
	Files  int      `json:"files"`
	Paths  []string `json:"paths"` // the first few
}

// ObserveOwners searches a folder that is to be attached for files that the VM will not be
// able to change, once a run.
func (e Part) ObserveOwners(ctx context.Context, w *target.Target, f *loop.Facts) {
	if w.Folder == nil || !w.NewFolder || !w.Folder.Mode.Mounts() || f.Unmapped != nil {
		return
	}
	folder, ok := f.Share.Folders[w.Folder.HostPath]
	if !ok || folder.Err != nil || host.CannotMapOwners(folder.Type) {
		return
	}
	l, err := findUnmapped(ctx, *w.Folder, folder, f.Share.MappedGroups(*w.Folder))
	f.Unmapped = &plan.Known[ownership.List]{Value: l, Err: err}
}

// findUnmapped searches a folder for files of users and groups that its mount does not map.
func findUnmapped(ctx context.Context, a share.Attachment, folder share.Folder, groups []int) (ownership.List, error) {
	mapped := ownership.Ids{UIDs: root.OwnersOnDisk(folder.UID), GIDs: append(root.OwnersOnDisk(folder.GID), groups...)}
	return ownership.Find(ctx, a.HostPath, mapped)
}

// noteUnmapped adds a warning about the files of a new folder that the VM cannot change.
func (p *Planned) noteUnmapped(w *target.Target, f *loop.Facts) {
	if f.Unmapped == nil || w.Folder == nil {
		return
	}
	if err := f.Unmapped.Err; err != nil {
		p.Warn(ui.Clean(err.Error()))
		return
	}
	a, folder := *w.Folder, f.Share.Folders[w.Folder.HostPath]
	l := unmappedOwners(a, f.Unmapped.Value)
	if len(l) > 0 {
		p.Warn(fmt.Sprintf("%s; to give them to the owner of the folder: %s", unmappedText(a, l), chownUnmapped(a, folder, l)))
	}
}

// UnmappedOwners returns what noteUnmapped warns about, for JSON.
func UnmappedOwners(w *target.Target, f *loop.Facts) []UnmappedOwner {
	if f.Unmapped == nil || f.Unmapped.Err != nil || w.Folder == nil {
		return nil
	}
	return unmappedOwners(*w.Folder, f.Unmapped.Value)
}

func unmappedOwners(a share.Attachment, l ownership.List) []UnmappedOwner {
	var out []UnmappedOwner
	for _, u := range l.Unmapped {
		o := UnmappedOwner{Folder: a.HostPath, Kind: string(u.Kind), ID: u.ID, Name: u.Name, Files: u.Count, Paths: []string{}}
		for _, p := range u.Paths {
			o.Paths = append(o.Paths, strings.ToValidUTF8(p, "?"))
		}
		out = append(out, o)
	}
	return out
}

// unmappedText names the files that the VM cannot change and why.
func unmappedText(a share.Attachment, l []UnmappedOwner) string {
	var who []string
	for _, o := range l {
		name := strconv.Itoa(o.ID)
		if o.Name != "" {
			name = o.Name
		}
		more := ""
		if o.Files > len(o.Paths) {
			more = fmt.Sprintf(" and %d more", o.Files-len(o.Paths))
		}
		who = append(who, fmt.Sprintf("%s %s (%s%s)", o.Kind, name, ui.Some(o.Paths, len(o.Paths)), more))
	}
	return fmt.Sprintf("VM %s cannot change files of %s that belong to other users, or to groups that its owner is not in: %s", a.VM, ui.Clean(a.HostPath), ui.Some(who, namesShown))
}

// chownUnmapped returns the command that gives these files to the folder's owner and group.
// It works directory by directory (-execdir), so that a VM that writes the folder during it
// cannot lead it out of the folder through a link.
func chownUnmapped(a share.Attachment, folder share.Folder, l []UnmappedOwner) string {
	var tests []string
	for _, o := range l {
		tests = append(tests, map[string]string{"user": "-uid ", "group": "-gid "}[o.Kind]+strconv.Itoa(o.ID))
	}
	return fmt.Sprintf(`sudo find %s -xdev \( %s \) -execdir chown -h %d:%d {} +`, shellescape.Quote(a.HostPath), strings.Join(tests, " -o "), folder.UID, folder.GID)
}

// OwnersCheck names the files in the VM's folders that it cannot change because of their
// user or group; ok is false if there are none.
func (e Part) OwnersCheck(ctx context.Context, w *target.Target, f *loop.Facts, s StatusFacts) (c host.Check, all []UnmappedOwner, ok bool) {
	c = host.NewCheck("owners", "Files of other owners", host.Bad, "")
	if s.host.Err != nil {
		return c, nil, false
	}
	var notes []string
	running := f.Conn != nil || f.Running()
	for _, a := range s.atts {
		folder := s.host.Value.Folders[a.HostPath]
		if !a.Mode.Mounts() || a.State != share.Attached || folder.Err != nil || !s.host.Value.Mapped(a) {
			continue
		}
		mapped := s.host.Value.MappedGroups(a)
		found, err := findUnmapped(ctx, a, folder, mapped)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			notes = append(notes, err.Error())
			continue
		}
		l := unmappedOwners(a, found)
		all = append(all, l...)
		later, stay := splitUnmapped(l, folder.Groups)
		if len(later) > 0 && running {
			notes = append(notes, unmappedText(a, later)+"; it can once it was restarted, because the owner is in these groups now")
			if fix := "aivm vm restart " + w.Name; !slices.Contains(c.Fix, fix) {
				c.Fix = append(c.Fix, fix)
			}
		}
		if len(stay) > 0 {
			notes = append(notes, unmappedText(a, stay))
			c.Fix = append(c.Fix, chownUnmapped(a, folder, stay))
		}
	}
	c.Detail = strings.Join(notes, "; ")
	return c, all, len(notes) > 0
}

// splitUnmapped separates the groups that the next mount will map.
func splitUnmapped(l []UnmappedOwner, next []int) (later, stay []UnmappedOwner) {
	for _, o := range l {
		if o.Kind == string(ownership.Group) && slices.Contains(next, o.ID) {
			later = append(later, o)
		} else {
			stay = append(stay, o)
		}
	}
	return later, stay
}
